"""`RequestTracker`: ASGI middleware that tells of every request, and changes nothing but two cookies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from eventstore.analytics.addresses import Network, address_hash, first_hop, networks, trusted
from eventstore.analytics.cookies import next_view, set_cookies
from eventstore.analytics.logs import RequestLog
from eventstore.events import uuid7
from eventstore.lifecycle.families import Losses

__all__ = ["ASGIApp", "Exchange", "Message", "Receive", "RequestTracker", "Requests", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

FAILED, LEFT = 500, 499
"""What is recorded of an application that raised, or ended without an answer; and of a client that left before one."""


class Requests(Protocol):
    """Where the tracker tells of requests: a `RequestPubSub`."""

    async def broadcast(self, log: RequestLog) -> None:
        """Tell of a request."""


class RequestTracker:
    """Middleware around an ASGI application, whatever made it.

    Each HTTP request is broadcast as a `RequestLog` as soon as its answer has been handed to the server. Websockets and
    the lifespan pass through. Answers stream as they did; each gets the cookies ``pa_session_id`` and
    ``pa_page_views``, which end five minutes after the last request.

    If the application raises, the request is recorded with status 500 and the error goes on. Without an answer it is
    500 as well, and 499 if the client left, or the server cancelled the request, before there was one. A client that
    leaves in the middle of an answer got the status of that.

    Whatever fails here is counted in `failures`, logged once a minute, and changes no answer.

    Args:
        app: the application.
        requests: a `RequestPubSub`.
        address_key: the secret that client addresses are hashed with; the same on all nodes.
        trusted_proxies: addresses and networks, such as ``10.0.0.0/8``, whose ``X-Forwarded-For`` is believed: its
            first address is the client's. The outermost of them has to replace what clients send there, not add to it.

    Raises:
        ConfigurationError: the key is empty, or a proxy is no address.
    """

    def __init__(
        self,
        app: ASGIApp,
        requests: Requests,
        *,
        address_key: bytes | str,
        trusted_proxies: Iterable[str | Network] = (),
    ) -> None:
        self._app, self._requests = app, requests
        self._hashed = address_hash(address_key)
        self._proxies = networks(trusted_proxies)
        self._is_proxy = trusted(self._proxies)
        self._failures = Losses("request analytics: a request was not recorded (%d until now): %s")

    @property
    def failures(self) -> int:
        """How many requests were not recorded because something failed."""
        return self._failures.count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        if scope["type"] != "http":
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
        )

    def _address(self, exchange: Exchange) -> str | None:
        peer = exchange.peer
        if self._proxies and exchange.forwarded is not None and self._is_proxy(peer or ""):
            peer = first_hop(exchange.forwarded) or peer
        return None if peer is None else self._hashed(peer)


class Exchange:
    """One request, and what becomes of it.

    Attributes:
        raised: what the application raised.
        seconds: until the answer began, or else until the end.
        recorded: `finish` was called.
    """

    __slots__ = (
        "_began", "_done", "_failed", "_gone", "_receive", "_record", "_send", "_status", "agent", "forwarded",
        "method", "path", "peer", "raised", "recorded", "referer", "scope", "seconds", "session", "views",
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
        self._gone = self._done = self.recorded = False
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
        """Note now what the application may change."""
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
            await self.finish()

    async def receive(self) -> Message:
        """Pass on what the server says, and note that the client left."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application says, with cookies in the head; after its end the request is recorded."""
        kind = message["type"]
        if kind == "http.response.start":
            message = self._answered(message)
        try:
            await self._send(message)
        except OSError:
            # What servers raise when the client is gone.
            self._gone = True
            raise
        if kind == "http.response.body" and not message.get("more_body", False):
            self._done = True
            await self.finish()

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
        if self._status is None:
            self.seconds = perf_counter() - self._began
        await self._record(self)

    def outcome(self) -> int:
        """Return the status that is recorded."""
        left = self._gone or isinstance(self.raised, asyncio.CancelledError)
        if self._status is None:
            return LEFT if left else FAILED
        return FAILED if self.raised is not None and not self._done and not left else self._status


def _device(agent: str) -> str:
    return "tablet" if "Pad" in agent else "mobile" if "Mobile" in agent else "desktop"


def _without_query(url: str) -> str:
    return url.partition("?")[0].partition("#")[0]
