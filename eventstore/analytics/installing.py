"""`install`: request analytics in an application, stored beside a store's log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from eventstore.analytics.addresses import Network, address_hash, networks
from eventstore.analytics.batching import CLOSED_WITHIN, Batcher
from eventstore.analytics.broadcasting import RequestPubSub
from eventstore.analytics.marking import MARK
from eventstore.analytics.sharing import join, leave
from eventstore.analytics.storing import RequestTable
from eventstore.analytics.tracking import ASGIApp, Exchange, Message, Paths, Receive, RequestTracker, Scope, Send
from eventstore.errors import ConfigurationError
from eventstore.lifecycle.families import Losses
from eventstore.service import Clock, LoopClock, Tasks, set_within

if TYPE_CHECKING:
    from eventstore.store import EventStore

__all__ = ["install"]

log = logging.getLogger(__name__)

App = TypeVar("App", bound=ASGIApp)

EARLY = 1000
"""Requests that are kept until the key of addresses is known."""

PRUNED_EVERY = 86_400.0
"""Seconds between looks for months that are old enough to be dropped."""


def install(
    app: App,
    store: EventStore,
    *,
    address_key: bytes | str | None = None,
    trusted_proxies: Iterable[str | Network] = (),
    exclude: Iterable[str] = (),
    keep_days: int | None = None,
    batch_size: int = 1000,
    interval: float = 1.0,
    max_buffer: int = 100_000,
) -> App | ASGIApp:
    """Record the requests of *app* in the database of *store*; return the application to serve.

    An application of Starlette or FastAPI gets a middleware and is returned itself; any other is wrapped::

        app = install(app, store)

    The store may be open already or be opened in the application's lifespan; while it is not open, requests pass and
    nothing is recorded. Whatever comes first, the end of the application's lifespan or that of the store, what was
    gathered is stored before. Should the database be out of reach, requests wait in a bounded buffer.

    A request is recorded once: where an application is mounted below another, and both are installed, by the outer one.
    Applications of one process on one store share what stores them; the numbers for it that came first hold.

    Args:
        app: before it has served anything.
        address_key: the secret that client addresses are hashed with. None: that of `Settings.address_key`, or else one
            that the database makes once, for all nodes.
        trusted_proxies: as `RequestTracker`.
        exclude: paths that are not recorded, each with all below it, as ``["/health", "/metrics"]``. A dashboard and
            metrics of this package need no mention: they see to it themselves, by `leave_out`.
        keep_days: drop months that ended so many days ago, at the start and once a day; None keeps all.
        batch_size, interval, max_buffer: as `Batcher`.

    Raises:
        ConfigurationError: a value is out of range.
    """
    options = {"batch_size": batch_size, "interval": interval, "max_buffer": max_buffer}
    proxies, key = networks(trusted_proxies), address_key or store.settings.address_key
    excluded = tuple(Paths(exclude))
    if key is not None:
        address_hash(key)
    if keep_days is not None and (type(keep_days) is not int or keep_days < 1):
        raise ConfigurationError(f"keep_days must be a whole number of at least 1, not {keep_days!r}")
    add: Any = getattr(app, "add_middleware", None)
    if add is None:
        return Installed(app, store, key, proxies, excluded, keep_days, options)
    add(Installed, store=store, key=key, proxies=proxies, exclude=excluded, keep_days=keep_days, options=options)
    return app


class Installed:
    """The middleware that `install` puts into an application: a `RequestTracker` that comes and goes with the store."""

    def __init__(
        self,
        app: ASGIApp,
        store: EventStore,
        key: bytes | str | None,
        proxies: tuple[Network, ...],
        exclude: Collection[str],
        keep_days: int | None,
        options: dict[str, Any],
        clock: Clock | None = None,
    ) -> None:
        self._app, self._store, self._key, self._proxies = app, store, key, proxies
        self._exclude, self._excluded = exclude, Paths(exclude)
        self._keep_days, self._options, self._clock = keep_days, options, clock or LoopClock()
        self._tasks = Tasks()
        self._tracker: RequestTracker | None = None
        self._batcher: Batcher | None = None
        self._early: deque[Exchange] = deque()
        self._lost = Losses("request analytics: a request was not recorded (%d until now): %s")
        self._ready = asyncio.Event()
        self._starting = self._ended = False
        self._forget: Callable[[], None] = _nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._tracker is not None:
            await self._tracker(scope, receive, send)
        elif self._counts(scope) and self._look():
            await Exchange(scope, receive, send, self._record, self._lost.add).follow(self._app)
        else:
            await self._app(scope, receive, send)

    def _counts(self, scope: Scope) -> bool:
        return scope["type"] == "http" and MARK not in scope and scope.get("path") not in self._excluded

    async def _record(self, exchange: Exchange) -> None:
        """Keep *exchange* until addresses can be hashed; a request does not wait for that."""
        if self._tracker is not None:
            await self._tracker.record(exchange)
        elif len(self._early) < EARLY:
            self._early.append(exchange)
        else:
            self._lost.add("too many came before the analytics had started")

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow the lifespan: begin once the application is ready, and end when it is told to."""

        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._ended = True
                await self.close()
            return message

        async def sent(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._ended = False
                self._look()

        await self._app(scope, received, sent)

    def _look(self) -> bool:
        """Begin if the store is open; tells whether that is under way."""
        if not self._starting and not self._ended and not self._store.pubsub.closed:
            try:
                self._forget = self._store.accompany(self.close)
            except ConfigurationError:  # it is just being closed
                return False
            self._starting = True
            self._tasks.supervise("request analytics", self._begin, most=30.0)
        return self._starting

    async def _begin(self, _healthy: Callable[[], None]) -> None:
        table = RequestTable(self._store.database, self._store.schema)
        key = self._key or await table.address_key()
        requests = RequestPubSub(self._store.pubsub, shared_storage=True)
        self._batcher = join(self._store, self, lambda: Batcher(requests, table, **self._options))
        self._tracker = RequestTracker(
            self._app, requests, address_key=key, trusted_proxies=self._proxies, exclude=self._exclude
        )
        while self._early:
            await self._tracker.record(self._early.popleft())
        self._ready.set()
        if self._keep_days is not None:
            self._tasks.supervise("pruning of requests", lambda _healthy: self._prune(table), most=PRUNED_EVERY)

    async def _prune(self, table: RequestTable) -> None:
        while True:
            for month in await table.prune(keep_days=self._keep_days or 0):
                log.info("dropped the requests of %s", month.month.strftime("%Y-%m"))
            await self._clock.sleep(PRUNED_EVERY)

    async def close(self) -> None:
        """Store what was gathered, and record nothing more until it begins again. Never fails, and may be repeated."""
        self._forget()
        if self._early:
            await set_within(self._ready, CLOSED_WITHIN)
        self._tracker = None
        self._ready = asyncio.Event()  # the next loop may be another one
        await self._tasks.stop()
        if self._early:
            self._lost.add("the analytics did not start before the end", len(self._early))
            self._early.clear()
        if self._batcher is not None:
            await leave(self._store, self, self._batcher)
        self._starting = False


def _nothing() -> None:
    return None
