"""Subscriptions: catching up with a log that is there already, delivered at least once and projected exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measure import repeat
from benchmarks.model import Comparison, Sides, work
from benchmarks.works.reads import counted
from eventstore import All, Delivery, Event, EventStore

__all__ = [
    "Counter",
    "catch_up",
    "caught_up",
    "executemany",
    "projected",
    "projected_by_hand",
    "projection",
    "running",
    "unnest",
]

NAMES = count()

CUSTOMERS = 10_000
"""Rows of the projected table; events go over them all in turn."""

BATCH = 500
"""Events of one transaction, as a projection has them by default."""

UPSERT = """
    insert into {schema}.totals (customer, events, total) {source}
    on conflict (customer) do update
        set events = totals.events + excluded.events, total = totals.total + excluded.total
"""

Upsert = Callable[[str, list[Event], Any], Awaitable[object]]


class Counter:
    """Counts down what is handled.

    Attributes:
        done: set once everything expected was handled.
        ended: when that was.
    """

    def __init__(self, expected: int) -> None:
        self.left, self.done, self.ended = expected, asyncio.Event(), 0.0

    def take(self, handled: int) -> None:
        """Take note that so many events more were handled."""
        self.left -= handled
        if self.left <= 0 and not self.done.is_set():
            self.ended = perf_counter()
            self.done.set()


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[None]:
    """Open *store* and let it deliver; in the end it is drained, so that what is in hand is committed."""
    async with store:
        task = asyncio.create_task(store.run())
        try:
            yield
        except BaseException:
            task.cancel()
            raise
    await task


async def finished(store: EventStore, done: asyncio.Event) -> float:
    """Return the seconds from the call of `run` until *done* is set."""
    async with asyncio.timeout(600), running(store):
        began = perf_counter()
        await done.wait()
        return perf_counter() - began


async def caught_up(bench: Bench, events: int, batch_size: int = 1) -> tuple[int, float]:
    """Let a new subscription to everything deliver *events* events to a handler that does nothing."""
    counter, store = Counter(events), EventStore(bench.dsn, schema=bench.schema)

    async def one(_event: Event, _delivery: Delivery) -> None:
        counter.take(1)

    async def several(events: list[Event], _delivery: Delivery) -> None:
        counter.take(len(events))

    store.handler(f"all-{next(NAMES)}", All(), batch_size=batch_size)(one if batch_size == 1 else several)
    return events, await finished(store, counter.done)


@work(
    20,
    "catch-up",
    "a new subscription to everything catches up",
    Comparison("one by one", at_least=40_000),
    Comparison("one by one", "read_all", at_least=0.5),
    Comparison("in batches", "read_all"),
)
@asynccontextmanager
async def catch_up(bench: Bench) -> AsyncIterator[Sides]:
    """One by one: a subscription with one partition delivers 50,000 events to a handler of single events that does
    nothing, from the call of `run` to the last event: declaring it, taking the lease and claiming are inside, and so
    are the checkpoints, which keep what a crash would deliver again below a thousand events. In batches: the handler
    takes up to 500 events at once. Read_all: the same events by `read_all`, which delivers nothing to anybody."""
    async with bench.store() as store:
        events = await bench.fill(store, bench.size(50_000, 20_000), seconds=30, streams=50)
        yield {
            "read_all": partial(repeat, lambda: counted(aiter(store.read_all()), events)),
            "one by one": partial(repeat, lambda: caught_up(bench, events)),
            "in batches": partial(repeat, lambda: caught_up(bench, events, batch_size=500)),
        }


# -- projections


async def executemany(schema: str, events: list[Event], tx: Any) -> None:
    """Write one upsert for each event, all in one round trip."""
    rows = [(customer_of(event), event.data["total"]) for event in events]
    await tx.executemany(UPSERT.format(schema=schema, source="values ($1, 1, $2)"), rows)


async def unnest(schema: str, events: list[Event], tx: Any) -> None:
    """Write all events by one statement, added up by customer: a statement cannot update one row twice."""
    source = "select c, count(*), sum(t) from unnest($1::int[], $2::float8[]) as x (c, t) group by c"
    customers, totals = [customer_of(event) for event in events], [event.data["total"] for event in events]
    await tx.execute(UPSERT.format(schema=schema, source=source), customers, totals)


def customer_of(event: Event) -> int:
    """Return whose total an event adds to."""
    return event.position * 7919 % CUSTOMERS


async def make_totals(bench: Bench) -> None:
    """Make the projected table, beside the store's own."""
    await bench.execute(
        f"create table {bench.schema}.totals (customer int primary key, events bigint, total float8)",
        f"create table {bench.schema}.by_hand (position bigint)",
        f"insert into {bench.schema}.by_hand values (0)",
    )


