"""How fast a new subscription and a new projection catch up: ``python -m benchmarks.scripts.subscriptions_catch_up``.

With ``--profile`` the work named is run once more, and where its time goes is printed.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
from collections.abc import Awaitable, Callable

from benchmarks.bench import Bench
from benchmarks.scripts.subscriptions_room import Figure, parser, room, show
from benchmarks.works.reads import counted
from benchmarks.works.subscriptions import (
    caught_up,
    executemany,
    make_totals,
    projected,
    projected_by_hand,
    unnest,
)
from eventstore import EventStore

Once = Callable[[Bench, EventStore, int], Awaitable[tuple[int, float]]]

WORKS: dict[str, tuple[Once, float | None]] = {
    "read_all": (lambda _bench, store, events: counted(aiter(store.read_all()), events), None),
    "catch-up": (lambda bench, _store, events: caught_up(bench, events), 40_000),
    "catch-up in batches of 500": (lambda bench, _store, events: caught_up(bench, events, batch_size=500), None),
    "projection, executemany": (lambda bench, _store, events: projected(bench, events, executemany), 10_000),
    "projection, unnest": (lambda bench, _store, events: projected(bench, events, unnest), 10_000),
    "by hand, executemany": (lambda bench, _store, events: projected_by_hand(bench, events, executemany), None),
    "by hand, unnest": (lambda bench, _store, events: projected_by_hand(bench, events, unnest), None),
}


async def measured(arguments: argparse.Namespace) -> list[Figure]:
    """Run each work on the same log, several times in turn."""
    chosen = {name: work for name, work in WORKS.items() if not arguments.only or name in arguments.only}
    rates: dict[str, float] = dict.fromkeys(chosen, 0.0)
    async with room(arguments.dsn, "catch_up") as bench, bench.store() as store:
        events = await bench.fill(store, arguments.events, seconds=600)
        await make_totals(bench)
        for _ in range(arguments.runs):
            for name, (once, _least) in chosen.items():
                count, took = await once(bench, store, events)
                rates[name] = max(rates[name], count / took)
        for name in arguments.profile or ():
            with cProfile.Profile() as profile:
                await WORKS[name][0](bench, store, events)
            print(f"\n{name}")
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)
    figures = [Figure(name, rate, "/s", WORKS[name][1]) for name, rate in rates.items()]
    if base := rates.get("read_all"):
        figures += [
            Figure(f"{name} / read_all", rates[name] / base, "", digits=2) for name in rates if name.startswith("catch")
        ]
    return figures


def main() -> None:
    made = parser(__doc__, events=200_000)
    made.add_argument("--only", nargs="+", choices=WORKS, metavar="WORK", help=", ".join(WORKS))
    made.add_argument("--profile", nargs="+", choices=WORKS, metavar="WORK")
    show(measured, made.parse_args())


if __name__ == "__main__":
    main()
