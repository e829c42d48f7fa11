"""From an append to the handler while all is live: ``python -m benchmarks.scripts.subscriptions_latency``.

The time from the call of `append` to the first line of the handler, minus the median duration of an append of the same
process at the same rate while nobody subscribes. Other node: the append is another process's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import median

from benchmarks.bench import Bench, Helper
from benchmarks.scripts.subscriptions_appender import append_paced
from benchmarks.scripts.subscriptions_room import Figure, Latencies, appender, live, parser, room, show
from benchmarks.stats import percentile
from benchmarks.works.subscriptions import NAMES, running
from eventstore import All, EventStore

TARGETS = {
    "same node, p50": 1.5,
    "same node, p99": 8.0,
    "other node, p50": 2.5,
    "other node, p99": 12.0,
}


async def measured(arguments: argparse.Namespace) -> list[Figure]:
    """Measure both ways in turn; the best of several runs."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    async with room(arguments.dsn, "latency") as bench, bench.store(), appender(bench) as other:
        for _ in range(arguments.runs):
            await _once(bench, other, arguments.events, arguments.rate, found)
    figures = [Figure(name, min(found[name]) * 1000, "ms", at_most=most, digits=2) for name, most in TARGETS.items()]
    return figures + [
        Figure(f"append alone, {where}, median", min(found[where]) * 1000, "ms", digits=2)
        for where in ("same node", "other node")
    ]


async def _once(bench: Bench, other: Helper, events: int, rate: float, found: defaultdict[str, list[float]]) -> None:
    async with EventStore(bench.dsn, schema=bench.schema) as alone:
        await append_paced(alone, 20, rate)
        here = median(await append_paced(alone, events, rate))
        there = await other.call("paced", events=events, rate=rate)
    found["same node"].append(here)
    found["other node"].append(there)
    store, latencies = EventStore(bench.dsn, schema=bench.schema), Latencies()
    store.handler(f"live-{next(NAMES)}", All(), after="current")(latencies.handle)
    async with running(store):
        await live(store, 1)
        await latencies.of(20, append_paced(store, 20, rate))
        for where, append, appending in (
            ("same node", here, append_paced(store, events, rate)),
            ("other node", there, other.call("paced", events=events, rate=rate)),
        ):
            seconds, _ = await latencies.of(events, appending)
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found[f"{where}, {name}"].append(percentile(seconds, share) - append)


def main() -> None:
    made = parser(__doc__, events=1_000)
    made.add_argument("--rate", type=float, default=100.0, metavar="N", help="appends a second; default: 100")
    show(measured, made.parse_args())


if __name__ == "__main__":
    main()