async def projected(bench: Bench, events: int, upsert: Upsert) -> tuple[int, float]:
    """Let a new projection of everything write *events* events; fails unless each is there exactly once."""
    counter, store = Counter(events), EventStore(bench.dsn, schema=bench.schema)
    await bench.execute(f"truncate {bench.schema}.totals")

    @store.projection(f"totals-{next(NAMES)}", All(), batch_size=BATCH)
    async def project(events: list[Event], tx: Any) -> None:
        await upsert(bench.schema, events, tx)
        counter.take(len(events))

    took = await finished(store, counter.done)
    await check_totals(bench, events)
    return events, took


async def projected_by_hand(bench: Bench, events: int, upsert: Upsert) -> tuple[int, float]:
    """Do what a script would: `read_all`, and for each batch a transaction with the position it came to."""
    await bench.execute(f"truncate {bench.schema}.totals")
    async with EventStore(bench.dsn, schema=bench.schema) as store, bench.connection() as connection:
        began, batch, left = perf_counter(), list[Event](), events
        async for event in store.read_all():
            batch.append(event)
            left -= 1
            if len(batch) == BATCH or not left:
                async with connection.transaction():
                    await upsert(bench.schema, batch, connection)
                    await connection.execute(f"update {bench.schema}.by_hand set position = $1", event.position)
                batch = []
        took = perf_counter() - began
    await check_totals(bench, events)
    return events, took


async def check_totals(bench: Bench, events: int) -> None:
    """Fail unless the projected table counts *events* events."""
    async with bench.connection() as connection:
        found = await connection.fetchval(f"select sum(events) from {bench.schema}.totals")
    if found != events:
        raise RuntimeError(f"{found} events were projected instead of {events}")


@work(
    21,
    "projection",
    "a new projection of everything catches up, exactly once",
    Comparison("executemany", at_least=10_000),
    Comparison("unnest", at_least=10_000),
    Comparison("executemany", "executemany by hand", at_least=0.8),
    Comparison("unnest", "unnest by hand"),
)
@asynccontextmanager
async def projection(bench: Bench) -> AsyncIterator[Sides]:
    """A projection with one partition adds 20,000 events to the totals of 10,000 customers, in transactions of 500
    events that end with the checkpoint; the clock stops with the last call. Executemany: an upsert for each event.
    Unnest: one `insert ... select ... from unnest(...) group by` for each batch. By hand: a script that reads with
    `read_all` and updates a position of its own in each transaction, without lease, fencing or a failure policy. After
    each turn the totals are checked."""
    async with bench.store() as store:
        events = await bench.fill(store, bench.size(20_000, 10_000), seconds=30, streams=20)
        await make_totals(bench)
        yield {
            "executemany by hand": partial(repeat, lambda: projected_by_hand(bench, events, executemany)),
            "executemany": partial(repeat, lambda: projected(bench, events, executemany)),
            "unnest by hand": partial(repeat, lambda: projected_by_hand(bench, events, unnest)),
            "unnest": partial(repeat, lambda: projected(bench, events, unnest)),
        }
