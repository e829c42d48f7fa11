"""PubSub over LISTEN and NOTIFY: nothing to operate but the Postgres that is there anyway."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventstore.database import Borrowable, borrowed
from eventstore.errors import AlreadyStarted, ConfigurationError, DatabaseUnavailable, EventStoreError
from eventstore.listening import HEARD_WITHIN, Listener, State
from eventstore.pubsub.adapter import Envelope, Receiver
from eventstore.pubsub.arrivals import Arrivals
from eventstore.pubsub.frames import LARGE, Frame, Frames
from eventstore.pubsub.outbox import Outbox, Refused
from eventstore.pubsub.postgres_connections import Line, source_of
from eventstore.pubsub.postgres_tables import Tables
from eventstore.schema import DEFAULT_SCHEMA, check_schema_name
from eventstore.service import Moments, Tasks, to_its_end
from eventstore.tenants import check_tenant_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Postgres"]

log = logging.getLogger(__name__)

PURGE_EVERY = 30.0
"""Seconds between two deletions of expired bodies by a node that stores some."""

PURGE_WITHIN = 1.0
"""Seconds that a start may take for deleting expired bodies; the rest is deleted later."""

RENEW_WITHIN = 60.0
"""Seconds between two attempts to make sure of the tables again, at most."""

SHARED_WITHIN = 1.0
"""Seconds to wait for a shared listener that does not listen yet."""

CLOSE_WITHIN = 1.0
"""Seconds that what is being sent may take when the adapter closes."""

COUNTERS = ("sent", "received", "frames_sent", "frames_received", "rejected", "spilled", "lost", "reconnects")


class Postgres:
    """The nodes that use one database and schema, through notifications that are signed.

    A node has one connection that listens, and one more from its first broadcast on. Behind a pooler in transaction
    mode nothing can be heard; a *listener* with a direct connection helps.

    Args:
        engine_or_dsn: a SQLAlchemy AsyncEngine over asyncpg, or ``postgresql://…``.
        node_name: unique among the nodes of one PubSub.
        schema: where its two tables are; they are created where they are missing.
        tenant: whose PubSub it is, in a schema with tenants: those of two never reach each other.
        create: False: the tables have to be there.
        listener: a started one of the same database to share, as an open store has; it is neither stopped nor waited
            for longer than a second.
        heartbeat_interval: seconds between two checks that the node hears itself.
        connect_timeout: seconds that connecting may take.
        statement_cache_size: prepared statements per connection from a DSN; None: 100, and 0 behind a pooler.
        clock: seconds, for how often expired bodies are deleted.

    Attributes:
        counters: since the start: ``sent`` (envelopes handed to the database, also in a transaction that was rolled
            back later) and ``received``, ``frames_sent``, ``frames_received``, ``rejected`` (forged, changed, or
            repeated), ``spilled`` (stored, because too large), ``lost`` (known to be), ``reconnects``.
        moments: ``purged``.

    Raises:
        ConfigurationError: an argument is none of these.
    """

    def __init__(
        self,
        engine_or_dsn: AsyncEngine | str,
        *,
        node_name: str,
        schema: str = DEFAULT_SCHEMA,
        tenant: str | None = None,
        create: bool = True,
        listener: Listener | None = None,
        heartbeat_interval: float = 10.0,
        connect_timeout: float = 10.0,
        statement_cache_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(node_name, str) or not node_name:
            raise ConfigurationError(f"node_name must be a text that no other node has, not {node_name!r}")
        self.schema, self._node_name = check_schema_name(schema), node_name
        self._source = source_of(engine_or_dsn, timeout=connect_timeout, cache=statement_cache_size)
        self.tenant = None if tenant is None else check_tenant_name(tenant)
        self._tables = Tables(schema, tenant)
        self._shared, self._heartbeat_interval, self._connect_timeout = listener, heartbeat_interval, connect_timeout
        for option, seconds in (("heartbeat_interval", heartbeat_interval), ("connect_timeout", connect_timeout)):
            if not 0 < seconds < 1e6:
                raise ConfigurationError(f"{option} must be a number of seconds above 0, not {seconds!r}")
        self._create, self._clock = create, clock
        self._running: _Running | None = None
        self.moments = Moments()
        self.counters = dict.fromkeys(COUNTERS, 0)

    @property
    def node_name(self) -> str:
        """The name of this node."""
        return self._node_name

    async def start(self, deliver: Receiver) -> None:
        """Make sure of the tables and begin to listen.

        Raises:
            AlreadyStarted: it runs already.
            ConfigurationError: the DSN is malformed, or a right is missing; a tenant is named and the schema has none,
                or the other way round.
            DatabaseUnavailable: the database cannot be reached, or not be listened to (unless the listener is shared).
        """
        if self._running is not None:
            raise AlreadyStarted("this adapter runs already; each PubSub needs one of its own")
        self.counters = dict.fromkeys(COUNTERS, 0)
        line = Line(self._source, "notifier")
        try:
            key = await self._prepared(line, deliver.name)
            more = await self._purged(line)
        finally:
            await line.close()
        async with AsyncExitStack() as started:
            running = _Running(self, deliver, key, line)
            started.push_async_callback(running.end)
            await running.open(self._shared or self._new_listener(), self._connect_timeout + HEARD_WITHIN)
            if more:
                running.purge()
            self._running = running
            started.pop_all()

    async def _prepared(self, line: Line, name: str) -> bytes:
        return await line.run(lambda connection: self._tables.prepare(connection, name, create=self._create))

    async def _purged(self, line: Line) -> bool:
        """Delete some of what expired, and tell whether there may be more; no start fails because of that."""
        try:
            async with asyncio.timeout(PURGE_WITHIN):
                return await line.run(self._tables.purge)
        except (TimeoutError, EventStoreError, asyncpg.PostgresError) as error:
            log.debug("expired bodies stay for now: %s", error)
            return True

    async def broadcast(self, envelope: Envelope) -> None:
        """Send *envelope*; returns once the database has committed it.

        Raises:
            InvalidMessage: it is too large.
            DatabaseUnavailable: it was not sent, or nobody knows; it is not tried again.
        """
        running = self._open()
        await running.outbox.send(await running.prepared(envelope))
        running.counters["sent"] += 1

    async def direct_broadcast(self, node: str, envelope: Envelope) -> None:
        """Send *envelope*, which names its receiver; see `broadcast`."""
        await self.broadcast(envelope)

    async def broadcast_in(self, connection: Borrowable, envelope: Envelope) -> None:
        """Send *envelope* if and when the transaction open on *connection* commits.

        Raises:
            ConfigurationError: there is no open transaction, or it is in another database.
            InvalidMessage, DatabaseUnavailable: as `broadcast`.
        """
        running = self._open()
        frames = running.packed([await running.prepared(envelope)])
        async with borrowed(connection) as lent:
            await self._tables.notify_in(lent, frames, running.name, running.key)
        running.count(frames)
        running.counters["sent"] += 1

    async def close(self) -> None:
        """Send what waits, for a second at most, and close all connections; what is left fails."""
        running, self._running = self._running, None
        if running is not None:
            await running.end()

    def _open(self) -> _Running:
        if self._running is None:
            raise DatabaseUnavailable("the adapter was not started, or is closed")
        return self._running

    def _new_listener(self) -> Listener:
        return Listener(
            lambda: self._source.open("listener"),
            close=self._source.close,
            heartbeat_interval=self._heartbeat_interval,
            connect_timeout=self._connect_timeout,
        )


class _Running:
    """An adapter between its start and its close."""

    def __init__(self, adapter: Postgres, deliver: Receiver, key: bytes, line: Line) -> None:
        self.name, self.key = deliver.name, key
        self.frames, self.outbox = Frames(key), Outbox(self._flush)
        self._adapter, self._deliver, self._line = adapter, deliver, line
        self._tables, self.counters = adapter._tables, adapter.counters
        self._arrivals = Arrivals(self.frames, deliver, self._fetch, self.counters)
        self._tasks = Tasks()
        self._listener: Listener | None = None
        self._forget_state: Callable[[], object] = lambda: None
        self._lost = self._closed = False
        self._renewal: asyncio.Task[None] | None = None
        self._preparing = asyncio.Lock()
        self._purged = adapter._clock()

    async def open(self, listener: Listener, within: float) -> None:
        self._tasks.supervise("pubsub sender", self.outbox.run)
        self._tasks.supervise("pubsub receiver", self._arrivals.run)
        self._listener = listener
        for channel in self._channels():
            await listener.listen(channel, self._arrivals)
        if listener is not self._adapter._shared:
            await listener.start()
            await listener.ready(within)
        else:
            await self._soon(listener)
        self._forget_state = listener.on_state(self._listener_is)

    async def _soon(self, listener: Listener) -> None:
        """Give a shared *listener* a moment. Who shares it lives without it, and so does its PubSub."""
        try:
            await listener.ready(SHARED_WITHIN)
        except DatabaseUnavailable as error:
            log.warning("messages of other nodes do not arrive yet: %s", error)
            self._lost = True

    async def end(self) -> None:
        """Stop sending, then receiving, however often this is cancelled."""
        await to_its_end(self._close())

    async def _close(self) -> None:
        self._closed = True
        # First: what is told from now on would begin work that nobody ends.
        self._forget_state()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.outbox.drained()
        await self._tasks.stop()
        self.outbox.close()
        if self._listener is not None:
            await self._leave(self._listener)
        await self._line.close()

    async def _leave(self, listener: Listener) -> None:
        if listener is not self._adapter._shared:
            await listener.stop()
        for channel in self._channels():
            await listener.unlisten(channel, self._arrivals)

    def _channels(self) -> list[str]:
        return [self._channel(shard) for shard in range(self._deliver.pool_size)]

    def _channel(self, shard: int) -> str:
        """Return a name of a fixed alphabet: nobody's text becomes part of a LISTEN.

        LISTEN knows no privileges. So where there are tenants only who may read the key can tell the name.
        """
        name = f"{self._adapter.schema}\0{self._deliver.name}\0{shard}"
        key = b"" if self._adapter.tenant is None else self.key
        return "es_" + blake2b(name.encode(errors="surrogatepass"), digest_size=16, key=key).hexdigest()

    # -- losses

    def _listener_is(self, state: State) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if state == "lost":
            self._lost = True
            self._arrivals.missed()
            self._deliver.connection("lost")
        elif self._lost:
            self._lost = False
            self.counters["reconnects"] += 1
            self._deliver.connection("reconnected")
            self._renewal = self._tasks.supervise("pubsub renewal", self._renew, most=RENEW_WITHIN)

    async def _renew(self, _healthy: Callable[[], None]) -> None:
        """Make sure of key and tables: the database that came back may be another one, or one restored."""
        idle = self._line.idle
        try:
            await self._prepare()
        finally:
            if idle:
                await self._line.close()

    async def _prepare(self) -> None:
        key = await self._adapter._prepared(self._line, self.name)
        if key == self.key:
            return
        channels = self._channels()
        self.key, self.frames = key, Frames(key)
        self._arrivals.use(self.frames)
        await self._move(channels)
        if not self._lost:
            # What others signed with this key until now was rejected.
            self._deliver.connection("lost")
            self._deliver.connection("reconnected")

    async def _move(self, channels: list[str]) -> None:
        """Listen where those who have this key speak, and no more to *channels*, where they spoke before."""
        if self._listener is None or channels == self._channels():
            return
        for channel in self._channels():
            await self._listener.listen(channel, self._arrivals)
        for channel in channels:
            await self._listener.unlisten(channel, self._arrivals)

    # -- sending

    async def prepared(self, envelope: Envelope) -> Envelope:
        """Return *envelope*, checked; a large one is compressed, in a thread. Whoever comes later comes out later."""
        async with self._preparing:
            if len(envelope.message) + len(envelope.topic) > LARGE:
                return await asyncio.to_thread(self.frames.prepare, envelope)
            self.frames.check(envelope)
            return envelope

    def packed(self, envelopes: Iterable[Envelope]) -> list[tuple[str, Frame]]:
        """Return channels and frames; the order within a shard, and so of each sender, is kept."""
        of_shard = attrgetter("shard")
        return [
            (self._channel(shard), frame)
            for shard, group in itertools.groupby(sorted(envelopes, key=of_shard), of_shard)
            for frame in self.frames.pack(list(group))
        ]

    async def _flush(self, envelopes: list[Envelope]) -> None:
        try:
            await self._send_or_prepare(envelopes)
        except DatabaseUnavailable:
            raise
        except (EventStoreError, asyncpg.PostgresError) as error:
            # The server's answer, with which it rolled back.
            raise Refused from error

    async def _send_or_prepare(self, envelopes: list[Envelope]) -> None:
        try:
            await self._send(envelopes)
        except ConfigurationError as error:
            if not isinstance(error.__cause__, asyncpg.UndefinedTableError):
                raise
            await self._prepare()
            await self._send(envelopes)

    async def _send(self, envelopes: list[Envelope]) -> None:
        frames = self.packed(envelopes)
        if not any(map(self._for_this_node, envelopes)):
            for _, frame in frames:
                self._arrivals.ignore(frame.text)
        await self._line.run(lambda connection: self._tables.notify(connection, frames, hasty=True))
        self.count(frames)

    def _for_this_node(self, envelope: Envelope) -> bool:
        return envelope.mode == "all" or (envelope.mode == "only" and envelope.node == self._adapter.node_name)

    def count(self, frames: list[tuple[str, Frame]]) -> None:
        """Count *frames* as sent; who stores bodies also looks after those that expired."""
        self.counters["frames_sent"] += len(frames)
        spilled = sum(frame.spill is not None for _, frame in frames)
        self.counters["spilled"] += spilled
        if spilled and not self._closed and self._adapter._clock() - self._purged >= PURGE_EVERY:
            self.purge()

    def purge(self) -> None:
        """Delete what expired, in the background."""
        self._purged = math.inf  # not again until this one has ended
        self._tasks.spawn("pubsub purge", self._purge())

    async def _purge(self) -> None:
        try:
            # Whoever wants to send meanwhile gets the connection after each batch.
            while await self._line.run(self._tables.purge):
                pass
        except (EventStoreError, asyncpg.PostgresError) as error:
            log.debug("expired bodies stay for now: %s", error)
        self._purged = self._adapter._clock()
        self._adapter.moments.reach("purged")

    async def _fetch(self, id: UUID) -> bytes | None:
        return await self._line.run(lambda connection: self._tables.body(connection, id))
