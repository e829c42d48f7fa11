"""Reading into events, beside fetching the same columns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

import asyncpg

from benchmarks.bench import Bench
from benchmarks.measure import repeat
from benchmarks.model import Comparison, Sides, work
from eventstore import Event

__all__ = ["read_all", "read_stream"]

COLUMNS = "id, type, data, metadata, tags, stream, version, position, bucket, created_at, recorded_at"


@work(8, "read-stream", "read one stream", Comparison("ours", "floor", at_least=0.45))
@asynccontextmanager
async def read_stream(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: `read` of one stream of 10,000 events into `Event` objects, JSON decoded. Floor: the same columns of the
    same table by a prepared statement in pages of the same size, left as rows with JSON as text, nothing decoded."""
    async with bench.store() as store, bench.connection() as connection:
        count = await bench.fill(store, bench.size(10_000, 5_000), seconds=30, streams=1)
        page = await connection.prepare(
            f"select {COLUMNS} from {bench.schema}.events"
            f" where stream = $1 and version > $2 order by version limit {store.settings.page_size}"
        )
        yield {
            "floor": partial(repeat, lambda: _fetched(page, ["filled-0"], "version", count)),
            "ours": partial(repeat, lambda: counted(store.read("filled-0"), count)),
        }


@work(9, "read-all", "read everything", Comparison("ours", "floor", at_least=0.45))
@asynccontextmanager
async def read_all(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: `read_all` of 50,000 events of 50 streams into `Event` objects, up to the horizon. Floor: the same columns
    by position, in pages of the same size, left as rows; it does not ask whether an append is still in flight."""
    async with bench.store() as store, bench.connection() as connection:
        count = await bench.fill(store, bench.size(50_000, 10_000), seconds=30, streams=50)
        page = await connection.prepare(
            f"select {COLUMNS} from {bench.schema}.events"
            f" where position > $1 order by position limit {store.settings.page_size}"
        )
        yield {
            "floor": partial(repeat, lambda: _fetched(page, [], "position", count)),
            "ours": partial(repeat, lambda: counted(aiter(store.read_all()), count)),
        }


async def counted(events: AsyncIterator[Event], expected: int) -> tuple[int, float]:
    """Read *expected* events, and return what it took."""
    began, count = perf_counter(), 0
    async for _ in events:
        count += 1
        if count == expected:
            break
    took = perf_counter() - began
    if count < expected:
        raise RuntimeError(f"read {count} events instead of {expected}")
    return count, took


async def _fetched(
    page: asyncpg.prepared_stmt.PreparedStatement, bound: list[str], key: str, expected: int
) -> tuple[int, float]:
    began, after, count = perf_counter(), 0, 0
    while rows := await page.fetch(*bound, after):
        count += len(rows)
        after = rows[-1][key]
    took = perf_counter() - began
    if count != expected:
        raise RuntimeError(f"fetched {count} rows instead of {expected}")
    return count, took
