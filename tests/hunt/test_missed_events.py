"""The hunt for missed events: writers that pause before commit and roll back, readers that must get all the rest.

`make hunt` runs it at full length; the seed is printed with every failure.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from tests.conftest import QUICK
from tests.hunt.checker import check
from tests.hunt.journal import Entry, Journal, entries

pytestmark = pytest.mark.hunt

FULL = os.environ.get("HUNT") == "full"
SEED = int(os.environ.get("HUNT_SEED", "0")) or random.randrange(1, 1 << 32)


@dataclass(frozen=True)
class Plan:
    """How much: writers, appends of each, longest pause before commit in seconds, readers, kills of LISTEN."""

    writers: int = 64 if FULL else 24
    appends: int = 300 if FULL else 15
    pause: float = 0.25 if FULL else 0.05
    readers: int = 8
    kills: int = 50 if FULL else 5


PLAN = Plan()

Reader = Callable[[str, str, Journal, asyncio.Event], Awaitable[None]]


def note_read(journal: Journal, reader: str, id: object, position: int, stream: str, version: int) -> None:
    journal.note(Entry("read", reader, id=str(id), position=position, stream=stream, version=version))


async def write(store: EventStore, dsn: str, name: str, journal: Journal, rng: random.Random) -> None:
    """Append, half of the time in a transaction of its own that pauses before it commits or rolls back."""
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(PLAN.appends):
            event = NewEvent(type="T", data={"writer": name})
            stream = f"s{rng.randrange(20)}"
            if rng.random() < 0.5:
                result = await store.append(stream, [event])
                outcome = "ok"
            else:
                transaction = connection.transaction()
                await transaction.start()
                if rng.random() < 0.5:
                    await connection.execute("insert into elsewhere values (1)")
                result = await store.append(stream, [event], connection=connection)
                await asyncio.sleep(rng.random() * PLAN.pause)
                outcome = "fail" if rng.random() < 0.2 else "ok"
                await (transaction.rollback() if outcome == "fail" else transaction.commit())
            where = (result.position, stream, result.version or 0) if outcome == "ok" else (0, "", 0)
            journal.note(Entry("append", name, outcome, str(event.id), *where))  # type: ignore[arg-type]
    finally:
        await connection.close()


async def listen(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
    """Follow the log as applications do."""
    async with EventStore(dsn, settings=QUICK) as store, store.listen(after=0) as events:
        async for event in until(events, store, written):
            note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)


async def until(events: AsyncIterator, store: EventStore, written: asyncio.Event) -> AsyncIterator:  # type: ignore[type-arg]
    """Yield events until the writers are done and everything written has been read."""
    last = 0
    ending = asyncio.ensure_future(written.wait())
    nothing_before = 0
    while True:
        upcoming = asyncio.ensure_future(anext(events))
        if not written.is_set():
            await asyncio.wait((upcoming, ending), return_when=asyncio.FIRST_COMPLETED)
        if written.is_set() and not nothing_before:
            newest = [event.position async for event in store.read_all(backwards=True, limit=1)]
            nothing_before = newest[0] if newest else -1
        if nothing_before and last >= nothing_before:
            upcoming.cancel()
            return
        event = await asyncio.wait_for(upcoming, 60)
        last = event.position
        yield event


async def poll_naively(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
    """The planted bug: a cursor over positions that knows no horizon."""
    connection = await asyncpg.connect(dsn)
    query = "select id, position, stream, version from eventstore.events where position > $1 order by position"
    position = 0
    while True:
        done = written.is_set()
        for row in await connection.fetch(query, position):
            note_read(journal, name, row["id"], row["position"], row["stream"], row["version"])
            position = row["position"]
        if done:
            return await connection.close()
        await asyncio.sleep(0)


async def hunt(dsn: str, path: Path, reader: Reader, readers: int) -> dict[str, list[str]]:
    """Write, read and check; returns the anomalies."""
    rng, journal, written = random.Random(SEED), Journal(path), asyncio.Event()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(EventStore(dsn, settings=QUICK))
        connection = await asyncpg.connect(dsn)
        await connection.execute("create table if not exists elsewhere (n int)")
        await connection.close()
        async with asyncio.TaskGroup() as group:
            for n in range(readers):
                group.create_task(reader(dsn, f"reader {n}", journal, written))
            async with asyncio.TaskGroup() as writers:
                for n in range(PLAN.writers):
                    writers.create_task(write(store, dsn, f"writer {n}", journal, random.Random(rng.random())))
            written.set()
    journal.close()
    return check(entries(path))


async def test_no_reader_misses_an_event_or_sees_a_ghost(db: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert await hunt(db, path, listen, PLAN.readers) == {}, f"HUNT_SEED={SEED}"
    outcomes = [entry.outcome for entry in entries(path) if entry.kind == "append"]
    assert len(outcomes) == PLAN.writers * PLAN.appends
    assert 0.03 < outcomes.count("fail") / len(outcomes) < 0.2


async def test_the_same_hunt_catches_a_cursor_without_a_horizon(db: str, tmp_path: Path) -> None:
    assert "unseen" in await hunt(db, tmp_path / "journal.jsonl", poll_naively, 2), f"HUNT_SEED={SEED}"


async def test_killing_the_listening_connection_under_load_loses_nothing(db: str, tmp_path: Path) -> None:
    kills = 0

    async def kill_often(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
        nonlocal kills
        async with EventStore(dsn, settings=QUICK) as store, store.listen(after=0) as events:
            killer = asyncio.create_task(kill(dsn, store))
            async for event in until(events, store, written):
                note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)
            kills += await killer

    assert await hunt(db, tmp_path / "journal.jsonl", kill_often, 1) == {}, f"HUNT_SEED={SEED}"
    assert kills == PLAN.kills


async def kill(dsn: str, store: EventStore) -> int:
    """End the listening connections of every node again and again, each time after this node listens."""
    connection = await asyncpg.connect(dsn)
    for _ in range(PLAN.kills):
        listening = store._signals.moments.next("listening")
        if store._signals.listening:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'eventstore listener'"
            )
        await asyncio.wait_for(listening, 30)
    await connection.close()
    return PLAN.kills
