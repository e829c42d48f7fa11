"""The whole server is killed under load, again and again: what was acknowledged is there, once and whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eventstore import DatabaseUnavailable, EventStore, NewEvent, OutcomeUnknown
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.checker import check
from tests.hunt.journal import Entry
from tests.hunt.racing import SEED, times
from tests.operating.clusters import Cluster, durable, template

pytestmark = pytest.mark.hunt

WRITERS = times(8, 32)
SETTINGS = replace(QUICK, append_timeout=30.0, connect_timeout=10.0)


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def server(data: Path) -> Iterator[Cluster]:
    """One that keeps its promises: `fsync` and all that belongs to it are on, on a disk."""
    with durable(data) as made:
        yield made


class Load:
    """Writers, what became of what they wrote, and a reader that goes on wherever it was.

    Attributes:
        acknowledged: set with every acknowledgement.
    """

    def __init__(self, store: EventStore) -> None:
        self._store, self.history = store, list[Entry]()
        self.enough, self.acknowledged = asyncio.Event(), asyncio.Event()

    async def write(self, name: str, rng: random.Random) -> None:
        while not self.enough.is_set():
            stream, events = f"s{rng.randrange(8)}", [NewEvent("T", n) for n in range(rng.randrange(1, 4))]
            first = (0, 0)
            try:
                result = await self._store.append(stream, events)
                outcome, first = "ok", (result.first_position, result.first_version or 0)
                self.acknowledged.set()
            except OutcomeUnknown:
                outcome = "unknown"
            except DatabaseUnavailable:
                outcome = "fail"
            for n, event in enumerate(events):
                version = first[1] + n if first[1] else 0
                self._note("append", name, outcome, str(event.id), 0, stream, version, append=str(events[0].id))

    async def read(self) -> None:
        last = 0
        while True:
            try:
                async with self._store.listen(after=last) as events:
                    async for one in events:
                        last = one.position
                        self._note("read", "reader", "ok", str(one.id), last, one.stream, one.version)
            except DatabaseUnavailable:
                await asyncio.sleep(0.05)

    async def stored(self) -> int:
        """Note what the log holds in the end; return its last position."""
        last = 0
        async for one in self._store.read_all():
            last = one.position
            self._note("stored", "log", "ok", str(one.id), last, one.stream, one.version)
        return last

    async def everything_read(self, position: int) -> None:
        async with asyncio.timeout(60):
            while not any(entry.kind == "read" and entry.position == position for entry in reversed(self.history)):
                await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Wait until so many more events were acknowledged."""
        until = len(self.history) + count
        async with asyncio.timeout(60):
            while len(self.history) < until:
                await asyncio.sleep(0.01)

    def _note(self, *fields: object, append: str = "") -> None:
        self.history.append(Entry(*fields, append=append))  # type: ignore[arg-type]


async def crash(server: Cluster, load: Load) -> float:
    """Kill the server, start it again; return how long it then took until something was acknowledged."""
    await asyncio.to_thread(server.kill)
    load.acknowledged.clear()
    await asyncio.to_thread(server.start)
    recovered = time.monotonic()
    await asyncio.wait_for(load.acknowledged.wait(), 60)
    return time.monotonic() - recovered


async def test_nothing_acknowledged_is_lost_when_every_process_of_the_server_is_killed(server: Cluster) -> None:
    kills, rng = times(2, 20), random.Random(SEED)
    assert server.execute("show fsync") == [("on",)]
    async with EventStore(server.dsn, settings=SETTINGS) as store:
        load = Load(store)
        reader = asyncio.create_task(load.read())
        seeds = [random.Random(rng.random()) for _ in range(WRITERS)]
        writers = [asyncio.create_task(load.write(f"writer {n}", seed)) for n, seed in enumerate(seeds)]
        took = []
        for _ in range(kills):
            await load.more(times(100, 1_000))
            await asyncio.sleep(rng.random() * 0.2)
            took.append(await crash(server, load))
        load.enough.set()
        await asyncio.gather(*writers)
        await load.everything_read(await load.stored())
        reader.cancel()
    appended = [entry for entry in load.history if entry.kind == "append"]
    assert check(load.history) == {}, f"HUNT_SEED={SEED}"
    assert max(took) <= times(30, 5)
    note(
        kills=kills, writers=WRITERS, acknowledged=sum(entry.outcome == "ok" for entry in appended),
        unknown=sum(entry.outcome == "unknown" for entry in appended), lost=0, writing_again_s=round(max(took), 2),
    )  # fmt: skip


async def test_an_acknowledged_event_that_a_crash_lost_is_caught(data: Path) -> None:
    """The planted bug: a server that acknowledges before it wrote."""
    with durable(data, synchronous_commit="off", wal_writer_delay="10s") as careless:
        async with EventStore(careless.dsn, settings=SETTINGS) as store:
            load = Load(store)
            async with asyncio.timeout(300):
                while "lost_write" not in check(load.history):  # it may have written just before it was killed
                    for _ in range(5):
                        result = await store.append("s", [event := NewEvent("T")])
                        load._note("append", "writer", "ok", str(event.id), 0, "s", result.version)
                    await asyncio.to_thread(careless.kill)
                    await asyncio.to_thread(careless.start)
                    await store.append("other", [NewEvent("T")])
                    await load.stored()
