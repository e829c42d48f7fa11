"""`RequestTracker`: ASGI middleware that tells of every request, and changes nothing but two cookies."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from eventstore.analytics.addresses import Network, address_hash, first_hop, networks, trusted
from eventstore.analytics.cookies import next_view, set_cookies
from eventstore.analytics.logs import RequestLog
from eventstore.analytics.marking import MARK
from eventstore.errors import ConfigurationError
from eventstore.events import uuid7
from eventstore.lifecycle.families import Losses

__all__ = ["ASGIApp", "Exchange", "Message", "Paths", "Receive", "RequestTracker", "Requests", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_USER = re.compile(r"^([^/]*//)[^/]*@")

FAILED, LEFT = 500, 499
"""What is recorded of an application that raised, or ended without an answer; and of a client that left before one."""

ASKED_AFTER = 0.05
"""Seconds after which the server is asked, as an answer begins, whether the client is still there. For an answer that
was faster it would cost more than it tells."""

ANSWERS_WITHIN = 1.0
"""Seconds in which a server is expected to give up a `receive` that was cancelled."""


class Requests(Protocol):
    """Where the tracker tells of requests: a `RequestPubSub`."""

    async def broadcast(self, log: RequestLog) -> None:
        """Tell of a request."""


class RequestTracker:
    """Middleware around an ASGI application, whatever made it.

    Each HTTP request is broadcast as a `RequestLog` as soon as its answer has been handed to the server. Websockets and
    the lifespan pass through, and so do requests that a tracker further out records: of several the outermost does.
    Answers stream as they did; each gets the cookies ``pa_session_id`` and ``pa_page_views``, which end five minutes
    after the last request.

    If the application raises, the request is recorded with status 500 and the error goes on. Without an answer it is
    500 as well, and 499 if the client left, or the server cancelled the request, before there was one. A client that
    leaves in the middle of an answer got the status of that. Servers do not tell applications that the client left, and
    take their answer all the same; so if one begins more than 50 ms after the request, the server is asked.

    Whatever fails here is counted in `failures`, logged once a minute, and changes no answer.

    Args:
        app: the application.
        requests: a `RequestPubSub`.
        address_key: the secret that client addresses are hashed with; the same on all nodes.
        trusted_proxies: addresses and networks, such as ``10.0.0.0/8``, whose ``X-Forwarded-For`` is believed: its
            first address is the client's. The outermost of them has to replace what clients send there, not add to it.
        exclude: paths that pass untouched, each with all below it: ``/health`` is ``/health/live``, not ``/healthy``.

    Raises:
        ConfigurationError: the key is empty, a proxy is no address, or a path does not begin with ``/`` and a name.
    """

    def __init__(
        self,
        app: ASGIApp,
        requests: Requests,
        *,
        address_key: bytes | str,
        trusted_proxies: Iterable[str | Network] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        self._app, self._requests = app, requests
        self._hashed = address_hash(address_key)
        self._proxies = networks(trusted_proxies)
        self._is_proxy = trusted(self._proxies)
        self._excluded = Paths(exclude)
        self._failures = Losses("request analytics: a request was not recorded (%d until now): %s")

    @property
    def failures(self) -> int:
        """How many requests were not recorded because something failed."""
        return self._failures.count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        if scope["type"] != "http" or MARK in scope or scope.get("path") in self._excluded:
            await self._app(scope, receive, send)
            return
        await Exchange(scope, receive, send, self.record, self._failed).follow(self._app)

    async def record(self, exchange: Exchange) -> None:
        """Tell of *exchange*; never fails."""
        try:
            await self._requests.broadcast(self._log(exchange))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the application
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._failures.add(f"{type(error).__name__}: {error}")

    def _log(self, exchange: Exchange) -> RequestLog:
        agent = exchange.agent
        return RequestLog(
            request_id=uuid7(),
            method=exchange.method,
            path=exchange.path,
            status_code=exchange.outcome(),
            duration_ms=exchange.seconds * 1000,
            user_agent=agent,
            remote_ip=self._address(exchange),
            referer=exchange.referer,
            device_type=_device(agent),
            session_id=exchange.session,
            session_page_views=exchange.views,
            inserted_at=exchange.ended,
        )

    def _address(self, exchange: Exchange) -> str | None:
        peer = exchange.peer
        if self._proxies and exchange.forwarded is not None and self._is_proxy(peer or ""):
            peer = first_hop(exchange.forwarded) or peer
        return None if peer is None else self._hashed(peer)


class Paths:
    """Paths of an application, each with all that is below it.

    Raises:
        ConfigurationError: one does not begin with ``/`` and a name.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        given = [paths] if isinstance(paths, str) else list(paths)
        for one in given:
            if not isinstance(one, str) or not one.startswith("/") or not one.strip("/"):
                raise ConfigurationError(f"exclude holds paths such as '/health', not {one!r}")
        self._exact = frozenset(one.rstrip("/") for one in given)
        self._above = tuple(f"{one}/" for one in self._exact)

    def __contains__(self, path: object) -> bool:
        return bool(self._exact) and isinstance(path, str) and (path in self._exact or path.startswith(self._above))

    def __iter__(self) -> Iterator[str]:
        return iter(self._exact)


