"""The clocks: calling again and again for a while, from tasks, from threads, or one timed call after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, perf_counter

from benchmarks.model import Sample
from benchmarks.stats import percentile
from eventstore.errors import EventStoreError

__all__ = ["Call", "drive", "drive_threads", "repeat", "summary"]

Call = Callable[[], Awaitable[int]]
"""One call; returns how many events it was about."""

REFUSED = (EventStoreError,)


def summary(count: int, seconds: float, latencies: list[float], errors: int = 0) -> Sample:
    """Return the sample of calls that took *latencies* seconds each."""
    latencies.sort()
    if not latencies:
        raise RuntimeError(f"not one call succeeded, {errors} were refused")
    return Sample(count, seconds, percentile(latencies, 0.5) * 1000, percentile(latencies, 0.99) * 1000, errors)


async def drive(callers: Sequence[Call], seconds: float, *, start: float | None = None) -> Sample:
    """Let every caller call again and again for *seconds*, all at the same time, beginning at *start* (monotonic).

    The clock stops when the last call has returned.
    """
    latencies: list[float] = []
    errors = 0

    async def keep_calling(call: Call, deadline: float) -> int:
        nonlocal errors
        count, before = 0, perf_counter()
        while True:  # once at least, or on a busy machine a moment may be over before it begins
            try:
                count += await call()
                latencies.append(perf_counter() - before)
            except REFUSED:
                errors += 1
            if (before := perf_counter()) >= deadline:
                return count

    if start is not None:
        await asyncio.sleep(start - monotonic())
    began = perf_counter()
    counts = await asyncio.gather(*(keep_calling(call, began + seconds) for call in callers))
    return summary(sum(counts), perf_counter() - began, latencies, errors)


async def drive_threads(callers: Sequence[Callable[[], int]], seconds: float) -> Sample:
    """`drive` for libraries that block: a thread for each caller, while the event loop sleeps."""
    latencies: list[float] = []
    counts: list[int] = []
    failures: list[BaseException] = []
    together = threading.Barrier(len(callers) + 1)

    def keep_calling(call: Callable[[], int]) -> None:
        together.wait()
        before, count = perf_counter(), 0
        deadline = before + seconds
        try:
            while True:
                count += call()
                latencies.append(perf_counter() - before)
                if (before := perf_counter()) >= deadline:
                    break
        except Exception as error:  # noqa: BLE001  # raised below
            failures.append(error)
        counts.append(count)

    def run() -> float:
        threads = [threading.Thread(target=keep_calling, args=(call,), daemon=True) for call in callers]
        for thread in threads:
            thread.start()
        together.wait()
        began = perf_counter()
        for thread in threads:
            thread.join()
        return perf_counter() - began

    took = await asyncio.to_thread(run)
    if failures:
        raise failures[0]
    return summary(sum(counts), took, latencies)


async def repeat(once: Callable[[], Awaitable[tuple[int, float]]], seconds: float) -> Sample:
    """Call *once* until *seconds* have passed; it returns how many events it was about and what they took.

    So it decides what is inside the clock. At least one call, whatever it takes.
    """
    latencies: list[float] = []
    count, deadline = 0, perf_counter() + seconds
    while not latencies or perf_counter() < deadline:
        events, took = await once()
        count += events
        latencies.append(took)
    return summary(count, sum(latencies), latencies)
