"""`dashboard`: the web page over a store, as an ASGI application that runs alone or inside of another one."""

from __future__ import annotations

import math
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import time
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from eventstore.dashboard.forms import act, show_login, sign_in, sign_out
from eventstore.dashboard.guard import Guard, Identify
from eventstore.dashboard.measures import Measures
from eventstore.dashboard.rendering import STATIC, environment, static_version
from eventstore.dashboard.sampler import INTERVAL, Sampler
from eventstore.dashboard.security import Token, Tokens, check_hosts
from eventstore.dashboard.sessions import Attempts, Sessions
from eventstore.dashboard.site import Site, is_open, new_mark
from eventstore.errors import ConfigurationError
from eventstore.reports.actions import operator
from eventstore.service import Clock, LoopClock
from eventstore.store import EventStore

__all__ = ["dashboard", "is_ending"]

FOREVER = "public, max-age=31536000, immutable"


def dashboard(
    store: EventStore,
    *,
    allow_actions: bool = False,
    tokens: Mapping[str, str | Token] | None = None,
    hosts: Collection[str] = (),
    identify: Identify | None = None,
    open_to_all: bool = False,
    behind_tls_proxy: bool = False,
    secret: str | bytes | None = None,
    interval: float = INTERVAL,
    clock: Clock | None = None,
    now: Callable[[], float] = time,
) -> Starlette:
    """Return the dashboard of *store*, to be mounted under any path of an ASGI application, or served by itself.

    The store is the caller's: open it before, or in the application's lifespan; until it is open, and once it is
    closed, every page says so. The dashboard reads only while somebody looks at it.

    Args:
        allow_actions: let people pause, resume, rewind and resize subscriptions, and replay and discard parked events.
            All of that is recorded. Without it nothing can be changed.
        tokens: name → secret, or `Token`: who may come in. Names are what is recorded. Without these and without
            *identify* this machine alone may look, by its loopback address, and nobody may act.
        hosts: names that requests may be for, ``name`` or ``name:port``, beside those of this machine's loopback.
        identify: in place of *tokens*, returns who makes a request by the application's own sign-in, or an awaitable
            of it. None refuses, and so does what is no name. It may raise Starlette's ``HTTPException``.
        open_to_all: without *tokens* and *identify*, let in whoever reaches it, also to act.
        behind_tls_proxy: a proxy before the server speaks TLS; cookies are sent over nothing else then.
        secret: what sessions are signed with; by default random, so that they end with the process. Several processes
            behind one address need the same.
        interval: seconds between two looks at a page that somebody watches.
        clock, now: time to wait by, and unix seconds.

    Raises:
        ConfigurationError: a token or the secret is too short, *hosts* holds what is no name, there are both *tokens*
            and *identify*, or anybody could act.
    """
    _check(interval, identify)
    if tokens is not None and identify is not None:
        raise ConfigurationError("give tokens, or identify, which says who it is in place of them")
    if tokens is not None and not tokens:
        raise ConfigurationError("tokens is empty, so that nobody could come in; None lets everybody in")
    anybody = tokens is None and identify is None
    if anybody and allow_actions and not open_to_all:
        raise ConfigurationError(
            "with allow_actions anybody who reaches the application could act: give tokens or identify, or open_to_all "
            "if nobody else reaches it"
        )
    key = _key(secret)
    clock = clock or LoopClock()
    site = Site(
        store=store,
        templates=environment(),
        sessions=Sessions(key, now),
        tokens=Tokens(tokens or {}, key),
        attempts=Attempts(now),
        sampler=Sampler(lambda: not is_open(store) or is_ending(), clock=clock, now=now, interval=interval),
        clock=clock,
        now=now,
        allow_actions=allow_actions,
        behind_tls_proxy=behind_tls_proxy,
        operator=operator(),
        csrf_mark=new_mark(),
    )
    guard = Middleware(
        Guard,
        answer=site.answer,
        sessions=site.sessions,
        tokens=site.tokens,
        attempts=site.attempts,
        hosts=check_hosts(hosts),
        local_only=anybody and not open_to_all,
        identify=identify,
    )
    app = Starlette(
        routes=_routes(site),
        middleware=[guard],
        exception_handlers={HTTPException: site.http_error},
        lifespan=partial(_lifespan, site.sampler),
    )
    app.router.redirect_slashes = False
    app.state.site = site
    return app


def _check(interval: float, identify: object) -> None:
    if not isinstance(interval, (int, float)) or not 0 < interval < math.inf:
        raise ConfigurationError(f"interval must be seconds above 0, not {interval!r}")
    if identify is not None and not callable(identify):
        raise ConfigurationError(f"identify is called with each request, which {type(identify).__name__} cannot be")


def _key(secret: str | bytes | None) -> bytes:
    if secret is None:
        return secrets.token_bytes(32)
    key = secret.encode() if isinstance(secret, str) else secret
    if len(key) < 32:
        raise ConfigurationError("secret needs 32 characters or more: openssl rand -hex 32")
    return key


@asynccontextmanager
async def _lifespan(sampler: Sampler, _app: Starlette) -> AsyncIterator[None]:
    yield
    await sampler.close()


def is_ending() -> bool:
    """Whether the web server of this process is about to end.

    Servers wait for answers that are under way, and a stream of events is under way for ever. uvicorn tells
    applications nothing of it, but it is uvicorn's own method that handles SIGTERM while it runs.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))


# -- routes


def _routes(site: Site) -> list[Route | Mount]:
    return [
        Mount("/static", _Static(directory=STATIC)),
        Route("/metrics", Measures(site.store).show, methods=["GET"]),
        Route("/login", partial(show_login, site), methods=["GET"]),
        Route("/login", partial(sign_in, site), methods=["POST"]),
        Route("/logout", partial(sign_out, site), methods=["POST"]),
        Route("/actions/{what}", partial(act, site), methods=["POST"]),
        Route("/live", site.live, methods=["GET"]),
        Route("/live/{path:path}", site.live, methods=["GET"]),
        Route("/{path:path}", site.page, methods=["GET"]),
    ]


class _Static(StaticFiles):
    """Files that browsers keep: asked for with the hash of what they hold, they never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        version = parse_qs(scope["query_string"].decode("latin-1")).get("v", [""])[0]
        unchanging = version != "" and version == static_version(path)
        response.headers["cache-control"] = FOREVER if unchanging else "no-cache"
        return response
