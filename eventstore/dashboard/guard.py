"""What every request passes first: its host, where it was made, who makes it. And what every answer carries."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from eventstore.analytics.marking import leave_out
from eventstore.dashboard.addresses import root_of
from eventstore.dashboard.refusals import Refused, refused
from eventstore.dashboard.security import HEADERS, SCOPES, Scope, Tokens, host_allowed, is_loopback, made_elsewhere
from eventstore.dashboard.sessions import Attempts, Session, Sessions

__all__ = ["Guard", "Visit", "address", "cookie_name", "is_secure", "path_of", "too_many", "visit_of", "wants_json"]

log = logging.getLogger(__name__)

OPEN = ("static", "login")
"""What needs no sign-in: one has to be able to read the page that asks for it."""

_STATE = "eventstore.dashboard.visit"

Identify = Callable[[Request], str | Awaitable[str | None] | None]


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks.

    Attributes:
        who: a name; None: nobody is asked for one.
        scope: what is allowed; None: nothing, for nobody signed in.
        session: of the cookie.
        bearer: by a token in the header, as programs do. Browsers do not send that by themselves.
    """

    who: str | None
    scope: Scope | None
    session: Session | None
    bearer: bool = False

    def allows(self, scope: Scope) -> bool:
        """Whether what needs *scope* is allowed."""
        return self.scope is not None and SCOPES.index(self.scope) >= SCOPES.index(scope)


def visit_of(request: Request) -> Visit:
    """Return who asks, as `Guard` found out."""
    visit = request.scope[_STATE]
    assert isinstance(visit, Visit)
    return visit


class Guard:
    """Middleware around everything the dashboard answers.

    Args:
        answer: makes a page, or JSON, of a refusal.
        secure: a proxy speaks TLS with everybody.
        hosts: names that requests may be for, beside loopback.
        identify: the host application's own word about who asks, in place of tokens.
        local_only: without either, only who asks from this machine's loopback address.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        answer: Callable[[Request, Refused], Response],
        sessions: Sessions,
        tokens: Tokens,
        attempts: Attempts,
        hosts: Collection[str] = (),
        secure: bool = False,
        identify: Identify | None = None,
        local_only: bool = False,
    ) -> None:
        self._app, self._answer = app, answer
        self._sessions, self._tokens, self._attempts = sessions, tokens, attempts
        self._hosts, self._secure, self._identify = hosts, secure, identify
        self._local_only, self._told_of_identify = local_only, False

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            leave_out(scope)  # whoever looks at the figures is no visitor of the application
            await self._http(Request(scope, receive), receive, _Answer(send))

    async def _http(self, request: Request, receive: Receive, send: _Answer) -> None:
        try:
            self._check_place(request)
            visit = await self._visit(request)
            request.scope[_STATE] = visit
            _check_scope(request, visit)
            await self._app(request.scope, receive, send)
        except ClientDisconnect:  # nobody is there to be answered
            return
        except Exception as error:  # whatever it is, nothing of it is shown
            refusal = refused(error)
            if refusal.status == 500:
                log.exception("%s %s failed", request.method, request.url.path)
            if send.started:
                raise
            request.scope.setdefault(_STATE, Visit(None, None, None))
            await self._answer(request, refusal)(request.scope, receive, send)

    def _check_place(self, request: Request) -> None:
        headers, server = request.headers, request.scope.get("server")
        if not host_allowed(headers.get("host", ""), self._hosts, str(server[0]) if server else None):
            raise Refused(
                421,
                "HostNotAllowed",
                "this host name is not one the dashboard is told to answer to; name it with --allow-host, or hosts=",
            )
        if self._local_only and not is_loopback(address(request) or ""):
            raise Refused(
                403,
                "NotAllowed",
                "without a sign-in only this machine is let in: give the dashboard tokens or identify, or open_to_all",
            )
        kind = _kind(request)
        reading = request.method in ("GET", "HEAD", "OPTIONS")
        if reading and kind != "live":
            _check_embedding(headers)
            return
        if (why := made_elsewhere(headers, request.scope["scheme"])) is not None:
            raise Refused(403, "CrossOrigin", f"this request was made by another site: {why}")

    # -- who

    async def _visit(self, request: Request) -> Visit:
        session = self._sessions.load(request.cookies.get(cookie_name(request)))
        if self._identify is not None:
            who = await self._identified(self._identify, request)
            return Visit(who, None if who is None else "act", session)
        if not self._tokens:
            return Visit(None, "act", session)
        name = None if session is None else session.name
        if session is not None and name is not None and self._tokens.fingerprint(name) == session.fingerprint:
            # Whatever else is in the header: a proxy may have put its own sign-in there.
            return Visit(name, self._tokens.by_name[name].scope, session)
        if (secret := _bearer(request)) is not None:
            return self._by_token(request, secret)
        return Visit(None, None, session if name is None else None)

    async def _identified(self, identify: Identify, request: Request) -> str | None:
        """Return who the application says it is. Whatever is not clearly a name lets nobody in."""
        try:
            who: object = identify(request)
            if inspect.isawaitable(who):
                who = await who
        except HTTPException as error:  # as applications refuse, or lead to where one signs in
            raise Refused(error.status_code, "NotAllowed", str(error.detail), headers=error.headers) from None
        if who is None or (isinstance(who, str) and who.strip()):
            return who
        if not self._told_of_identify:
            self._told_of_identify = True
            found = "a name without a letter" if isinstance(who, str) else type(who).__name__
            log.error("identify has to return a name, or None; it returned %s, which is refused", found)
        return None

    def _by_token(self, request: Request, secret: str) -> Visit:
        where, name = address(request), self._tokens.match(secret)
        fingerprint = None if name is None else self._tokens.fingerprint(name)
        if name is None and _kind(request) in OPEN:
            return Visit(None, None, None)
        wait = self._attempts.wait(where, fingerprint)
        if name is None:
            self._attempts.failed(where)
        if wait > 0:
            raise too_many(wait)
        if name is None:
            asks = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Refused(401, "Unauthenticated", "this token is not known", headers=asks)
        self._attempts.right(where, fingerprint)
        return Visit(name, self._tokens.by_name[name].scope, None, bearer=True)


def _bearer(request: Request) -> str | None:
    """Return the token in the header; None: there is none. Other kinds are a proxy's, and none of ours."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def _kind(request: Request) -> str:
    return path_of(request.scope).split("/")[0]


