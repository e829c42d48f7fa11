"""A subscriber that takes a second for each event costs its node no memory, and its neighbours no time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from eventstore.tracker import Tracker
from tests.faults.figures import note
from tests.hunt.delivering import ROOT
from tests.hunt.racing import FULL, times
from tests.hunt.slow_node import PROBE, Quiet

pytestmark = pytest.mark.hunt

EVENTS, CLIENTS = times(2_000, 200_000), times(50, 1_000)
GROWTH = 32
"""MiB by which a node may grow."""

RATE = 8_000
"""Events a second, of 256 bytes, a hundredth of them probes."""


class Child:
    """The node, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, word: str = "") -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            self._process.stdin.write(f"{word}\n".encode())
        line = await self._process.stdout.readline()
        assert line, "the node ended"
        return json.loads(line)

    async def probes(self, count: int) -> dict[str, Any]:
        """Wait until it has handled so many probes."""
        async with asyncio.timeout(120):
            while (report := await self.ask("report"))["probes"] < count:
                await asyncio.sleep(0.05)
        return dict(report)


@asynccontextmanager
async def node(dsn: str, slow: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hunt.slow_node", dsn, slow, str(CLIENTS),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        yield Child(process)
        assert process.stdin is not None
        process.stdin.close()  # it says goodbye, so that its presences leave at once
        await asyncio.wait_for(process.wait(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def append(store: EventStore, events: int) -> int:
    """Append at the rate; return how many probes were among them."""
    began, chunk, sent = time.monotonic(), 100, 0
    for number in range(0, events, chunk):
        bulk = [NewEvent("Bulk", "x" * 256) for _ in range(chunk - 1)]
        streams = [f"s{n % 50}" for n in range(chunk - 1)]
        await store.append_known([*streams, "probes"], [*bulk, NewEvent(PROBE, time.monotonic())])
        sent += 1
        await asyncio.sleep(max(0.0, began + (number + chunk) / RATE - time.monotonic()))
    return sent


async def measured(dsn: str, store: EventStore, slow: str, events: int = EVENTS) -> dict[str, Any]:
    """What the node reports after all events; it grew by so many MiB since it was warm."""
    async with node(dsn, slow) as child:
        assert await child.ask() == "ready"
        await child.probes(await append(store, events // 10))
        await statistics(dsn)
        before = await child.ask("begin")
        report = await child.probes(await append(store, events))
        return report | {"grew": report["mib"] - before["mib"]}


async def statistics(dsn: str) -> None:
    """Do what a server does by itself within a minute, and this one does not: plans of an empty log are given up."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("analyze")
    await connection.close()


async def gone(tracker: Tracker) -> None:
    async with asyncio.timeout(120):
        while tracker.list("room"):
            await asyncio.sleep(0.01)


async def test_a_slow_subscriber_beside_many_presences_costs_neither_memory_nor_time(
    db: str, store: EventStore
) -> None:
    async with Tracker(Quiet(), "clients", store.pubsub) as tracker:
        # What it is compared with takes its time.
        alone = await measured(db, store, "none") if FULL else {"grew": 0.0, "p50": inf, "p99": inf}
        await gone(tracker)
        task = asyncio.create_task(measured(db, store, "slow"))
        async with asyncio.timeout(300):
            while len(tracker.list("room")) < CLIENTS:
                await asyncio.sleep(0.01)
        beside = await task
    assert beside["handled"] < EVENTS / times(2, 100)
    assert beside["grew"] <= GROWTH
    assert beside["p50"] <= 1.5 * alone["p50"] + 0.01
    note(
        events=EVENTS, presences=CLIENTS, grew_mib=round(beside["grew"], 1), grew_without_mib=round(alone["grew"], 1),
        others_p50_ms=round(1000 * beside["p50"], 1), without_p50_ms=round(1000 * alone["p50"], 1),
        others_p99_ms=round(1000 * beside["p99"], 1), without_p99_ms=round(1000 * alone["p99"], 1),
    )  # fmt: skip


async def test_a_mailbox_that_nobody_bounds_is_caught(db: str, store: EventStore) -> None:
    hoarding = await measured(db, store, "hoarding", 80_000)
    assert hoarding["grew"] > GROWTH
