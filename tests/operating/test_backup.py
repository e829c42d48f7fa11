"""Dumps, and what comes back from them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, NewEvent
from eventstore.embedded import find_binaries
from eventstore.errors import CheckpointAheadOfLog
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.conftest import QUICK, Databases

SETTINGS = replace(QUICK, lease_ttl=60.0)
"""Nothing is delivered twice because a busy machine let a lease run out."""


@pytest.fixture
def elsewhere(db: str, databases: Databases) -> Iterator[str]:
    """DSN of another database, without a store."""
    with databases.fresh("restored") as dsn:
        with_superuser(dsn, "drop schema eventstore cascade")
        yield dsn


def with_superuser(dsn: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def tool(name: str, *arguments: str | Path) -> None:
    binaries = find_binaries()
    if not (binaries / name).exists():
        pytest.skip(f"there is no {name} in {binaries}; EVENTSTORE_PG_BIN names another directory")
    done = subprocess.run([binaries / name, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def dump(dsn: str, path: Path, *options: str) -> Path:
    tool("pg_dump", "--format=custom", "--schema=eventstore", *options, f"--file={path}", dsn)
    return path


def restore(path: Path, dsn: str, *options: str) -> None:
    tool("pg_restore", "--exit-on-error", "--single-transaction", *options, f"--dbname={dsn}", path)


async def handle_all(store: EventStore, name: str, upto: int) -> list[Any]:
    """Run a handler up to a position; return the data it got."""
    got: list[Any] = []

    @store.handler(name, All(), pool_size=2)
    async def handle(event: Event, delivery: Delivery) -> None:
        got.append(event.data)

    running = asyncio.create_task(store.run(handle_sigterm=False))
    await store.started()
    await store.subscriptions.wait_for(name, upto, timeout=120)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return got


async def append(store: EventStore, first: int, count: int) -> int:
    results = [await store.append(f"s{n % 3}", [NewEvent("T", n)]) for n in range(first, first + count)]
    return results[-1].position


async def test_a_store_that_was_restored_elsewhere_goes_on_where_the_dump_was_taken(
    db: str, elsewhere: str, tmp_path: Path
) -> None:
    async with EventStore(db, settings=SETTINGS) as store:
        assert sorted(await handle_all(store, "h", await append(store, 0, 20))) == list(range(20))
        last = await append(store, 20, 5)
        before = [(one.id, one.position, one.version, one.data) async for one in store.read_all()]
    await asyncio.to_thread(restore, await asyncio.to_thread(dump, db, tmp_path / "dump"), elsewhere)
    async with EventStore(elsewhere, settings=SETTINGS) as store:
        assert await store.head() == last
        assert [(one.id, one.position, one.version, one.data) async for one in store.read_all()] == before
        upto = await append(store, 25, 5)
        assert upto == last + 5
        assert sorted(await handle_all(store, "h", upto)) == list(range(20, 30))


async def test_an_empty_store_is_restored_with_its_sequence_not_called_yet(
    db: str, elsewhere: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(restore, await asyncio.to_thread(dump, db, tmp_path / "dump"), elsewhere)
    async with EventStore(elsewhere, settings=SETTINGS) as store:
        assert await store.head() == 0
        assert await append(store, 0, 1) == 1


async def test_a_dump_taken_under_load_holds_a_log_without_holes_and_a_sequence_beyond_it(
    db: str, elsewhere: str, tmp_path: Path
) -> None:
    enough = asyncio.Event()

    async def load(store: EventStore, writer: int) -> None:
        while not enough.is_set():
            await store.append(f"s{writer}", [NewEvent("T", writer)])

    async with EventStore(db, settings=SETTINGS) as store, asyncio.TaskGroup() as group:
        for writer in range(4):
            group.create_task(load(store, writer))
        await store.wait_for(50)
        path = await asyncio.to_thread(dump, db, tmp_path / "dump")
        enough.set()
    await asyncio.to_thread(restore, path, elsewhere)
    async with EventStore(elsewhere, settings=SETTINGS) as store:
        restored = [event async for event in store.read_all()]
        assert await store.head() >= restored[-1].position
        for writer in range(4):
            versions = [event.version for event in restored if event.stream == f"s{writer}"]
            assert versions == list(range(1, len(versions) + 1))
        assert await append(store, 0, 1) > restored[-1].position


def log_alone(path: Path, dsn: str) -> None:
    """Restore the log of a dump and leave everything else, as somebody does who wants the progress to stay."""
    with_superuser(dsn, "set session_replication_role = replica; truncate eventstore.events, eventstore.event_tags,"
                        " eventstore.streams")  # fmt: skip
    tables = [f"--table={name}" for name in ("events", "event_tags", "streams", "event_positions")]
    restore(path, dsn, "--data-only", "--disable-triggers", "--superuser=postgres", *tables)


async def test_checkpoints_that_an_older_log_left_ahead_halt_by_name_and_a_rewind_cures_them(
    db: str, tmp_path: Path, plain: Run
) -> None:
    async with EventStore(db, settings=SETTINGS) as store:
        await handle_all(store, "h", await append(store, 0, 10))
    path = await asyncio.to_thread(dump, db, tmp_path / "dump")
    async with EventStore(db, settings=SETTINGS) as store:
        await handle_all(store, "h", await append(store, 10, 10))
    await asyncio.to_thread(log_alone, path, db)
    checked = rows_of(await asyncio.to_thread(plain, "--dsn", db, "doctor", "--only", "ahead", "--json"))
    assert (checked[0]["status"], "rewind" in checked[0]["cure"]) == ("fail", True)
    async with EventStore(db, settings=SETTINGS) as store:
        with pytest.raises(TimeoutError, match=r"halted .CheckpointAheadOfLog"):
            await asyncio.wait_for(failing(store), 120)
        why = [one.halted or {} for one in (await store.subscriptions.get("h")).partitions]
        assert {(one["error"], "rewind" in one["message"]) for one in why} == {("CheckpointAheadOfLog", True)}
        rewound = await asyncio.to_thread(plain, "--dsn", db, "subscription", "rewind", "h", "--after", "10", "--yes")
        assert rewound.exit_code == 0, rewound.stderr
    async with EventStore(db, settings=SETTINGS) as store:
        assert sorted(await handle_all(store, "h", await append(store, 100, 3))) == [100, 101, 102]


async def failing(store: EventStore) -> None:
    @store.handler("h", All(), pool_size=2)
    async def handle(event: Event, delivery: Delivery) -> None: ...

    running = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        await store.started()
        while any(one.halted is None for one in (await store.subscriptions.get("h")).partitions):
            await asyncio.sleep(0.01)
        await store.subscriptions.wait_for("h", 25, timeout=0.1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def rows_of(result: Any) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_a_listener_that_is_to_begin_behind_the_log_is_refused(store: EventStore) -> None:
    last = await append(store, 0, 3)
    async with store.listen(after=last + 1) as events:
        with pytest.raises(CheckpointAheadOfLog, match="listen again after a position from before"):
            await anext(events)


async def test_a_sequence_behind_its_log_is_named_by_doctor(
    db: str, sql: asyncpg.Connection, store: EventStore, plain: Run
) -> None:
    await append(store, 0, 3)
    await sql.execute("select setval('eventstore.event_positions', 1, true)")
    found = rows_of(await asyncio.to_thread(plain, "--dsn", db, "doctor", "--only", "positions", "--json"))
    assert (found[0]["status"], "setval" in found[0]["cure"]) == ("fail", True)
