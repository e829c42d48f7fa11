"""``python -m tests.simulation``: play many histories on all cores, or one with every step of it."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.history import quietly, run
from tests.simulation.watch import Faulty

CHUNK = 50
"""Histories between two collections, and between two lines of progress."""


def play(seeds: range) -> tuple[range, list[str], int]:
    """Play histories; returns what was wrong, and how often the tables were looked at."""
    said, looks = [], 0
    with quietly():
        for seed in seeds:
            try:
                looks += run(seed).watch.looks
            except Exception as error:  # noqa: BLE001 - one history does not end the others
                said.append(str(error) if isinstance(error, Faulty) else f"seed {seed}: {error!r}")
    return seeds, said, looks


def chunks(seeds: range) -> Iterator[range]:
    for start in range(seeds.start, seeds.stop, CHUNK):
        yield range(start, min(start + CHUNK, seeds.stop))


def many(seeds: range, processes: int) -> int:
    """Play all of them; returns the exit code."""
    began, done, wrong, looks = time.monotonic(), 0, 0, 0
    with ProcessPoolExecutor(processes, initializer=_settle_down) as pool:
        for played, said, looked in pool.map(play, chunks(seeds)):
            done, wrong, looks = done + len(played), wrong + len(said), looks + looked
            for one in said:
                print(f"\r{one}")
            rate = done / (time.monotonic() - began) * 60
            print(f"\r{done} of {len(seeds)} seeds, {wrong} faulty, {rate:,.0f} a minute", end="", flush=True)
    print(f"\n{looks:,} changes of the ledger were judged in {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _settle_down() -> None:
    gc.collect()
    gc.freeze()
    gc.disable()  # each chunk ends with a collection


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
