"""The hunt for missed events: writers that pause before commit, roll back and lose their sessions, and readers of
several kinds, each of which must get all that it wants.

`make hunt` runs it at full length; the seed is printed with every failure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest

from eventstore import All, AppendResult, DatabaseUnavailable, Event, EventPattern, EventStore, NewEvent, Tags
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.checker import check
from tests.hunt.journal import Entry, Journal, entries
from tests.hunt.racing import FULL, SEED, times

pytestmark = pytest.mark.hunt


@dataclass(frozen=True)
class Plan:
    """How much: writers, appends of each, longest pause before commit in seconds, ends of sessions, kills of LISTEN."""

    writers: int = 64 if FULL else 24
    appends: int = 300 if FULL else 15
    pause: float = 0.25 if FULL else 0.05
    ended: int = 150 if FULL else 5
    kills: int = 50 if FULL else 5


PLAN = Plan()

Reader = Callable[[str, str, Journal, asyncio.Event], Awaitable[None]]
Wants = Callable[[Entry], bool]


def note_read(journal: Journal, reader: str, id: object, position: int, stream: str, version: int) -> None:
    journal.note(Entry("read", reader, id=str(id), position=position, stream=stream, version=version, at=time.time()))


# -- writers

Outcome = Literal["ok", "fail", "unknown"]
LOST = (
    DatabaseUnavailable,
    asyncpg.AdminShutdownError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What a caller gets on a connection of its own that was ended."""


async def write(
    store: EventStore, dsn: str, name: str, journal: Journal, rng: random.Random, ending: asyncio.Task[int]
) -> None:
    """Append, half of the time in a transaction of its own that pauses before it commits or rolls back.

    It goes on for as long as there are sessions to end.
    """
    connection, appends = await own_session(dsn), count(1)
    try:
        while next(appends) <= PLAN.appends or not ending.done():
            number = rng.randrange(20)
            event = NewEvent(type="T", data={"writer": name}, tags=["even"] if number % 2 == 0 else [])
            if rng.random() < 0.5:
                outcome, result = "ok", await store.append(f"s{number}", [event])
            else:
                if connection.is_closed():
                    connection = await own_session(dsn)
                outcome, result = await in_own_transaction(store, connection, f"s{number}", event, rng)
            where = (result.position, f"s{number}", result.version or 0) if outcome == "ok" and result else (0, "", 0)
            journal.note(Entry("append", name, outcome, str(event.id), *where))  # type: ignore[arg-type]
    finally:
        connection.terminate()


