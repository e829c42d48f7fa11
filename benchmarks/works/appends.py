"""Appends of single events, beside the INSERT of the same row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic

from benchmarks.bench import Bench, pooled
from benchmarks.measure import drive
from benchmarks.model import Comparison, Sample, Sides, work
from benchmarks.sides import appender

__all__ = ["append_1", "append_4x16", "append_64"]

PROCESSES, CALLERS = 4, 16


@work(1, "append-1", "one event an append, 1 writer, exact version", Comparison("ours", "floor", at_least=0.60))
@asynccontextmanager
async def append_1(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: `append` of one event of 256 bytes to one stream, expecting the exact version; the event is built, checked
    and encoded inside the clock. Floor: a prepared INSERT of the identical row, autocommitted, into a table of the
    same columns and indexes but no checks, no stream to look up and nobody to notify; the id and the time are made
    inside the clock, the JSON is not. Both commit durably and wait for it alone."""
    async with bench.store() as store, bench.inserters(await bench.floor(), 1) as inserts:
        yield {"floor": partial(drive, inserts), "ours": partial(drive, [appender(store, "one")])}


@work(
    2,
    "append-64",
    "one event an append, 64 callers",
    Comparison("ours", "floor", at_least=1.3),
    Comparison("ours", "floor", "p99", at_most=1.0),
)
@asynccontextmanager
async def append_64(bench: Bench) -> AsyncIterator[Sides]:
    """As append-1, from 64 tasks of one process, each with its own stream. Ours: one store with default settings, so
    10 connections. Floor: a connection of its own for each of the 64, so that none ever waits for one."""
    async with bench.store() as store, bench.inserters(await bench.floor(), 64) as inserts:
        ours = [appender(store, f"stream-{number}") for number in range(64)]
        yield {"floor": partial(drive, inserts), "ours": partial(drive, ours)}


@work(3, "append-4x16", "one event an append, 4 processes of 16 callers", Comparison("ours", "floor", at_least=1.0))
@asynccontextmanager
async def append_4x16(bench: Bench) -> AsyncIterator[Sides]:
    """As append-64, spread over 4 processes of 16 tasks that begin at the same moment. Ours: 4 stores with 10
    connections at most each. Floor: 64 connections. The rate is all events over the slowest process's time."""
    async with bench.store(), bench.helpers(PROCESSES) as helpers:
        await bench.floor()
        for number, helper in enumerate(helpers):
            await helper.call("prepare", name=f"process-{number}", callers=CALLERS)

        async def together(side: str, seconds: float) -> Sample:
            start = monotonic() + 0.1
            return pooled(
                await asyncio.gather(
                    *(helper.call("drive", side=side, seconds=seconds, start=start) for helper in helpers)
                )
            )

        yield {"floor": partial(together, "floor"), "ours": partial(together, "ours")}
