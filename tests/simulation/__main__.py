"""``python -m tests.simulation``: play many histories on all cores, or one with every step of it."""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulation.history import quietly, run
from tests.simulation.playing import many
from tests.simulation.watch import Faulty


def one(seed: int, trace: bool) -> int:
    """Play one history; returns the exit code."""
    lines: list[str] = []
    with quietly():
        try:
            played = run(seed, trace=True, lines=lines)
        except Faulty as error:
            print(*(lines if trace else []), error, sep="\n")
            return 1
        print(*(lines if trace else []), f"seed {seed} is sound; its trace has the hash {played.hash()}", sep="\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many histories")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed, options.trace)
    return many(range(options.start, options.start + options.seeds), options.processes)


if __name__ == "__main__":
    sys.exit(main())
