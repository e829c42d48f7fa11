"""What processes that live all along take: memory, files, connections; and whether it grows.

The first third of the samples is warm-up. A measure is flat if the median of the last third is at most 5 % above that
of the middle third, or at most so little that it is no growth: 2 MiB, two files, two connections. Faults cut and pile
up connections, and medians of ten minutes do not mind.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from statistics import linear_regression, median

import psutil

from tests.faults.campaign import LOST, Campaign

__all__ = ["Measure", "Sampler"]

EVERY = 5.0
CLIENTS = "select count(*) from pg_stat_activity where backend_type = 'client backend'"

ENOUGH = 60
"""Samples without which nothing is judged: five minutes."""

ALLOWED = {"rss_mib": 2.0, "fds": 2.0, "connections": 2.0}


@dataclass(frozen=True)
class Measure:
    """One measure of one process.

    Attributes:
        first, middle, last: medians of the thirds.
        per_hour: the slope after the warm-up, by least squares.
        flat: it did not grow; None: there are too few samples to tell.
    """

    first: float
    middle: float
    last: float
    per_hour: float
    flat: bool | None


class Sampler:
    """Samples what is steady in a campaign, and the server."""

    def __init__(self, field: Campaign) -> None:
        self._field = field
        self._samples: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)

    async def sample_again_and_again(self) -> None:
        """Never ends by itself."""
        while True:
            for worker in self._field.living():
                if worker.steady:
                    with suppress(psutil.Error):
                        self._take(worker.kind, psutil.Process(worker.process.pid))
            with suppress(psutil.Error, *LOST, TimeoutError):
                await self._take_server()
            await asyncio.sleep(EVERY)

    def _take(self, name: str, process: psutil.Process) -> None:
        self._add(name, "rss_mib", process.memory_info().rss / (1 << 20))
        self._add(name, "fds", process.num_fds())
        self._add(name, "connections", len(process.net_connections("tcp4")))

    async def _take_server(self) -> None:
        processes = await asyncio.to_thread(self._field.server.processes)
        memory = await asyncio.to_thread(lambda: sum(map(proportional, processes)))
        if processes:
            self._add("server", "connections", await self._field.ask(CLIENTS))
            self._add("server", "rss_mib", memory / (1 << 20))

    def _add(self, name: str, measure: str, value: float) -> None:
        self._samples[name, measure].append((time.monotonic(), value))

    def measures(self) -> dict[str, dict[str, Measure]]:
        """Everything by process and measure."""
        found: defaultdict[str, dict[str, Measure]] = defaultdict(dict)
        for (name, measure), samples in self._samples.items():
            if len(samples) >= 6:
                found[name][measure] = judged(samples, ALLOWED[measure])
        return dict(found)


def proportional(process: psutil.Process) -> int:
    """Bytes of a process, those that it shares divided by how many share them."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def judged(samples: list[tuple[float, float]], allowed: float) -> Measure:
    """Compare the thirds."""
    third = len(samples) // 3
    first, middle, last = (
        median(value for _, value in part) for part in (samples[:third], samples[third:-third], samples[-third:])
    )
    times, values = zip(*samples[third:], strict=True)
    slope = linear_regression(times, values).slope * 3600
    flat = last <= max(middle * 1.05, middle + allowed) if len(samples) >= ENOUGH else None
    return Measure(*(round(one, 2) for one in (first, middle, last, slope)), flat)
