"""Figures of the registry of consumers, the best of several runs: ``python -m benchmarks.scripts.registry``."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time
from typing import Any

from eventstore.registry import Consumer, ConsumerRegistry

RUNS = 5
MANY = 10_000


async def handled(_: Any) -> None:
    """Do nothing."""


async def started(_: int) -> Consumer:
    return Consumer(handled)


def registry(**options: Any) -> ConsumerRegistry[int]:
    return ConsumerRegistry("bench", started, handled, **options)


async def best(work: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds of the fastest run."""
    taken = []
    for _ in range(RUNS):
        began = perf_counter()
        await work()
        taken.append(perf_counter() - began)
    return min(taken)


async def publishing(handles: int) -> None:
    events = dict.fromkeys(range(handles), "event")
    async with registry() as consumers:
        await consumers.publish(events)

        async def ten_rounds() -> None:
            for _ in range(10):
                await consumers.publish(events)

        seconds = await best(ten_rounds)
    print(f"publish to {handles:>5} live handles: {10 * handles / seconds:>9,.0f} events/s")


async def one_handle(publishers: int) -> None:
    async with registry() as consumers:
        seconds = await best(lambda: asyncio.gather(*(consumers.publish({0: n}) for n in range(publishers))))
    print(f"{publishers:,} publishers to one handle: {publishers / seconds:>9,.0f} events/s")


async def starting() -> None:
    events = dict.fromkeys(range(MANY), "event")

    async def start() -> None:
        async with registry() as consumers:
            await consumers.publish(events)

    print(f"start {MANY:,} consumers, one event each, and close: {await best(start):.2f} s")


async def memory() -> None:
    """Measure what is left per consumer while it is active, hibernates and is suspended, and what waiting costs."""
    gc.collect()
    tracemalloc.start()
    empty = tracemalloc.get_traced_memory()[0]

    def each() -> str:
        gc.collect()
        kilobytes = (tracemalloc.get_traced_memory()[0] - empty) / MANY / 1000
        return f"{kilobytes:.2f} kB each, {len(asyncio.all_tasks())} tasks"

    async with registry(hibernate_after=1.0) as consumers:
        await consumers.publish(dict.fromkeys(range(MANY), "event"))
        print(f"{MANY:,} idle consumers with their timers: {each()}")
        while not all(one.hibernating for n in range(MANY) if (one := consumers.whereis(n))):
            await consumers.moments.next("hibernated")
        print(f"{MANY:,} hibernating consumers: {each()}")
        consumers.enable_suspend(0.1, 0.5)
        while consumers.active_consumer_count():
            await consumers.moments.next("suspended")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        print(f"{MANY:,} suspended consumers: {each()}")
    tracemalloc.stop()


async def timers() -> None:
    """Measure the processor time of idle timers."""
    async with registry(hibernate_after=1.0) as consumers:
        await consumers.publish(dict.fromkeys(range(MANY), "event"))
        before = process_time()
        await asyncio.sleep(2)
        print(f"{MANY:,} timers that fire within 2 s: {(process_time() - before) * 1000:.0f} ms of processor time")
        before = process_time()
        await asyncio.sleep(2)
        print(f"{MANY:,} hibernating consumers, 2 s: {(process_time() - before) * 1000:.0f} ms of processor time")
        before = perf_counter()
        consumers.enable_suspend(30, 60)
        print(f"enable_suspend with {MANY:,} entries: {(perf_counter() - before) * 1000:.0f} ms")


async def main() -> None:
    for handles in (1, 1000, MANY):
        await publishing(handles)
    await one_handle(1000)
    await starting()
    await timers()
    await memory()


if __name__ == "__main__":
    asyncio.run(main())
