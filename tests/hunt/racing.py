"""What hunts for races share: how much, connections, named moments inside the server, and what a sound log is."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg

from eventstore import AppendCondition, DatabaseUnavailable, EventStore, NewEvent, Settings
from eventstore.log.append import Request, StreamAppend
from eventstore.log.coalescing import _arguments, _Waiting
from tests.conftest import QUICK

T = TypeVar("T")

FULL = os.environ.get("HUNT") == "full"
SEED = int(os.environ.get("HUNT_SEED", "0")) or random.randrange(1, 1 << 32)


def times(reduced: T, full: T) -> T:
    """How often, or how much: *full* under ``make hunt``."""
    return full if FULL else reduced


@asynccontextmanager
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        opened.terminate() if opened.is_in_transaction() else await opened.close()


@asynccontextmanager
async def stores(dsn: str, count: int, settings: Settings = QUICK) -> AsyncIterator[list[EventStore]]:
    """Open stores, each with connections of its own, as if they were processes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(EventStore(dsn, settings=settings)) for _ in range(count)]


@asynccontextmanager
async def locked(dsn: str, *streams: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the rows of streams that exist, until the block ends or the connection yielded commits."""
    async with connection(dsn) as holder:
        await holder.execute("begin")
        rows = await holder.fetch("select from eventstore.streams where name = any ($1) for update", list(streams))
        assert len(rows) == len(streams)
        yield holder
        if holder.is_in_transaction():
            await holder.execute("commit")


async def waiting_for_locks(observer: asyncpg.Connection, count: int = 1) -> None:
    """Return when *count* appends wait for a lock without end, which those do that waited for 50 ms before."""
    query = (
        "select count(*) >= $1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        " and query like '%append_events_v1%' and clock_timestamp() - query_start > '80 ms'"
    )
    async with asyncio.timeout(120):
        while not await observer.fetchval(query, count):
            await asyncio.sleep(0.005)


async def until(condition: Any) -> None:
    """Return when *condition()* holds."""
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.001)


async def batch(
    on: asyncpg.Connection, *parts: StreamAppend, conditions: dict[int, AppendCondition] | None = None
) -> list[asyncpg.Record]:
    """Send one batch of appends, as the coalescer does, on a connection of the test; *conditions* by index."""
    futures = [
        _Waiting(Request((part,), (conditions or {}).get(n)), asyncio.get_running_loop().create_future())
        for n, part in enumerate(parts)
    ]
    arguments = _arguments(futures)
    numbers = ", ".join(f"${n}" for n in range(1, len(arguments) + 1))
    return await on.fetch(f"select * from eventstore.append_batch_v1({numbers})", *arguments)


@asynccontextmanager
async def unguarded(sql: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction without the triggers that keep the log append-only, as only a test may."""
    async with sql.transaction():
        await sql.execute("set local session_replication_role = replica")
        yield


async def edit(sql: asyncpg.Connection, function: str, old: str, new: str) -> None:
    """Plant a bug: change the text of a function of the library."""
    text = await sql.fetchval("select pg_get_functiondef($1::regproc)", f"eventstore.{function}")
    assert old in text
    await sql.execute(text.replace(old, new))


async def forget(sql: asyncpg.Connection) -> None:
    """Empty the log."""
    async with unguarded(sql):
        for table in ("events", "event_tags", "streams"):
            await sql.execute(f"delete from eventstore.{table}")


async def stored_ids(sql: asyncpg.Connection) -> list[Any]:
    """The ids of all events, by position."""
    return [row["id"] for row in await sql.fetch("select id from eventstore.events order by position")]


async def unsound(sql: asyncpg.Connection) -> list[str]:
    """What is wrong with the log; an empty list if versions are 1, 2, 3 … in position order in every stream."""
    inverted = await sql.fetch(
        """
        select e.stream, e.position, e.version, e.nth
          from (select stream, position, version, row_number() over (partition by stream order by position) nth
                  from eventstore.events where stream is not null) e where e.version <> e.nth
        """
    )
    miscounted = await sql.fetch(
        """
        select s.name, s.version, count(e.stream) from eventstore.streams s
          left join eventstore.events e on e.stream = s.name group by s.name having s.version <> count(e.stream)
        """
    )
    untagged = await sql.fetch(
        """
        select position, tag from (select position, unnest(tags) tag from eventstore.events) e
          full join eventstore.event_tags t using (position, tag) where e.position is null or t.position is null
        """
    )
    return [str(dict(row)) for row in (*inverted, *miscounted, *untagged)]


async def held(sql: asyncpg.Connection) -> list[str]:
    """Locks and transactions of anybody."""
    locks = (
        "select l.* from pg_locks l join pg_database d on d.oid = l.database"
        " where l.locktype = 'advisory' and d.datname = current_database()"
    )
    idle = "select query from pg_stat_activity where datname = current_database() and state like 'idle in %'"
    return [str(dict(row)) for row in (*await sql.fetch(locks), *await sql.fetch(idle))]


async def left_behind(store: EventStore, sql: asyncpg.Connection, within: float = 30) -> list[str]:
    """What appends leave behind for good although none is under way: locks, transactions, lost connections."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while await held(sql):  # a session that was cut ends a moment later
                await asyncio.sleep(0.01)
    found = await held(sql)
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(within):
            for _ in range(store.settings.connections):
                lent = await stack.enter_async_context(store._database.acquire())
                assert await lent.fetchval("select 1") == 1
    except (TimeoutError, DatabaseUnavailable):
        found.append("a connection of the pool never comes back")
    coalescer = store._coalescer
    if coalescer._turns or coalescer._queue or coalescer._lanes != coalescer._most_lanes or coalescer._under_way:
        found.append(f"{coalescer._turns} {coalescer._queue} {coalescer._lanes} lanes {coalescer._under_way}")
    return found


def some(count: int = 1) -> list[NewEvent]:
    return [NewEvent("T") for _ in range(count)]


def tagged(*tags: str, type: str = "T") -> list[NewEvent]:
    return [NewEvent(type, tags=tags)]
