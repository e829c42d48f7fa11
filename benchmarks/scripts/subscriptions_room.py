"""What the scripts ``subscriptions_*`` share: a server of their own, arguments, a table, and looks at a process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from benchmarks.bench import Bench, Helper
from benchmarks.server import SETTINGS
from eventstore import Delivery, Event, EventStore
from eventstore.embedded import EmbeddedPostgres

__all__ = ["Figure", "Latencies", "appender", "live", "parser", "room", "rss", "show"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        digits: of the fraction that is printed.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    digits: int = 0

    @property
    def met(self) -> bool | None:
        """Whether it meets its target; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def __str__(self) -> str:
        bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        aim = "" if bound[1] is None else f"{bound[0]} {bound[1]:,g}"
        verdict = {True: "met", False: "missed", None: ""}[self.met]
        return f"{self.name:46} {self.value:>12,.{self.digits}f} {self.unit:6} {aim:>10} {verdict}".rstrip()


def parser(description: str | None, *, events: int, subscriptions: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of what every script takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--events", type=int, default=events, metavar="N", help=f"default: {events:,}")
    if subscriptions is not None:
        made.add_argument("--subscriptions", type=int, default=subscriptions, metavar="N")
    made.add_argument("--runs", type=int, default=3, metavar="N", help="the best of so many counts; default: 3")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--dsn", help="an empty database to use, instead of an embedded server")
    return made


@asynccontextmanager
async def room(dsn: str | None, name: str, **settings: str) -> AsyncIterator[Bench]:
    """Yield a room on a server that loses what it holds when it crashes: the subscriber's side is what counts."""
    if dsn is not None:
        yield Bench(dsn, f"bench_{name}", quick=False)
        return
    with (
        tempfile.TemporaryDirectory(prefix="es-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "data", durable=False, settings=SETTINGS | settings) as server,
    ):
        yield Bench(server.dsn, f"bench_{name}", quick=False)


@asynccontextmanager
async def appender(bench: Bench) -> AsyncIterator[Helper]:
    """Yield another process that appends (`subscriptions_appender.py`)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.scripts.subscriptions_appender", bench.dsn, bench.schema,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    helper = Helper(process)
    try:
        await helper.call("hello")
        yield helper
    finally:
        process.stdin.close()  # the end of its input ends it
        await process.wait()


class Latencies:
    """Of probes, which say when their append was called."""

    def __init__(self) -> None:
        self.expected, self.seconds = 0, list[float]()
        self.all_here = asyncio.Event()

    async def handle(self, event: Event, _delivery: Delivery) -> None:
        """Note the time of the first line of a handler."""
        now = perf_counter()
        self.seconds.append(now - event.data["sent"])
        if len(self.seconds) >= self.expected:
            self.all_here.set()

    async def of(self, events: int, appending: Awaitable[T]) -> tuple[list[float], T]:
        """Return the latencies of the next so many events, sorted, and what *appending* returned."""
        self.seconds.clear()
        self.expected = events
        self.all_here.clear()
        appended = await appending
        async with asyncio.timeout(60):
            await self.all_here.wait()
        return sorted(self.seconds), appended


async def live(store: EventStore, subscriptions: int) -> None:
    """Wait until so many partitions of this node have come to the end of the log."""
    async with asyncio.timeout(600):
        while sum(one.inlet.live and not one.inlet.queue for one in store._pools.emitters) < subscriptions:
            await asyncio.sleep(0.05)


def show(work: Callable[[argparse.Namespace], Awaitable[list[Figure]]], arguments: argparse.Namespace) -> None:
    """Measure, and print."""
    figures = asyncio.run(_measured(work, arguments))
    if arguments.json:
        print(json.dumps([{**asdict(one), "met": one.met} for one in figures], indent=1))
    else:
        print(*figures, sep="\n")


async def _measured(
    work: Callable[[argparse.Namespace], Awaitable[list[Figure]]], arguments: argparse.Namespace
) -> list[Figure]:
    return await work(arguments)


def rss(process: int | None = None) -> float:
    """Return the resident memory of a process in MiB; by default of this one."""
    pages = int(Path(f"/proc/{process or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
