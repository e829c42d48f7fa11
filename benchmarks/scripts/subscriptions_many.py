"""Ten thousand subscriptions on one node, of five kinds: ``python -m benchmarks.scripts.subscriptions_many``.

Each event is wanted by five of them, one of each kind. Start: from opening the store, with the subscriptions stored
and the log behind them handled, until each has come to the end of the log. History: the same with all events to be
delivered on the way. Idle: once nothing came for so long that every consumer has been suspended.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from time import perf_counter, process_time

from benchmarks.bench import Bench
from benchmarks.scripts.subscriptions_appender import EVERY_KIND
from benchmarks.scripts.subscriptions_room import Figure, appender, live, parser, room, rss, show
from benchmarks.works.subscriptions import Counter, running
from eventstore import Delivery, Event, EventPattern, EventPayload, EventStore, EventType, Settings, Stream, Tags
from eventstore.selectors import Selector

SETTINGS = Settings(hibernate_after=2.0)

STORING = 32
"""Subscriptions that are stored at once."""


def selectors(a_kind: int) -> Iterable[tuple[str, Selector]]:
    """Yield names and selectors, *a_kind* of each kind; patterns are half globs and half documents."""
    for key in range(a_kind):
        pattern = f"orders-{key}-*" if key % 2 else {"metadata": {"shop": key}}
        yield f"stream-{key}", Stream(f"orders-{key}-eu")
        yield f"type-{key}", EventType(f"Happened{key}")
        yield f"pattern-{key}", EventPattern(pattern)
        yield f"payload-{key}", EventPayload({"customer": {"id": key}})
        yield f"tags-{key}", Tags(f"customer:{key}")


async def measured(arguments: argparse.Namespace) -> list[Figure]:
    """Store the subscriptions, then start them on a history, start them anew, deliver live, and be idle."""
    a_kind = arguments.subscriptions // EVERY_KIND
    async with room(arguments.dsn, "many", shared_preload_libraries="pg_stat_statements") as bench:
        await EventStore.migrate(bench.dsn, schema=bench.schema)
        await bench.execute("create extension if not exists pg_stat_statements")
        try:
            figures = [await _stored(bench, a_kind)]
            await _appended(bench, arguments.events, a_kind)
            await bench.execute("analyze", "checkpoint")
            figures += await _history(bench, a_kind, arguments.events)
            figures += await _live(bench, a_kind, arguments.events, arguments.idle)
        finally:
            await bench.execute(f"drop schema {bench.schema} cascade")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return [*figures, Figure("resident memory, peak", peak, "MiB", at_most=400)]


async def _appended(bench: Bench, events: int, a_kind: int) -> float:
    """Let another process append, and end; returns when it began."""
    async with appender(bench) as other:
        began: float = await other.call("matching", events=events, of=a_kind)
    return began


async def _history(bench: Bench, a_kind: int, events: int) -> list[Figure]:
    async with _node(bench, a_kind, events * EVERY_KIND) as (node, counter, began):
        await counter.done.wait()
        await live(node, a_kind * EVERY_KIND)
        return [Figure(f"start on a history of {events:,} events", perf_counter() - began, "s", digits=1)]


async def _live(bench: Bench, a_kind: int, events: int, idle: float) -> list[Figure]:
    async with _node(bench, a_kind, events * EVERY_KIND) as (node, counter, began):
        await live(node, a_kind * EVERY_KIND)
        started, memory = perf_counter() - began, rss()
        # As `eventstore work` does: see "Many subscriptions" in docs/subscriptions.md.
        gc.collect()
        gc.freeze()
        sent = await _appended(bench, events, a_kind)
        await counter.done.wait()
        rate = events / (counter.ended - sent)
        return [
            Figure("start to all caught up", started, "s", at_most=15, digits=1),
            Figure("resident memory, started", memory, "MiB", at_most=400),
            Figure("live events", rate, "/s", at_least=2_000),
            Figure("live deliveries", rate * EVERY_KIND, "/s", at_least=10_000),
            Figure("resident memory, delivered", rss(), "MiB", at_most=400),
            *await _idle(bench, node, idle),
        ]


async def _stored(bench: Bench, a_kind: int) -> Figure:
    async with EventStore(bench.dsn, schema=bench.schema) as store:
        began, left = perf_counter(), iter(list(selectors(a_kind)))

        async def store_some() -> None:
            for name, selector in left:
                await store.subscribe(name, selector)

        await asyncio.gather(*(store_some() for _ in range(STORING)))
        return Figure("storing them", perf_counter() - began, "s", digits=1)


@asynccontextmanager
async def _node(bench: Bench, a_kind: int, deliveries: int) -> AsyncIterator[tuple[EventStore, Counter, float]]:
    """Yield a node that delivers to all of them, what it delivered, and when it was opened."""
    store, counter = EventStore(bench.dsn, schema=bench.schema, settings=SETTINGS), Counter(deliveries)

    async def handle(_event: Event, _delivery: Delivery) -> None:
        counter.take(1)

    for name, _ in selectors(a_kind):
        store.handler(name)(handle)
    began = perf_counter()
    async with asyncio.timeout(600), running(store):
        yield store, counter, began


async def _idle(bench: Bench, node: EventStore, seconds: float) -> list[Figure]:
    """Wait until every consumer is suspended and every checkpoint stored; then look at what rest costs."""
    async with asyncio.timeout(120):
        while node.registry.active_consumer_count() or any(one.progress.unstored for one in node._pools.emitters):
            await asyncio.sleep(0.1)
    await asyncio.sleep(6)  # the positions that were only looked at are stored
    async with bench.connection() as connection:
        await connection.execute("select pg_stat_statements_reset()")
        cpu, began = process_time(), perf_counter()
        await asyncio.sleep(seconds)
        cpu, took = process_time() - cpu, perf_counter() - began
        queries = await connection.fetchval("select sum(calls) - 1 from pg_stat_statements")  # without the reset
    return [
        Figure("idle: queries", float(queries) / took, "/s", at_most=2, digits=2),
        Figure("idle: processor", 100 * cpu / took, "%", at_most=1, digits=2),
        Figure("idle: tasks of the node", len(asyncio.all_tasks()), "", at_most=100),
    ]


def main() -> None:
    made = parser(__doc__, events=20_000, subscriptions=10_000)
    made.add_argument("--idle", type=float, default=30.0, metavar="SECONDS")
    show(measured, made.parse_args())


if __name__ == "__main__":
    main()
