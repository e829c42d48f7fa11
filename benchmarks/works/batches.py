"""Appends of a thousand events, beside COPY of the same rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

from benchmarks.bench import Bench
from benchmarks.measure import repeat
from benchmarks.model import Comparison, Sides, work
from benchmarks.sides import Floor, new_events

__all__ = ["batch", "batch_tagged"]

SIZE = 1000


@work(4, "batch", "1,000 events an append", Comparison("ours", "floor", at_least=0.60))
@asynccontextmanager
async def batch(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: `append` of 1,000 events, built before the clock starts, to one stream that they expect at its exact
    version; what it takes to send them is inside. Floor: COPY of the same rows, built before the clock starts, in a
    transaction of its own, into a table of the same columns and indexes. COPY is the fastest way into Postgres."""
    async with _sides(bench, tagged=False) as sides:
        yield sides


@work(5, "batch-tags", "1,000 events of 3 tags an append", Comparison("ours", "floor", at_least=0.40))
@asynccontextmanager
async def batch_tagged(bench: Bench) -> AsyncIterator[Sides]:
    """As batch, but our events have three tags each (one of 10, one of 1,000, one new), which the store indexes; the
    floor copies the same rows without tags and indexes none, so it has less to write."""
    async with _sides(bench, tagged=True) as sides:
        yield sides


@asynccontextmanager
async def _sides(bench: Bench, *, tagged: bool) -> AsyncIterator[Sides]:
    ours = copied = 0

    async with bench.store() as store, bench.connection() as connection:
        floor = await bench.floor()

        async def append() -> tuple[int, float]:
            nonlocal ours
            events = new_events(SIZE, tagged=tagged, first=ours)
            began = perf_counter()
            result = await store.append("batches", events, expected=ours)
            took = perf_counter() - began
            ours = result.version or 0
            return SIZE, took

        async def copy() -> tuple[int, float]:
            nonlocal copied
            events = new_events(SIZE)
            rows = [Floor.row(event, "batches", copied + number) for number, event in enumerate(events, 1)]
            began = perf_counter()
            await floor.copy(connection, rows)
            copied += SIZE
            return SIZE, perf_counter() - began

        yield {"floor": partial(repeat, copy), "ours": partial(repeat, append)}
