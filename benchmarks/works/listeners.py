"""What nodes that listen cost those who append."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

from benchmarks.bench import Bench
from benchmarks.measure import drive
from benchmarks.model import Comparison, Sample, Sides, work
from benchmarks.sides import appender
from eventstore import All

__all__ = ["listeners"]

SETTLED = 0.3
"""Seconds for a node to come to rest before the clock starts."""


@work(
    10,
    "listeners",
    "appends of 8 callers while another process listens",
    Comparison("handling node", "alone", at_least=0.80),
    Comparison("idle node", "alone", at_least=0.95),
    pairs=10,
)
@asynccontextmanager
async def listeners(bench: Bench) -> AsyncIterator[Sides]:
    """Always: 8 tasks append single events to streams of their own. Alone: nobody else has the store open. Idle node:
    another process has it open, hears every signal and has subscribed to nothing. Handling node: the other process
    runs a subscription to everything, from now on, with one partition and a handler that does nothing. The process is
    there in every round and is only told to open or close, and it shares the machine's cores with the writers."""
    async with bench.store() as store, bench.helpers(1) as (helper,):
        callers, names = [appender(store, f"stream-{number}") for number in range(8)], count()
        behind: list[float] = []

        async def beside(node: str, seconds: float) -> Sample:
            if node == "alone":
                return await drive(callers, seconds)
            name = f"all-{next(names)}" if node == "handling node" else None
            if name:
                await store.subscribe(name, All(), after="current")
            await helper.call("listen", subscription=name)
            await asyncio.sleep(SETTLED)
            sample = await drive(callers, seconds)
            handled = await helper.call("leave")
            if name:
                behind.append(handled / sample.count)
                await store.unsubscribe(name)
            return sample

        yield {node: partial(beside, node) for node in ("alone", "idle node", "handling node")}
        if behind:
            bench.notes.append(f"handled when the clock stopped: {min(behind):.0%} of the events or more")
