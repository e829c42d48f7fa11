"""Many histories, over several processes."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.history import run
from tests.simulation.watch import Faulty

__all__ = ["chunks", "many", "play"]

CHUNK = 50
"""Histories of one process: to end it costs less than to collect what they leave. Also between lines of progress."""


def play(seeds: range) -> tuple[range, list[str], int]:
    """Play histories; returns what was wrong, and how often the tables were looked at."""
    said, looks = [], 0
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
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.simulation.history"])
    with ProcessPoolExecutor(processes, context, _settle_down, max_tasks_per_child=1) as pool:
        for played, said, looked in pool.map(play, chunks(seeds)):
            done, wrong, looks = done + len(played), wrong + len(said), looks + looked
            for one in said:
                print(f"\r{one}")
            rate = done / (time.monotonic() - began) * 60
            print(f"\r{done} of {len(seeds)} seeds, {wrong} faulty, {rate:,.0f} a minute", end="", flush=True)
    print(f"\n{looks:,} changes of the ledger were judged in {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _settle_down() -> None:
    """What a history leaves is neither collected nor heard of: its process ends soon."""
    gc.disable()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