class Exchange:
    """One request, and what becomes of it.

    Attributes:
        raised: what the application raised.
        seconds: until the answer began, or else until the end.
        ended: when it was over.
        recorded: `finish` was called, or `leave_out`.
    """

    __slots__ = (
        "_asking", "_began", "_done", "_failed", "_gone", "_heard", "_left", "_receive", "_record", "_send", "_status",
        "_whole", "agent", "ended", "forwarded", "method", "path", "peer", "raised", "recorded", "referer", "scope",
        "seconds", "session", "views",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        record: Callable[[Exchange], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._began = perf_counter()
        self.scope, self._receive, self._send, self._record, self._failed = scope, receive, send, record, failed
        self._status: int | None = None
        # The client is gone; it was before the answer began; the application waits in `receive`; it got all there is.
        self._gone = self._left = self._asking = self._whole = False
        self._heard: list[Message] = []
        self._done = self.recorded = False
        self.raised: BaseException | None = None
        self.seconds = 0.0
        self.method, self.path, self.agent, self.referer = "", "", "unknown", "Direct"
        self.peer: str | None = None
        self.forwarded: str | None = None
        self.session: str | None = None
        self.views: int | None = None
        try:
            self._read(scope)
        except Exception as error:  # noqa: BLE001 - a scope may be odd; the request is served all the same
            failed(error)

    def _read(self, scope: Scope) -> None:
        """Note now what the application may change, and mark the scope."""
        # In the scope as it is: what is further out may look there for what the application put into it.
        scope[MARK] = self
        self.method, self.path = scope["method"], scope["path"]
        client = scope.get("client")
        if client:
            self.peer = client[0]
        cookie: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"user-agent":
                self.agent = value[:2048].decode("latin-1") or "unknown"
            elif name == b"cookie":
                cookie = value if cookie is None else cookie + b"; " + value
            elif name == b"referer":
                self.referer = _without_query(value[:8192].decode("latin-1")) or "Direct"
            elif name == b"x-forwarded-for" and self.forwarded is None:
                self.forwarded = value[:1024].decode("latin-1")
        self.session, self.views = next_view(cookie)

    async def follow(self, app: ASGIApp) -> None:
        """Let *app* answer the request, and record what came of it."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.scope.pop(MARK, None)
            await self.finish()

    def leave_out(self) -> None:
        """Do not record this request."""
        self.recorded = True
        self.session = None

    async def receive(self) -> Message:
        """Pass on what the server says, and note that the client left."""
        if self._heard:
            return self._heard.pop(0)
        self._asking = True
        try:
            message = await self._receive()
        finally:
            self._asking = False
        self._note(message)
        return message

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._gone = True
        elif not message.get("more_body", False):
            self._whole = True

    async def _ask(self) -> None:
        """Find out whether the client left, if the server can tell at once. What else it says waits for `receive`.

        Not while the application waits for it itself. And not while there is a body that it did not ask for: to receive
        is to tell the client to send it.
        """
        if self._asking or not (self._whole or self._is_bare()):
            return
        # Twice at most: the first message of a request without a body is that it is empty.
        for _ in range(2):
            if self._gone:
                return
            asking = asyncio.ensure_future(self._receive())
            try:
                await asyncio.sleep(0)
            finally:
                asking.cancel()
            await asyncio.wait([asking], timeout=ANSWERS_WITHIN)
            if not asking.done() or asking.cancelled() or asking.exception() is not None:
                return
            self._heard.append(message := asking.result())
            self._note(message)

    def _is_bare(self) -> bool:
        """Tell whether the request has no body."""
        return not any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.scope["headers"]
        )

    async def send(self, message: Message) -> None:
        """Pass on what the application says, with cookies in the head; after its end the request is recorded."""
        kind = message["type"]
        if kind == "http.response.start":
            message = self._answered(message)
            if self.seconds > ASKED_AFTER and not self.recorded:
                await self._look()
            self._left = self._gone
        try:
            await self._send(message)
        except OSError:
            # What servers raise when the client is gone.
            self._gone = True
            raise
        if kind == "http.response.body" and not message.get("more_body", False):
            self._done = True
            await self.finish()

    async def _look(self) -> None:
        try:
            await self._ask()
        except Exception as error:  # noqa: BLE001 - a server of its own kind; the answer goes on
            self._failed(error)

    def _answered(self, message: Message) -> Message:
        try:
            self.seconds = perf_counter() - self._began
            self._status = message["status"]
            if self.session is None or self.views is None:
                return message
            cookies = set_cookies(self.session, self.views, self.scope.get("scheme") == "https")
            return {**message, "headers": [*message.get("headers", ()), *cookies]}
        except Exception as error:  # noqa: BLE001 - the server judges what the application sends
            self._failed(error)
            return message

    async def finish(self) -> None:
        """Record the request, once."""
        if self.recorded:
            return
        self.recorded = True
        self.ended = datetime.now(UTC)
        if self._status is None:
            self.seconds = perf_counter() - self._began
        await self._record(self)

    def outcome(self) -> int:
        """Return the status that is recorded."""
        left = self._gone or isinstance(self.raised, asyncio.CancelledError)
        if self._status is None or self._left:
            return LEFT if left else FAILED
        return FAILED if self.raised is not None and not self._done and not left else self._status


def _device(agent: str) -> str:
    return "tablet" if "Pad" in agent else "mobile" if "Mobile" in agent else "desktop"


def _without_query(url: str) -> str:
    """Return *url* without query and fragment, and without the name and password of who is signed in."""
    url = url.partition("?")[0].partition("#")[0]
    return _USER.sub(r"\1", url, count=1) if "@" in url else url
