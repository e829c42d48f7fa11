"""`EventStore`: builds every part, starts them in one visible order, and stops them in reverse."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from os import PathLike, getpid
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload
from uuid import uuid4

from eventstore import __version__
from eventstore import schema as schemas
from eventstore.conditions import AppendCondition
from eventstore.counting import Counts
from eventstore.database import Borrowable, Database, not_primary
from eventstore.errors import (
    AlreadyStarted,
    AppendConditionFailed,
    ConfigurationError,
    DatabaseUnavailable,
    EventStoreError,
    InvalidEvent,
    InvalidSelector,
    TransactionConflict,
    WrongExpectedVersion,
)
from eventstore.events import ANY, AppendResult, Event, NewEvent, check_stream_name
from eventstore.feed import Feed, Follower
from eventstore.lifecycle import StoreKind, StoreLifecycle
from eventstore.log import append as appending
from eventstore.log import read as reading
from eventstore.log import streams as living
from eventstore.log.append import StreamAppend
from eventstore.log.coalescing import Coalescer
from eventstore.log.deciding import ATTEMPTS, Decision, decide
from eventstore.log.streams import Scavenged, StreamInfo, StreamMetadata
from eventstore.presence import NodePresence
from eventstore.pubsub.hub import PubSub
from eventstore.pubsub.local import Alone
from eventstore.registry import ConsumerRegistry
from eventstore.relay import Relay, is_event_topic
from eventstore.selectors import All, Selector, check_selector
from eventstore.service import Backoff, Tasks, set_within, to_its_end
from eventstore.settings import Settings
from eventstore.signals import Signals
from eventstore.subscriptions.admin import Subscriptions
from eventstore.subscriptions.delivery import Delivery, Middleware, Registration, caused
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import After, Node, Subscription, check_subscription
from eventstore.subscriptions.options import encode_options
from eventstore.subscriptions.outlets import Outlets, is_delivery_topic
from eventstore.subscriptions.policy import FailurePolicy
from eventstore.subscriptions.pool import Pools
from eventstore.subscriptions.registering import (
    batches,
    check_batch_size,
    check_callable,
    projections,
    singles,
    wrapped,
)
from eventstore.subscriptions.wanted import Wanted
from eventstore.tenants import check_tenant_name

if TYPE_CHECKING:
    from eventstore.embedded import EmbeddedPostgres

__all__ = ["EventStore"]

EMBEDDED_CHECKED_EVERY = 5.0
"""Seconds between looks at the embedded server, if no connection was lost."""

PUBSUB = "eventstore"
"""The name of every store's PubSub: the stores of one schema reach each other."""

CONTROL_CONNECTIONS = 3
"""Connections kept for the lease, checkpoints and the feed, beside those of `Settings.connections`."""

log = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[[Event, Delivery], Awaitable[None]])
BatchHandler = TypeVar("BatchHandler", bound=Callable[[list[Event], Delivery], Awaitable[None]])
Projection = TypeVar(
    "Projection",
    bound=Callable[[list[Event], Any], Awaitable[None]] | Callable[[list[Event], Any, Delivery], Awaitable[None]],
)

_Append: TypeAlias = "Callable[[appending.Request, Borrowable | None, float | None], Awaitable[list[AppendResult]]]"

_stores = count(1)


def _name_of_this_node() -> str:
    """Return host and process id, and from a process's second store on its number."""
    name, number = f"{socket.gethostname()}-{getpid()}", next(_stores)
    return name if number == 1 else f"{name}-{number}"


