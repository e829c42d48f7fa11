"""A subscriber that takes a second for each event: ``python -m benchmarks.scripts.subscriptions_slow``.

Another process appends events of 256 bytes, which the slow one wants all; the node's memory must not grow with them,
and another subscription on the same node, which wants probes appended a hundred a second, must not be delayed.
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.bench import Bench, Helper
from benchmarks.scripts.subscriptions_appender import PROBE, append_paced
from benchmarks.scripts.subscriptions_room import Figure, Latencies, appender, live, parser, room, rss, show
from benchmarks.stats import percentile
from benchmarks.works.subscriptions import NAMES, running
from eventstore import All, Delivery, Event, EventStore, EventType

PROBES = 100.0
"""Probes a second."""


async def measured(arguments: argparse.Namespace) -> list[Figure]:
    """Measure without the slow one and with it, in turn."""
    figures: list[Figure] = []
    async with room(arguments.dsn, "slow") as bench, bench.store(), appender(bench) as other:
        await _beside(bench, other, arguments.events // 4, arguments.rate, slow=False)  # what the process needs once
        without, alone, _ = await _beside(bench, other, arguments.events, arguments.rate, slow=False)
        with_it, beside, handled = await _beside(bench, other, arguments.events, arguments.rate, slow=True)
    figures.append(Figure("memory grew, without the slow one", without, "MiB", digits=1))
    figures.append(Figure("memory grew, with it", with_it, "MiB", at_most=32, digits=1))
    figures.append(Figure("handled by the slow one", handled, ""))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        base, ours = percentile(alone, share) * 1000, percentile(beside, share) * 1000
        figures += [
            Figure(f"latency of the other, {name}, without", base, "ms", digits=2),
            Figure(f"latency of the other, {name}, with it", ours, "ms", digits=2),
            Figure(f"latency of the other, {name}, ratio", ours / base, "", at_most=1.25, digits=2),
        ]
    return figures


async def _beside(
    bench: Bench, other: Helper, events: int, rate: float, *, slow: bool
) -> tuple[float, list[float], int]:
    """Return by how many MiB this process grew at most, the latencies of probes, and what the slow one handled."""
    store, latencies, handled = EventStore(bench.dsn, schema=bench.schema), Latencies(), 0
    store.handler(f"probes-{next(NAMES)}", EventType(PROBE), after="current")(latencies.handle)
    if slow:

        @store.handler(f"slow-{next(NAMES)}", All(), after="current")
        async def take_time(_event: Event, _delivery: Delivery) -> None:
            nonlocal handled
            await asyncio.sleep(1)
            handled += 1

    async with asyncio.timeout(600), running(store):
        await live(store, 1 + slow)
        await latencies.of(50, append_paced(store, 50, PROBES))
        before = rss()
        watch = asyncio.create_task(_highest())
        bulk = asyncio.create_task(other.call("bulk", events=events, rate=rate))
        seconds, _ = await latencies.of(probes := int(events / rate * PROBES), append_paced(store, probes, PROBES))
        await bulk
        watch.cancel()
        grown = max(await watch, rss()) - before
    return grown, seconds, handled


async def _highest() -> float:
    """Return the most memory that was resident until cancelled."""
    highest = 0.0
    try:
        while True:
            highest = max(highest, rss())
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return highest


def main() -> None:
    made = parser(__doc__, events=200_000)
    made.add_argument("--rate", type=float, default=10_000.0, metavar="N", help="events a second; default: 10,000")
    show(measured, made.parse_args())


if __name__ == "__main__":
    main()
