"""What all handlers share: the store, the templates, the sessions; and how a page, its JSON and its stream are made."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from eventstore import __version__
from eventstore.dashboard.addresses import Addresses, root_of
from eventstore.dashboard.encoding import to_json
from eventstore.dashboard.guard import Visit, cookie_name, is_secure, path_of, visit_of, wants_json
from eventstore.dashboard.live import EventStream
from eventstore.dashboard.refusals import InvalidParameter, Refused
from eventstore.dashboard.routes import Target, resolve
from eventstore.dashboard.sampler import READ_WITHIN, Sampler, Subject
from eventstore.dashboard.security import Tokens
from eventstore.dashboard.sessions import LIFETIME, Attempts, Session, Sessions
from eventstore.dashboard.view import Flash, View
from eventstore.service import Clock
from eventstore.store import EventStore

__all__ = ["ErrorPage", "LoginPage", "Site", "is_open", "new_mark"]

MAX_QUERY = 8192
"""Bytes of a query: more than any page has use for."""


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """Why there is no page; *retry* is in seconds, None if it would be the same again."""

    status: int
    error: str
    message: str
    retry: int | None


@dataclass(frozen=True, slots=True)
class LoginPage:
    """The page that asks for a token: *next* is where it leads, *problem* why the last one was not accepted."""

    next: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Site:
    """Everything a handler needs."""

    store: EventStore
    templates: Environment
    sessions: Sessions
    tokens: Tokens
    attempts: Attempts
    sampler: Sampler
    clock: Clock
    now: Callable[[], float]
    allow_actions: bool
    behind_tls_proxy: bool
    operator: str
    csrf_mark: str

    # -- pages

    async def page(self, request: Request) -> Response:
        """Answer with a page, or its data as JSON."""
        as_json = _asks_for_json(request)
        target = self._target(request, path_of(request.scope))
        try:
            data = await self._read(target)
        except Refused as refusal:
            if as_json or refusal.back is None:
                raise
            return self.sent_to(request, Addresses(root_of(request.scope)).url(*refusal.back), _told(refusal))
        if as_json:
            return Response(to_json(data) + "\n", media_type="application/json")
        flash = self.sessions.load_flash(request.cookies.get(cookie_name(request, "flash")))
        session, is_new = self.session_of(request)
        html = self.render(target.spec.name, self._view(request, target, data, session, flash), data)
        response = HTMLResponse(html)
        if is_new and session is not None:
            self.set_session(request, response, session)
        if flash is not None:
            self.delete_cookie(request, response, "flash")
        return response

    def sent_to(self, request: Request, location: str, flash: Flash) -> Response:
        """Answer with another page, which tells *flash*."""
        response = RedirectResponse(location, 303)
        self.set_cookie(request, response, "flash", self.sessions.dump_flash(flash), 60)
        return response

    async def live(self, request: Request) -> ASGIApp:
        """Answer with a page's stream of events."""
        target = self._target(request, path_of(request.scope).removeprefix("live").removeprefix("/"))
        if not target.spec.live:
            raise Refused(404, "NotFound", "this page has no live part")
        self._check_open()
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        session, _ = self.session_of(request)
        csrf = self.sessions.csrf(session) if session is not None else ""
        allowed = self.may_act(visit_of(request))
        addresses = Addresses(root_of(request.scope))

        def render(data: Any) -> str:
            view = self._view(request, target, data, None, None)
            marked = replace(view, who=None, sign_out=False, csrf=self.csrf_mark, allow_actions=allowed)
            return self.templates.get_template(f"parts/{target.spec.name}.html").render(page=marked, data=data)

        async def read(before: Any) -> Any:
            self._check_open()
            return await target.spec.read(self.store, target.parameters, before)

        subject = Subject(target.key, read, target.spec.points)
        watching = self.sampler.watching(subject, (addresses.root, allowed), render)
        finish = _filled_in(self.csrf_mark, csrf)
        return EventStream(watching, finish, self.clock, has_series=target.spec.points is not None)

    def _target(self, request: Request, path: str) -> Target:
        query = request.scope["query_string"]
        if len(query) > MAX_QUERY:
            raise InvalidParameter("query", f"is longer than {MAX_QUERY:,} bytes")
        return resolve(path, parse_qsl(query.decode("latin-1"), errors="replace"))

    async def _read(self, target: Target) -> Any:
        self._check_open()
        if target.spec.compares and (seen := self.sampler.fresh(target.key)) is not None:
            return seen  # told by a look of a moment ago, rates would say little
        async with asyncio.timeout(READ_WITHIN):
            data = await target.spec.read(self.store, target.parameters, self.sampler.latest(target.key))
        if target.spec.compares:
            self.sampler.remember(target.key, data)
        return data

    def _check_open(self) -> None:
        if not is_open(self.store):
            raise Refused(503, "StoreClosed", "the store is not open", retry=5)

    # -- rendering

    def render(self, name: str, view: View, data: Any) -> str:
        """Render a whole page."""
        return self.templates.get_template(f"pages/{name}.html").render(page=view, data=data)

    def _view(self, request: Request, target: Target, data: Any, session: Session | None, flash: Flash | None) -> View:
        title = target.spec.named(data) if target.spec.named is not None else target.spec.title
        view = self.view(request, target.spec.name, title, session, flash)
        return replace(view, path=target.path, pairs=target.pairs, is_live=target.is_live)

    def view(
        self, request: Request, name: str, title: str, session: Session | None, flash: Flash | None = None
    ) -> View:
        """Return what every template gets."""
        visit = visit_of(request)
        return View(
            name=name,
            title=title,
            addresses=Addresses(root_of(request.scope)),
            now=datetime.fromtimestamp(self.now(), UTC),
            node=self.store.node_name,
            schema=self.store.schema,
            version=__version__,
            csrf=self.sessions.csrf(session) if session is not None else "",
            allow_actions=self.may_act(visit),
            who=visit.who,
            sign_out=bool(self.tokens) and visit.who is not None and not visit.bearer,
            flash=flash,
        )

    # -- refusals

    def answer(self, request: Request, refusal: Refused) -> Response:
        """Answer with a refusal, as a page or as JSON. Of who is not signed in a browser asks for the token."""
        headers = dict(refusal.headers)
        if refusal.retry is not None:
            headers["retry-after"] = str(refusal.retry)
        if wants_json(request) or path_of(request.scope).split("/")[0] == "metrics":
            told = {"error": refusal.error, "message": refusal.message}
            return Response(to_json(told) + "\n", refusal.status, headers, media_type="application/json")
        if refusal.status == 401 and self.tokens:
            return self.ask_for_token(request, self._wanted(request), None, headers)
        return self._error_page(request, refusal, headers)

    def _wanted(self, request: Request) -> str:
        """Return where to go after signing in."""
        if request.method not in ("GET", "HEAD"):
            return Addresses(root_of(request.scope)).url()
        query = request.scope["query_string"].decode("latin-1")
        path = Addresses(root_of(request.scope)).url(path_of(request.scope))
        return path + (f"?{query}" if query else "")

    def ask_for_token(
        self, request: Request, following: str, problem: str | None, headers: dict[str, str] | None = None
    ) -> Response:
        """Answer with the page that asks for a token."""
        session = visit_of(request).session or self.sessions.open()
        view = self.view(request, "login", "Sign in", session)
        html = self.render("login", view, LoginPage(following, problem))
        response = HTMLResponse(html, 401, headers)
        # A link from another site comes without the cookie, which is SameSite=Strict. Loaded again by this very page,
        # it comes with it.
        if problem is None and request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            response.headers["refresh"] = "0"
            return response
        if visit_of(request).session is None:
            self.set_session(request, response, session)
        return response

    def _error_page(self, request: Request, refusal: Refused, headers: dict[str, str]) -> Response:
        if refusal.retry is not None:
            headers["refresh"] = str(refusal.retry)
        data = ErrorPage(refusal.status, refusal.error, refusal.message, refusal.retry)
        view = self.view(request, "error", refusal.error, visit_of(request).session)
        try:
            return HTMLResponse(self.render("error", view, data), refusal.status, headers)
        except Exception:  # noqa: BLE001 - the last word is said without a template
            return HTMLResponse(f"<!doctype html><title>{escape(refusal.error)}</title>", refusal.status, headers)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Answer what the router and the static files refuse."""
        assert isinstance(error, HTTPException)
        takes = (error.headers or {}).get("Allow", "GET")
        names = {
            404: ("NotFound", "there is no such page"),
            405: ("MethodNotAllowed", f"what is here takes {takes}, and not {request.method[:20]}"),
        }
        name, message = names.get(error.status_code, ("Refused", "this request cannot be answered"))
        return self.answer(request, Refused(error.status_code, name, message, headers=error.headers))

    # -- cookies

    def may_act(self, visit: Visit) -> bool:
        """Whether forms are shown and taken."""
        return self.allow_actions and visit.allows("act") and not visit.bearer

    def session_of(self, request: Request) -> tuple[Session | None, bool]:
        """Return the session that forms of a page belong to, and whether it is new; None: the page has no forms."""
        visit = visit_of(request)
        if visit.session is not None or visit.bearer:
            return visit.session, False
        return (self.sessions.open(), True) if self.may_act(visit) else (None, False)

    def set_session(self, request: Request, response: Response, session: Session) -> None:
        """Hand a session to the browser."""
        self.set_cookie(request, response, "session", self.sessions.dump(session), int(LIFETIME))

    def set_cookie(self, request: Request, response: Response, what: str, value: str, lasts: int) -> None:
        """Set a cookie that no script reads and no other site sends."""
        response.set_cookie(
            cookie_name(request, what),
            value,
            max_age=lasts,
            path=root_of(request.scope) or "/",
            secure=is_secure(request, self.behind_tls_proxy),
            httponly=True,
            samesite="strict",
        )

    def delete_cookie(self, request: Request, response: Response, what: str) -> None:
        """Take a cookie back."""
        self.set_cookie(request, response, what, "", 0)


def is_open(store: EventStore) -> bool:
    """Whether *store* is open."""
    return store._running is not None


def new_mark() -> str:
    """Return what stands for a viewer's token in a part that is rendered for all; nobody can have written it."""
    return secrets.token_hex(32)


def _told(refusal: Refused) -> Flash:
    return Flash("error", refusal.message)


def _filled_in(mark: str, csrf: str) -> Callable[[str], str]:
    return lambda part: part.replace(mark, csrf)


def _asks_for_json(request: Request) -> bool:
    asked = request.query_params.get("format", "html")
    if asked not in ("html", "json"):
        raise InvalidParameter("format", f"must be html or json, not {asked[:20]!r}")
    return wants_json(request)
