"""How long after an append begins a listener has the event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measure import repeat
from benchmarks.model import Comparison, Sides, work
from benchmarks.sides import new_event
from eventstore import EventStore

__all__ = ["latency"]

PAUSE = 0.01
"""Seconds between two appends, so that one is heard before the next."""


@work(
    14,
    "latency",
    "from append to listener, against raw NOTIFY",
    Comparison("one node", "notify", "p50"),
    Comparison("two nodes", "notify", "p50"),
    Comparison("one node", "append", "p50"),
)
@asynccontextmanager
async def latency(bench: Bench) -> AsyncIterator[Sides]:
    """Notify: the time from `select pg_notify` on one connection to the callback of LISTEN on another; it writes
    nothing, so it does not wait for the disk. Ours: the time from the call of `append` to the decoded event coming out
    of `listen`; the durable append, the signal and the reading of the event are inside. Append: until `append` returns,
    of the same appends. One node: the same store appends and listens. Two nodes: one store appends, another listens,
    woken through NOTIFY."""
    async with (
        bench.store() as one,
        EventStore(bench.dsn, schema=bench.schema, node_name="two") as two,
        bench.connection() as sender,
        bench.connection() as receiver,
        one.listen() as same,
        two.listen() as other,
    ):
        heard: asyncio.Queue[Any] = asyncio.Queue()
        await receiver.add_listener("benchmark", lambda *_: heard.put_nowait(perf_counter()))
        statement = await sender.prepare("select pg_notify('benchmark', '')")

        async def notify() -> tuple[int, float]:
            await asyncio.sleep(PAUSE)
            began = perf_counter()
            await statement.fetch()
            return 1, await heard.get() - began

        async def appended() -> tuple[int, float]:
            await asyncio.sleep(PAUSE)
            event = new_event()
            began = perf_counter()
            await one.append("latency", [event])
            took = perf_counter() - began
            await anext(same)
            await anext(other)
            return 1, took

        async def append(listening: AsyncIterator[Any], second: AsyncIterator[Any]) -> tuple[int, float]:
            await asyncio.sleep(PAUSE)
            event = new_event()
            began = perf_counter()
            appending = asyncio.create_task(one.append("latency", [event]))
            received = await anext(listening)
            took = perf_counter() - began
            await appending
            await anext(second)
            assert received.id == event.id
            return 1, took

        yield {
            "notify": partial(repeat, notify),
            "append": partial(repeat, appended),
            "one node": partial(repeat, lambda: append(same, other)),
            "two nodes": partial(repeat, lambda: append(other, same)),
        }