class EventStore:
    """The event store of one schema, as one node.

    ``async with EventStore(dsn) as store`` connects; without a DSN it starts (or joins) the embedded Postgres and
    brings the schema up to date.

    Args:
        dsn: ``postgresql://user@host/database``; None: the embedded Postgres.
        schema: the schema that holds the log.
        tenant: whose events, subscriptions and PubSub these are, in a schema with tenants; None: there are none, or the
            login is bound to its own.
        node_name: how this node is called in lists and by `PubSub.direct_broadcast`; by default host and process id.
        settings: what can be tuned.
        data_dir: where the embedded Postgres keeps its data; by default in the user's data directory.

    Attributes:
        counts: what this node does, as numbers; `eventstore.metrics` shows them.

    Raises (on entering):
        ConfigurationError: the DSN is malformed, or there are no Postgres binaries; a tenant is named and the schema
            has none, or the other way round, or nothing keeps them apart.
        DatabaseUnavailable: the database refuses or cannot be reached.
        MigrationRequired: the schema is missing or too old; see `migrate`.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str = schemas.DEFAULT_SCHEMA,
        tenant: str | None = None,
        node_name: str | None = None,
        settings: Settings | None = None,
        data_dir: str | PathLike[str] | None = None,
    ) -> None:
        self.schema = schemas.check_schema_name(schema)
        self.tenant = None if tenant is None else check_tenant_name(tenant)
        self.node_name = node_name or _name_of_this_node()
        self.settings = settings or Settings()
        self._handlers: dict[str, Registration] = {}
        self._declared: dict[str, Callable[[], Awaitable[object]]] = {}
        self._middleware: list[Middleware] = []
        self._running: AsyncExitStack | None = None
        self._companions: dict[Callable[[], Awaitable[object]], None] = {}
        self.counts = Counts()
        self._database = Database(self.settings, self.settings.connections, reads=self.counts.reads)
        # The lease and the feed have connections of their own: appends that wait for a lock must not stop them.
        self._control = Database(self.settings, CONTROL_CONNECTIONS, beside=self._database)
        self._coalescer = Coalescer(self._database, self.settings.connections, self.settings.append_timeout)
        self._append: _Append = self._append_counted
        self._signals = Signals(uuid4(), self.settings, counts=self.counts, way=lambda: self._database.way)
        self._feed = Feed(self._control, self._signals, self.settings, self.counts)
        self._ledger = Ledger(self._database)
        # What projections write through: they may leave on a connection what no append or reader should find there.
        self._lent = Database(self.settings, self.settings.connections, lent=True, beside=self._database)
        self._pools = Pools(
            self._database,
            self._lent,
            self._control,
            self._feed,
            self.node_name,
            self.settings,
            self._signals.jittered,
            self._tell,
            told=lambda: self._signals.listener is not None,
            counts=self.counts,
        )
        self.pubsub = PubSub(PUBSUB, Alone(self.node_name))
        self.lifecycle = StoreLifecycle(self.schema, self.pubsub)
        self._wanted = Wanted(self.pubsub, self.schema, self._pools)
        self.subscriptions = Subscriptions(self._ledger, self._pools, self._wanted, self._tell)
        self._outlets = Outlets(self.pubsub, self._ledger, self._pools.look)
        self._relay = Relay(
            self.pubsub,
            lambda after: Follower(self._feed, self._database, self.settings, All(), after),
            self._last_position,
        )
        self.pubsub.on_interest(self._relay.interest)
        self.pubsub.on_interest(self._outlets.interest)
        self.pubsub.keep_local(lambda topic: is_event_topic(topic) or is_delivery_topic(topic))
        self.place(dsn, data_dir=data_dir)

    # -- where

    @property
    def placed(self) -> bool:
        """A DSN or a data directory was named; otherwise it is the embedded Postgres in its usual place."""
        return self._dsn is not None or self._data_dir is not None

    def place(
        self,
        dsn: str | None,
        *,
        data_dir: str | PathLike[str] | None = None,
        schema: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Say where the log is, before the store is opened, as ``eventstore work --dsn`` does for an application.

        Args:
            schema, tenant: None keeps the one it has.

        Raises:
            AlreadyStarted: the store is open.
            ConfigurationError: both a DSN and a data directory are given, or the schema's or tenant's name is unusable.
        """
        if self._running is not None:
            raise AlreadyStarted("this store is open already")
        if dsn is not None and (not isinstance(dsn, str) or not dsn):
            found = "an empty text" if dsn == "" else type(dsn).__name__  # and not itself: it may hold a password
            raise ConfigurationError(f"dsn must be postgresql://…, or None for the embedded Postgres, not {found}")
        if dsn is not None and data_dir is not None:
            raise ConfigurationError("data_dir is for the embedded Postgres; give it or a DSN, not both")
        if schema is not None:
            self.schema = schemas.check_schema_name(schema)
        if tenant is not None:
            self.tenant = check_tenant_name(tenant)
        self._dsn, self._data_dir = dsn, data_dir

    @property
    def database(self) -> Database:
        """What calls the SQL functions, once the store is open: `eventstore.reports` read with it."""
        return self._database

    # -- opening and closing

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise AlreadyStarted("this store is open already")
        async with AsyncExitStack() as started:
            await self._start(started)
            self._running = started.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()

    async def _start(self, started: AsyncExitStack) -> None:
        """The start order; stopping is its reverse."""
        dsn = self._dsn or await self._start_embedded(started)
        await self._database.start(dsn, self.schema, self.tenant)
        started.push_async_callback(self._database.stop)
        for part in (self._coalescer, self._control, self._lent, self._signals, self._feed, self._pools):
            await part.start(dsn, self.schema)
            started.push_async_callback(part.stop)
        await self._start_pubsub(started, dsn)

    async def _start_pubsub(self, started: AsyncExitStack, dsn: str) -> None:
        if self._signals.listener is not None:
            from eventstore.pubsub.postgres import Postgres

            self.pubsub.adapter = Postgres(
                dsn,
                node_name=self.node_name,
                schema=self.schema,
                tenant=self._database.tenant,
                listener=self._signals.listener,
                connect_timeout=self.settings.connect_timeout,
                statement_cache_size=self._database.way.cache,
            )
        try:
            await started.enter_async_context(self.pubsub)
        except (ConfigurationError, DatabaseUnavailable) as error:
            # The log does not need it: a role that was granted the log alone goes on, and so do streams on a standby.
            if isinstance(error, DatabaseUnavailable) and not not_primary(error):
                raise
            log.warning("store.pubsub reaches this node only: %s", error)
            self.pubsub.adapter = Alone(self.node_name, because=error)
            await started.enter_async_context(self.pubsub)
        started.push_async_callback(self._relay.stop)
        started.callback(self._signals.on_change(self._pools.look))
        await self.lifecycle.start()
        started.push_async_callback(self.lifecycle.stop)
        # Handlers may broadcast, and what happens to them is: they end before PubSub does.
        started.push_async_callback(self._pools.stop)
        started.push_async_callback(self._close_companions)

    def accompany(self, close: Callable[[], Awaitable[object]]) -> Callable[[], None]:
        """Await *close* when this open store is closed, while all of it still works; the last one that came first.

        For what works beside the store and has to end, or to store something, before it: request analytics, the
        dashboard. Returns a function that takes it back.

        Raises:
            ConfigurationError: the store is not open, or is being closed.
        """
        if self._running is None:
            raise ConfigurationError("the store is not open; use `async with EventStore(...) as store`")
        self._companions[close] = None
        return lambda: self._companions.pop(close, None)

    async def _close_companions(self) -> None:
        while self._companions:
            close, _ = self._companions.popitem()
            try:
                await close()
            except Exception:
                log.exception("what accompanies the store did not close")

    async def _start_embedded(self, started: AsyncExitStack) -> str:
        from eventstore.embedded import EmbeddedPostgres

        server = EmbeddedPostgres(self._data_dir)
        # First: a start that is cancelled goes on in its thread, and what it started has to be given up.
        started.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        watching = Tasks()
        watching.supervise("embedded Postgres", lambda healthy: self._keep_running(server, healthy))
        started.push_async_callback(watching.stop)
        await self.migrate(server.dsn, schema=self.schema)
        return server.dsn

    async def _keep_running(self, server: EmbeddedPostgres, healthy: Callable[[], None]) -> None:
        """Start the server again should it be gone together with its supervisor, which restarts it otherwise."""
        lost = asyncio.Event()
        forget = self._database.on_lost(lost.set)
        try:
            while True:
                await set_within(lost, EMBEDDED_CHECKED_EVERY)
                lost.clear()
                # To its end: a start that goes on in its thread must not come after the stop.
                await to_its_end(asyncio.to_thread(server.start))
                healthy()
        finally:
            forget()

    @staticmethod
    async def migrate(dsn: str, *, schema: str = schemas.DEFAULT_SCHEMA) -> None:
        """Create *schema*, or bring it up to date; safe to run from many places at once.

        Raises:
            ConfigurationError: the name or DSN is unusable, or PUBLIC may create objects in the schema.
            DatabaseUnavailable: the database cannot be reached.
        """
        await asyncio.to_thread(schemas.migrate, dsn, schema)

    # -- the log

    async def append(
        self,
        stream: str | None,
        events: Sequence[NewEvent],
        *,
        expected: int = ANY,
        condition: AppendCondition | None = None,
        connection: Borrowable | None = None,
        timeout: float | None = None,
    ) -> AppendResult:
        """Append *events* to *stream*, all or nothing.

        Appending the same events (by id) again returns the first result, whatever *expected* and *condition* say now.
        After a lost connection the store does that itself, for `Settings.append_timeout` seconds.

        Args:
            stream: 1 to 512 characters. None: the events belong to no stream and are ordered by position only.
            events: 1 to 1,000 events.
            expected: `ANY`, `NO_STREAM`, `STREAM_EXISTS`, or the exact version the stream must have.
            condition: append only if no event matches it.
            connection: an asyncpg connection, SQLAlchemy ``AsyncConnection`` or ``AsyncSession`` with an open
                transaction; the append happens if that commits, and a failed append leaves it usable.
            timeout: seconds the whole call may take.

        Raises:
            WrongExpectedVersion: the stream is at another version.
            AppendConditionFailed: an event matches the condition.
            DuplicateEventId: an id is stored already, with other content or without the others.
            StreamDeleted: the stream was closed for good.
            InvalidEvent: an event or the stream's name breaks a rule; nothing was sent.
            TransactionConflict: a deadlock or serialization failure inside the caller's transaction, or the condition
                waited too long for other appends.
            OutcomeUnknown: time ran out and the append may have happened; append the same events again to learn that.
            TimeoutError: time ran out before anything was sent.
            DatabaseUnavailable: there was no connection; nothing happened.
        """
        part = appending.StreamAppend(stream, caused(events), expected)
        return (await self._append(appending.Request((part,), condition), connection, timeout))[0]

    async def append_many(
        self,
        appends: Sequence[StreamAppend],
        *,
        condition: AppendCondition | None = None,
        connection: Borrowable | None = None,
        timeout: float | None = None,
    ) -> list[AppendResult]:
        """Append to several streams, all or nothing; one result for each, in their order.

        Args:
            appends: each stream once, 1,000 events together. They get their positions in the order given.
            condition, connection, timeout: as in `append`, with the same errors.
        """
        if isinstance(appends, StreamAppend) or not all(isinstance(one, StreamAppend) for one in appends):
            raise InvalidEvent("append_many takes a list of StreamAppend")
        parts = tuple(replace(one, events=caused(one.events)) for one in appends)
        return await self._append(appending.Request(parts, condition), connection, timeout)

    async def _append_counted(
        self, request: appending.Request, connection: Borrowable | None, timeout: float | None
    ) -> list[AppendResult]:
        began = perf_counter()
        try:
            done = await self._append_in_time(request, connection, timeout)
        except BaseException as error:
            self.counts.append_failed(error, perf_counter() - began)
            raise
        # After a lost reply they were there because of this very append.
        repeated = done[0].idempotent and request.until is None
        self.counts.appended(request.size, perf_counter() - began, repeated=repeated, lent=connection is not None)
        return done

    async def _append_in_time(
        self, request: appending.Request, connection: Borrowable | None, timeout: float | None
    ) -> list[AppendResult]:
        if timeout is None:
            return await self._append_within(request, connection)
        appending.check_timeout(timeout)
        with appending.deadline(request, timeout, lent=connection is not None):
            try:
                async with asyncio.timeout(timeout):
                    return await self._append_within(request, connection)
            except TimeoutError:
                # Answered in the moment that time ran out: it is in the caller's transaction.
                if request.lent is None:
                    raise
                return appending.results(request.lent)

    async def _append_within(self, request: appending.Request, connection: Borrowable | None) -> list[AppendResult]:
        if connection is not None:
            return appending.results(await appending.run_in(self._database, connection, request))
        if len(request.parts) == 1:
            done = [await self._coalescer.append(request)]
        else:
            done = appending.results(await self._coalescer.alone(request))
        self._signals.appended()
        return done

    async def decide(
        self,
        source: str | Selector,
        decision: Decision,
        *,
        stream: str | None = None,
        attempts: int = ATTEMPTS,
        timeout: float | None = None,
    ) -> AppendResult | None:
        """Read, decide and append; begin again if another append came in between.

        With a stream's name the stream is read, and appended to at the version that was read. With a selector every
        matching event is read, and the append holds on the condition that no other has come to match::

            def open_account(events: list[Event]) -> list[NewEvent]:
                if events:
                    raise NameTaken
                return [NewEvent("AccountOpened", {"name": "ada"}, tags=["name:ada"])]

            await store.decide(Tags("name:ada"), open_account)

        Args:
            source: a stream, or a selector of those an `AppendCondition` takes.
            decision: from the events to the new events; may be a coroutine function; is called at every attempt.
            stream: with a selector: the stream to append to; by default the events belong to none.
            attempts: how often to try in all.
            timeout: seconds for all of it.

        Returns:
            The append's result, None if there was nothing to append.

        Raises:
            WrongExpectedVersion, AppendConditionFailed, TransactionConflict: the last attempt lost as well.
            TimeoutError, OutcomeUnknown: time ran out before, or during, an append.
            InvalidSelector: the selector cannot be a condition.
        """
        appending.check_timeout(timeout)
        if isinstance(source, str):
            if stream is not None:
                raise ConfigurationError("stream= goes with a selector; a stream's decision is appended to that stream")
            return await decide(
                partial(self._read_version, source),
                decision,
                lambda new, version, left: self.append(source, new, expected=version, timeout=left),
                attempts=attempts,
                timeout=timeout,
            )
        AppendCondition(source)
        return await decide(
            partial(self._read_horizon, source),
            decision,
            lambda new, horizon, left: self.append(
                stream, new, condition=AppendCondition(source, horizon), timeout=left
            ),
            attempts=attempts,
            timeout=timeout,
        )

    async def _read_version(self, stream: str, conflict: EventStoreError | None) -> tuple[list[Event], int]:
        # Of a stream whose events have all expired only the conflict tells the version. It was seen before this
        # reading, which shows whatever came after it.
        unseen = conflict.actual if isinstance(conflict, WrongExpectedVersion) else 0
        events = [event async for event in self.read(stream)]
        return events, events[-1].version or unseen if events else unseen

    async def _read_horizon(self, selector: Selector, conflict: EventStoreError | None) -> tuple[list[Event], int]:
        # A condition sees events that a reading does not yet, as long as another append is in flight below them.
        if isinstance(conflict, AppendConditionFailed):
            await self.wait_for(conflict.position)
        reading = self.read_all(selector)
        return [event async for event in reading], reading.horizon

    async def append_known(self, streams: Sequence[str | None], events: Sequence[NewEvent]) -> int:
        """Append each event to the stream beside it, in one transaction, leaving out those stored already.

        This is what imports use: the order given is the order of positions, across streams. Returns how many events
        were new.

        Raises:
            DuplicateEventId: an id is stored with other content (`ids` names it); nothing of the call is written.
        """
        request, began = appending.KnownRequest(streams, events), perf_counter()
        try:
            rows = await self._coalescer.alone(request)
        except BaseException as error:
            self.counts.append_failed(error, perf_counter() - began)
            raise
        if rows:
            self._signals.appended()
        added = appending.known_added(rows)
        self.counts.appended(added, perf_counter() - began, repeated=not added, lent=False)
        return added

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        before: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Event]:
        """Yield the events of one stream by version; none if there is no such stream.

        *after* and *before* are exclusive versions, whatever the direction; *limit* counts events.

        Args:
            timeout: seconds that one page, one wait for the database, may take.

        Raises:
            TimeoutError: a page took longer.
            InvalidEvent: the name breaks a rule.
            ConfigurationError: a bound, the limit or the timeout is none.
            DatabaseUnavailable: the connection was lost; go on after the last event you got.
        """
        check_stream_name(stream)
        reading.check_bounds(after, before, limit)
        appending.check_timeout(timeout)
        return reading.read_stream(
            self._database,
            stream,
            after=after,
            before=before,
            backwards=backwards,
            limit=limit,
            page_size=self.settings.page_size,
            timeout=timeout,
        )

    def read_all(
        self,
        selector: Selector | None = None,
        *,
        after: int = 0,
        before: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        backwards: bool = False,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> reading.Reading:
        """Return a reading of the events *selector* matches, by position, up to the horizon of its start.

        *after* and *before* are exclusive positions whatever the direction; *since* (inclusive) and *until*
        (exclusive) go by the database's `recorded_at`. The reading's `horizon` is what it saw all of.

        The log is looked at in windows of positions, which begin at `Settings.scan_window` and grow while they are
        looked through quickly: no query is about the whole log, whatever the selector.

        Args:
            timeout: seconds that one page, one wait for the database, may take.

        Raises:
            TimeoutError: a page took longer.
            InvalidSelector: *selector* is none.
            ConfigurationError: a bound, the limit, a time or the timeout is none.
            DatabaseUnavailable: the connection was lost; go on after the last event you got.
        """
        return reading.Reading(
            self._database,
            All() if selector is None else check_selector(selector),
            after=after,
            before=before,
            since=since,
            until=until,
            backwards=backwards,
            limit=limit,
            page_size=self.settings.page_size,
            window=self.settings.scan_window,
            timeout=timeout,
        )

    async def head(self) -> int:
        """Return the horizon: the position up to which every append has finished. 0 for an empty log."""
        return await reading.head(self._database)

    async def wait_for(self, position: int, *, timeout: float | None = None) -> None:
        """Wait until readers see everything up to *position*.

        Raises:
            TimeoutError: *timeout* seconds passed.
        """
        reading.check_position("position", position)
        woken = asyncio.Event()
        forget = self._signals.on_wake(woken.set)
        backoff = Backoff(0.001, 0.05)
        try:
            async with asyncio.timeout(timeout):
                while await self.head() < position:
                    woken.clear()
                    await set_within(woken, backoff.next())
        except TimeoutError:
            raise TimeoutError(f"readers do not see position {position} after {timeout:g} s") from None
        finally:
            forget()

    @asynccontextmanager
    async def listen(
        self, selector: Selector | None = None, *, after: int | Literal["current"] = "current"
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Yield the matching events after *after*, history first, then live, in position order, without end.

        ``"current"`` is fixed on entering: what is appended from then on is delivered. Nothing is stored; the next
        listener begins anew. A lost connection is waited out and nothing is missed.

        Raises:
            DatabaseUnavailable: on entering or at the first event: the server is a standby. One that is found there
                later, during a failover, is waited out as well.
            CheckpointAheadOfLog: the log has not got the last event that was yielded any more, or ends before *after*.
        """
        if after != "current":
            reading.check_position("after", after)
        chosen = All() if selector is None else check_selector(selector)
        start = await self._last_position() if after == "current" else after
        follower = Follower(self._feed, self._database, self.settings, chosen, start)
        follower.served = after == "current"
        try:
            yield self._followed(follower)
        finally:
            follower.close()

    async def _followed(self, follower: Follower) -> AsyncIterator[Event]:
        backoff = Backoff(0.05, 5.0)
        while True:
            try:
                events = await follower.next()
            except (DatabaseUnavailable, TransactionConflict) as error:
                if not follower.served and not_primary(error):
                    raise
                log.warning("listening: %s; trying again", error)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            for event in events:
                yield event

    async def _last_position(self) -> int:
        """Position of the last event readers see, rather than the horizon: it survives any crash."""
        async for event in self.read_all(backwards=True, limit=1):
            return event.position
        return 0

    # -- streams

    def streams(self, prefix: str = "", *, include_deleted: bool = False) -> AsyncIterator[StreamInfo]:
        """Yield the live streams with events whose name starts with *prefix*, by name.

        Args:
            include_deleted: also those that are deleted or tombstoned, and names for which only metadata is stored.

        Raises:
            InvalidEvent: *prefix* cannot begin a stream's name.
        """
        return living.list_streams(
            self._database, prefix, include_deleted=include_deleted, page_size=self.settings.page_size
        )

    async def stream_info(self, stream: str) -> StreamInfo | None:
        """Return what is known of *stream*, also of a deleted one; None if nothing was ever stored under that name.

        Raises:
            InvalidEvent: the name breaks a rule.
        """
        return await living.stream_info(self._database, stream)

    async def set_stream_metadata(self, stream: str, metadata: StreamMetadata) -> None:
        """Replace the limits and custom metadata of *stream*, which need not have events yet.

        Limits apply to `read` at once; `read_all` and subscriptions show what is stored until it is scavenged. To
        change one of them: ``replace(info.metadata, max_count=5)``. What was deleted stays hidden whatever they say.

        Raises:
            StreamDeleted: the stream was closed for good.
            InvalidEvent: the name breaks a rule.
            ConfigurationError: *metadata* is not `StreamMetadata`.
        """
        await living.set_stream_metadata(self._database, stream, metadata)

    async def delete_stream(self, stream: str, *, expected: int = ANY) -> bool:
        """Hide every event of *stream* from its readers; the next append revives it and goes on with its versions.

        To that append it is no stream: `ANY`, `NO_STREAM` and the exact version revive it. Its metadata stays.

        Args:
            expected: as in `append`.

        Returns:
            Whether there was something to delete: False if there is no such stream, or it is deleted already.

        Raises:
            WrongExpectedVersion: the stream is at another version; nothing is deleted.
            StreamDeleted: the stream was closed for good.
            InvalidEvent: the name or *expected* breaks a rule.
        """
        return await living.delete_stream(self._database, stream, expected)

    async def tombstone_stream(self, stream: str, *, expected: int = ANY) -> bool:
        """Close *stream* for good, also one that never existed: no reader of it sees an event, every append is refused.

        Args:
            expected: as in `append`.

        Returns:
            False if it was closed already, whatever was expected.

        Raises:
            WrongExpectedVersion: the stream is at another version; nothing happened.
            InvalidEvent: the name or *expected* breaks a rule.
        """
        return await living.tombstone_stream(self._database, stream, expected)

    async def scavenge(
        self,
        *,
        batch: int = 1000,
        pause: float = 0.0,
        dry_run: bool = False,
        now: datetime | None = None,
        on_batch: Callable[[Scavenged], object] | None = None,
    ) -> Scavenged:
        """Remove for good the data, metadata and tags of the events that limits hide; return how many.

        Each batch is a short transaction of its own that no append, reader or subscription waits for. Interrupted, it
        goes on the next time where it was. Positions, versions and ids stay taken.

        Args:
            batch: events of one transaction, 1 to 100,000.
            pause: seconds between batches.
            dry_run: only count.
            now: the moment `max_age` counts back from, if not now; never later.
            on_batch: called with what each batch did.

        Raises:
            ConfigurationError: the role does not own the schema's tables, or a value is out of range.
            TransactionConflict: another scavenging was at the same events; repeat it.
        """
        if now is not None:
            reading.check_time("now", now)
        done = await living.scavenge(
            self._database, self.schema, batch=batch, pause=pause, dry_run=dry_run, now=now, on_batch=on_batch
        )
        if not dry_run:
            self.lifecycle.tell(StoreKind.SCAVENGED, events=done.events)
        return done

    # -- subscriptions

    @property
    def registry(self) -> ConsumerRegistry[tuple[str, int]]:
        """The consumers that run this node's emitters, under (subscription, partition); a new one at each `run`."""
        return self._pools.registry

    async def subscribe(
        self,
        name: str,
        selector: Selector,
        *,
        pool_size: int = 1,
        after: After = 0,
        policy: FailurePolicy | None = None,
        sink: str | None = None,
        sink_options: Mapping[str, Any] | None = None,
    ) -> Subscription:
        """Store a subscription, or find the same definition stored already. Call it at every start.

        A definition is all of this but *pool_size*.

        Args:
            pool_size: number of partitions, 1 to 1024: how many events are handled at once. Order holds per stream.
                It is the size to begin with; `subscriptions.resize` changes it for good.
            after: a position (exclusive), ``"current"``, or a time; resolved once, when it is stored.
            policy: what happens to events whose handler fails; by default it is called five times, then the event is
                parked, and the later events of its stream queue behind it.
            sink: where to deliver without a handler: ``pubsub:<topic>``, ``https://…``, ``http://…`` or ``stdout``.
            sink_options: how, by name; each sink has its own, see `check_sink`.

        Raises:
            SubscriptionExists: the name is taken by another definition; the error names what differs.
            ConfigurationError: a value is out of range.
        """
        options = encode_options(policy, sink, sink_options)
        stored, created = await self._ledger.create_if_new(
            name, selector, after=after, pool_size=pool_size, options=options
        )
        if created:
            self._tell("subscription_created", name, pool_size=pool_size)
        elif pool_size not in (1, stored.pool_size, stored.resize_to):
            log.warning(
                "subscription %r has %d partitions, and not %d as declared: subscriptions.resize() changes that",
                name, stored.pool_size, pool_size,
            )  # fmt: skip
        self._pools.look()
        return stored

    async def unsubscribe(self, name: str) -> None:
        """Delete a subscription with its checkpoints and parked events (`SubscriptionNotFound`)."""
        await self.subscriptions.delete(name)

    def use(self, middleware: Middleware) -> Middleware:
        """Put *middleware* around every handler and projection of this store, the first one outermost.

        Sinks have none. It takes what delivers and returns what is called in its place::

            @store.use
            def timed(call):
                async def timed_call(events, delivery, transaction):
                    began = perf_counter()
                    await call(events, delivery, transaction)
                    took.observe(perf_counter() - began)
                return timed_call

        Raises:
            AlreadyStarted: the emitters run already.
        """
        if self._pools.active:
            raise AlreadyStarted("use() middleware before run()")
        self._middleware.append(middleware)
        return middleware

    @overload
    def handler(  # type: ignore[overload-overlap]  # 1 is an int as well, and the first that fits counts
        self,
        name: str,
        selector: Selector | None = None,
        *,
        pool_size: int = 1,
        after: After = 0,
        policy: FailurePolicy | None = None,
        batch_size: Literal[1] = 1,
        ack: Literal["auto", "manual"] = "auto",
    ) -> Callable[[Handler], Handler]: ...

    @overload
    def handler(
        self,
        name: str,
        selector: Selector | None = None,
        *,
        pool_size: int = 1,
        after: After = 0,
        policy: FailurePolicy | None = None,
        batch_size: int,
        ack: Literal["auto"] = "auto",
    ) -> Callable[[BatchHandler], BatchHandler]: ...

    def handler(
        self,
        name: str,
        selector: Selector | None = None,
        *,
        pool_size: int = 1,
        after: After = 0,
        policy: FailurePolicy | None = None,
        batch_size: int = 1,
        ack: Literal["auto", "manual"] = "auto",
    ) -> Callable[[Any], Any]:
        """Register the handler of a subscription: ``async def handle(event, delivery)``.

        It returns: the event is settled. It raises, or returns anything but None: the event is delivered again as the
        failure policy says, and later ones of its stream wait. With a *selector* the subscription is declared by
        `run`, with the options of `subscribe`.

        Args:
            batch_size: above 1 it is called with a list of up to so many events. A batch that fails is delivered again
                event by event, as lists of one.
            ack: ``"manual"``: returning settles nothing; ``delivery.ack()``, ``nack()`` or ``park()`` does, whenever.
                Meanwhile other streams go on, up to `Settings.window` events. Without a ``timeout`` in the policy a
                word that never comes is waited for without end.

        Raises:
            AlreadyStarted: the subscription has a handler, or the emitters run already.
            ConfigurationError: it is no async function of two arguments, or an option is out of range.
        """
        if batch_size > 1 and ack == "manual":
            raise ConfigurationError("events of a batch are settled by returning; ack='manual' goes with batch_size=1")
        if ack not in ("auto", "manual"):
            raise ConfigurationError(f"ack is 'auto' or 'manual', not {ack!r}")

        def register(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            shape = "(events, delivery)" if batch_size > 1 else "(event, delivery)"
            check_callable(name, function, 2, shape)
            call = batches(function) if batch_size > 1 else singles(function)
            self._register(Registration(name, call, batch_size, ack == "manual"), definition)
            return function

        definition = self._definition(name, selector, pool_size, after, policy)
        check_batch_size(name, batch_size)
        return register

    def projection(
        self,
        name: str,
        selector: Selector | None = None,
        *,
        pool_size: int = 1,
        after: After = 0,
        policy: FailurePolicy | None = None,
        batch_size: int = 500,
    ) -> Callable[[Projection], Projection]:
        """Register a projection: ``async def project(events, tx)`` or ``project(events, tx, delivery)``.

        Exactly once: *tx* is an asyncpg connection inside the transaction that ends with the checkpoint, so that what
        is written through it is there if and only if the events are settled. It must not commit or roll back itself,
        nor leave *tx* idle for longer than `Settings.lease_ttl`: Postgres ends it then.
        A batch that fails is rolled back and delivered event by event; nothing overtakes an event that is tried again.

        Args:
            batch_size: most events of one transaction.
            pool_size, after, policy: as in `subscribe`; the subscription is declared by `run` if there is a *selector*.

        Raises:
            AlreadyStarted, ConfigurationError: as `handler`.
        """

        def register(function: Projection) -> Projection:
            arguments = check_callable(name, function, (2, 3), "(events, tx) or (events, tx, delivery)")
            call = projections(function, arguments)
            self._register(Registration(name, call, batch_size, transactional=True), definition)
            return function

        definition = self._definition(name, selector, pool_size, after, policy)
        check_batch_size(name, batch_size)
        return register

    def _definition(
        self, name: str, selector: Selector | None, pool_size: int, after: After, policy: FailurePolicy | None
    ) -> Callable[[], Awaitable[object]] | None:
        if policy is not None and not isinstance(policy, FailurePolicy):
            raise ConfigurationError(f"policy of {name!r} is a FailurePolicy, not {type(policy).__name__}")
        check_subscription(name, after, pool_size)
        if selector is not None:
            try:
                check_selector(selector)
            except InvalidSelector as error:
                raise InvalidSelector(f"the handler of {name!r}: {error}") from None
            return partial(self.subscribe, name, selector, pool_size=pool_size, after=after, policy=policy)
        if (pool_size, after, policy) != (1, 0, None):
            raise ConfigurationError(
                f"pool_size, after and policy of {name!r} need a selector to declare the subscription with"
            )
        return None

    def _register(self, registration: Registration, definition: Callable[[], Awaitable[object]] | None) -> None:
        if self._pools.active:
            raise AlreadyStarted(f"register the handler of {registration.name!r} before run()")
        if registration.name in self._handlers:
            raise AlreadyStarted(f"subscription {registration.name!r} has a handler already")
        self._handlers[registration.name] = registration
        if definition is not None:
            self._declared[registration.name] = definition

    async def run(self, *, drain_grace: float | None = None, handle_sigterm: bool = True) -> None:
        """Deliver events until cancelled: to the handlers, to sinks, and to mailboxes of ``subscription:<name>``.

        SIGTERM, and closing the store, drain: what is being handled is finished and settled, then `run` returns.

        Args:
            drain_grace: seconds that handlers may take to finish then; by default `Settings.drain_grace`.
            handle_sigterm: False leaves the signal to the program, as inside of a web server, which closes the store
                when it ends.

        Raises:
            SubscriptionNotFound: a handler names a subscription that is neither stored nor declared.
            ConfigurationError: the role may not run subscriptions.
            DatabaseUnavailable: the database cannot be reached, or is a standby, before it has begun.
            AlreadyStarted: it runs already.
        """
        if not self._handlers:
            log.warning("no handler is registered: only sinks, and mailboxes of subscription:<name>, are delivered to")
        handlers = {name: wrapped(one, self._middleware) for name, one in self._handlers.items()}
        grace = self.settings.drain_grace if drain_grace is None else drain_grace
        try:
            await self._pools.run(handlers, self._prepared, self._outlets.registrations, grace, handle_sigterm)
        except Exception as error:
            # Often it is a task that nobody looks at.
            log.error("the emitters did not start, or ended: %s", error)
            raise

    @asynccontextmanager
    async def running(self, *, drain_grace: float | None = None) -> AsyncIterator[None]:
        """Deliver events beside the block, as in the lifespan of a web application.

        The block begins when this node has claimed its first partitions; leaving it drains. SIGTERM stays with the
        program.

        Raises:
            SubscriptionNotFound, SubscriptionExists, AlreadyStarted: as `run`, before the block.
        """
        running = asyncio.create_task(self.run(drain_grace=drain_grace, handle_sigterm=False), name="store.run")
        started = asyncio.create_task(self.started())
        try:
            await asyncio.wait((running, started), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield
        finally:
            started.cancel()
            self._pools.drain()
            await to_its_end(running)

    async def started(self) -> None:
        """Wait until `run` has stored what handlers declare and has claimed this node's first partitions."""
        await self._pools.ready.wait()

    @asynccontextmanager
    async def _prepared(self) -> AsyncIterator[None]:
        """What stands before the emitters begin and until they have ended."""
        await self._declare()
        presence = Tasks()
        if self._signals.listener is not None:
            shown = NodePresence(self.pubsub, self._pools, self.node_name, __version__)
            presence.supervise("presence", shown.run)
            presence.supervise("wanted", self._wanted.run)
        try:
            yield
        finally:
            await to_its_end(presence.stop())
            await to_its_end(self._outlets.close())

    async def nodes(self) -> list[Node]:
        """Return the nodes that run handlers, or did and left no word, with the partitions each owns."""
        return await self._ledger.nodes()

    async def _declare(self) -> None:
        # A lease of nobody: a role that may hold none is told so here, and does not try again and again.
        await self._ledger.renew(uuid4(), self.settings.lease_ttl)
        for declare in self._declared.values():
            await declare()
        await self._ledger.check_stored(self._handlers)

    def _tell(self, kind: str, subscription: str | None = None, **payload: Any) -> None:
        about = {} if subscription is None else {"subscription": subscription}
        self.lifecycle.tell(StoreKind(kind), **about, **payload)