async def own_session(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(dsn, server_settings={"application_name": "writer"})


async def in_own_transaction(
    store: EventStore, connection: asyncpg.Connection, stream: str, event: NewEvent, rng: random.Random
) -> tuple[Outcome, AppendResult | None]:
    """Append, pause, then commit or roll back; the session may end in the middle of any of this."""
    outcome: Outcome = "fail"
    try:
        transaction = connection.transaction()
        await transaction.start()
        if rng.random() < 0.5:
            await connection.execute("insert into elsewhere values (1)")
        result = await store.append(stream, [event], connection=connection)
        await asyncio.sleep(rng.random() * PLAN.pause)
        if rng.random() < 0.2:
            await transaction.rollback()
            return "fail", None
        outcome = "unknown"
        await transaction.commit()
        return "ok", result
    except LOST:
        connection.terminate()
        return outcome, None


END_ONE = """
select pg_terminate_backend(pid) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and (
       application_name = 'writer' and state like 'idle in %'
       or application_name = 'eventstore' and state = 'active' and query like '%.append\\_%')
 order by random() limit 1
"""


async def end_sessions(dsn: str) -> int:
    """End sessions of writers, in their transactions and in the middle of appends of the store; return how many."""
    ended = 0
    connection = await asyncpg.connect(dsn)
    async with asyncio.timeout(times(120, 900)):
        while ended < PLAN.ended:
            ended += await connection.fetchval(END_ONE) is not None
            await asyncio.sleep(0.1 if FULL else 0.01)
    await connection.close()
    return ended


async def settle_unknown(journal: Journal, sql: asyncpg.Connection, path: Path) -> int:
    """Note what became of appends whose commit got no answer; return how many they were."""
    unknown = [entry for entry in entries(path) if entry.kind == "append" and entry.outcome == "unknown"]
    for entry in unknown:
        row = await sql.fetchrow("select position, stream, version from eventstore.events where id = $1", entry.id)
        journal.note(replace(entry, outcome="ok" if row else "fail", **(row or {})))
    return len(unknown)


# -- readers


def listening(selector: Any, *, late: bool = False) -> Reader:
    """Follow the log as applications do; a late one begins when half of it is written."""

    async def listen(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
        async with EventStore(dsn, settings=QUICK) as store:
            if late:
                await store.wait_for(PLAN.writers * PLAN.appends // 2, timeout=300)
            async with store.listen(selector, after=0) as events:
                async for event in until(events, store, written, selector):
                    note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)

    return listen


async def handle(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
    """Follow the log by a stored subscription; its lease outlasts a busy machine."""
    async with EventStore(dsn, settings=replace(QUICK, lease_ttl=60.0)) as store:

        @store.handler(name, All())
        async def read(event: Event, _: object) -> None:
            note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)

        async with running(store):
            await written.wait()
            await store.subscriptions.wait_for(name, await store.head(), timeout=300)


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[None]:
    task = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(
    events: AsyncIterator[Event], store: EventStore, written: asyncio.Event, selector: Any = None
) -> AsyncIterator[Event]:
    """Yield events until the writers are done and everything written has been read."""
    last = 0
    ending = asyncio.ensure_future(written.wait())
    nothing_before = 0
    while True:
        upcoming = asyncio.ensure_future(anext(events))
        if not written.is_set():
            await asyncio.wait((upcoming, ending), return_when=asyncio.FIRST_COMPLETED)
        if written.is_set() and not nothing_before:
            newest = [event.position async for event in store.read_all(selector or All(), backwards=True, limit=1)]
            nothing_before = newest[0] if newest else -1
        if nothing_before and last >= nothing_before:
            upcoming.cancel()
            return
        event = await asyncio.wait_for(upcoming, 300)
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


def everything(_: Entry) -> bool:
    return True


def begins_with_1(entry: Entry) -> bool:
    return entry.stream.startswith("s1")


def is_even(entry: Entry) -> bool:
    return int(entry.stream[1:]) % 2 == 0


READERS: dict[str, tuple[Reader, Wants]] = {
    "one": (listening(All()), everything),
    "another": (listening(All()), everything),
    "some streams": (listening(EventPattern("s1*")), begins_with_1),
    "a tag": (listening(Tags("even")), is_even),
    "late": (listening(All(), late=True), everything),
    "late for some streams": (listening(EventPattern("s1*"), late=True), begins_with_1),
    "late for a tag": (listening(Tags("even"), late=True), is_even),
    "subscribed": (handle, everything),
}


# -- the hunt


@dataclass(frozen=True)
class Hunted:
    """What came of it: anomalies by name, sessions ended, commits without an answer, and all that was noted."""

    anomalies: dict[str, list[str]]
    ended: int
    unknown: int
    history: list[Entry]

    def outcomes(self, outcome: str) -> int:
        return sum(entry.kind == "append" and entry.outcome == outcome for entry in self.history)


async def hunt(dsn: str, path: Path, readers: Mapping[str, tuple[Reader, Wants]]) -> Hunted:
    """Write, read and check."""
    rng, journal, written = random.Random(SEED), Journal(path), asyncio.Event()
    sql = await asyncpg.connect(dsn)
    await sql.execute("create table if not exists elsewhere (n int)")
    async with EventStore(dsn, settings=QUICK) as store, asyncio.TaskGroup() as group:
        for name, (reader, _) in readers.items():
            group.create_task(reader(dsn, name, journal, written))
        ending = asyncio.create_task(end_sessions(dsn))
        async with asyncio.TaskGroup() as writers:
            for n in range(PLAN.writers):
                writers.create_task(write(store, dsn, f"writer {n}", journal, random.Random(rng.random()), ending))
        ended = await ending
        unknown = await settle_unknown(journal, sql, path)
        # A session that was ended holds up readers a moment longer.
        await store.wait_for(await sql.fetchval("select max(position) from eventstore.events"), timeout=300)
        written.set()
    journal.close()
    await sql.close()
    history = list(entries(path))
    found = {kind: some for name in readers for kind, some in seen_by(name, readers[name][1], history).items()}
    return Hunted(found, ended, unknown, history)


def seen_by(reader: str, wants: Wants, history: list[Entry]) -> dict[str, list[str]]:
    """The anomalies of one reader, among what it wants."""
    reads = [entry for entry in history if entry.kind == "read" and entry.process == reader]
    due = [entry for entry in history if entry.kind == "append" and (entry.outcome != "ok" or wants(entry))]
    extra = [str(entry) for entry in reads if not wants(entry)]
    found = check([*due, *reads]) | ({"unwanted": extra} if extra else {})
    return found if reads else found | {"unseen": [f"{reader} read nothing"]}


async def test_no_reader_misses_an_event_or_sees_a_ghost(db: str, tmp_path: Path) -> None:
    found = await hunt(db, tmp_path / "journal.jsonl", READERS)
    assert found.anomalies == {}, f"HUNT_SEED={SEED}"
    appends = len({entry.id for entry in found.history if entry.kind == "append"})
    assert found.outcomes("ok") + found.outcomes("fail") == appends >= PLAN.writers * PLAN.appends
    assert 0.03 < found.outcomes("fail") / appends < 0.25
    assert found.ended == PLAN.ended
    note(
        writers=PLAN.writers, readers=len(READERS), events=found.outcomes("ok"), rolled_back=found.outcomes("fail"),
        sessions_ended=found.ended, commits_without_answer=found.unknown, anomalies=0,
    )  # fmt: skip


async def test_the_same_hunt_catches_a_cursor_without_a_horizon(db: str, tmp_path: Path) -> None:
    began = time.time()
    found = await hunt(db, tmp_path / "journal.jsonl", {"naive": (poll_naively, everything)})
    assert "unseen" in found.anomalies, f"HUNT_SEED={SEED}"
    took = first_miss(found.history) - began
    assert took < 30
    note(naive_cursor_missed=len(found.anomalies["unseen"]), first_after_s=round(took, 1))


def first_miss(history: list[Entry]) -> float:
    """When a reader passed an event that it never got."""
    reads = [entry for entry in history if entry.kind == "read"]
    got = {entry.id for entry in reads}
    missed = min(entry.position for entry in history if entry.outcome == "ok" and entry.id not in got)
    return min(entry.at for entry in reads if entry.position > missed)


@pytest.mark.parametrize("lost", ["a tag", "late"])
def test_a_reader_that_misses_one_of_what_it_wants_is_caught(lost: str) -> None:
    written = [Entry("append", "w", "ok", f"e{n}", n, f"s{n % 2}", (n + 1) // 2) for n in range(1, 9)]
    wants = READERS[lost][1]
    reads = [replace(entry, kind="read", process=lost) for entry in written if wants(entry)]
    assert seen_by(lost, wants, [*written, *reads]) == {}
    assert "unseen" in seen_by(lost, wants, [*written, *reads[:-1]])
    assert "unseen" in seen_by(lost, wants, written)


async def test_killing_the_listening_connection_under_load_loses_nothing(db: str, tmp_path: Path) -> None:
    kills = 0

    async def kill_often(dsn: str, name: str, journal: Journal, written: asyncio.Event) -> None:
        nonlocal kills
        async with EventStore(dsn, settings=QUICK) as store, store.listen(after=0) as events:
            killer = asyncio.create_task(kill(dsn, store))
            async for event in until(events, store, written):
                note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)
            kills += await killer

    found = await hunt(db, tmp_path / "journal.jsonl", {"often killed": (kill_often, everything)})
    assert found.anomalies == {}, f"HUNT_SEED={SEED}"
    assert kills == PLAN.kills
    note(events=found.outcomes("ok"), listeners_killed=kills, anomalies=0)


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
        await asyncio.wait_for(listening, 120)
    await connection.close()
    return PLAN.kills