def _check_embedding(headers: Mapping[str, str]) -> None:
    """Refuse to be loaded into a page of another site, as an image is; links from there are fine."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    if site not in ("same-origin", "none") and mode != "navigate":
        raise Refused(403, "CrossOrigin", "this request was made by another site, and is no link to a page")


def _check_scope(request: Request, visit: Visit) -> None:
    kind = _kind(request)
    if kind in OPEN:
        return
    if visit.scope is None:
        raise Refused(401, "Unauthenticated", "sign in first", headers={"www-authenticate": "Bearer"})
    if not visit.allows("metrics" if kind == "metrics" else "read"):
        raise Refused(403, "NotAllowed", "this token is for metrics only")


def too_many(wait: float) -> Refused:
    """Return the refusal of somebody who has failed to sign in too often."""
    seconds = int(wait) + 1
    message = f"signing in failed too often from here; try again in {seconds} seconds"
    return Refused(429, "TooManyAttempts", message, headers={"retry-after": str(seconds)})


def path_of(scope: MutableMapping[str, Any]) -> str:
    """Return the path below where the dashboard is mounted, without a slash before it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(root.rstrip("/") + "/")):
        path = path[len(root.rstrip("/")) :]
    return path.removeprefix("/")


def address(request: Request) -> str | None:
    """Return the client's address, as the server tells it."""
    return request.client.host if request.client else None


def is_secure(request: Request, behind_tls_proxy: bool) -> bool:
    """Whether the browser speaks TLS, be it with a proxy."""
    return behind_tls_proxy or request.scope["scheme"] == "https"


def cookie_name(request: Request, what: str = "session") -> str:
    """Return a cookie's name: with the port, which browsers do not tell cookies apart by.

    And with what tells dashboards of one host apart: those at ``/`` and at ``/eu`` both get each other's cookies.
    """
    port, root = request.headers.get("host", "").rpartition(":")[2], root_of(request.scope)
    place = f"-{hashlib.sha256(root.encode()).hexdigest()[:8]}" if root else ""
    return f"eventstore-{what}{place}" + (f"-{port}" if port.isdigit() and port.isascii() else "")


def wants_json(request: Request) -> bool:
    """Whether a program asks, rather than a person in a browser."""
    if (asked := request.query_params.get("format")) is not None:
        return asked == "json"
    accept = request.headers.get("accept", "")
    asks = _bearer(request) is not None or any(kind in accept for kind in ("application/json", "text/event-stream"))
    return "text/html" not in accept and asks


class _Answer:
    """Sends with the headers that every answer has."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await self._send(message)
