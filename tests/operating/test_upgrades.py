"""Upgrading while nodes run: what the schema of one revision offers, those of the next offer too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from eventstore import All, Delivery, Event, EventStore, MigrationRequired, NewEvent
from eventstore import database as databases
from eventstore.planning import plan
from eventstore.schema import _config, migrate
from tests.conftest import QUICK

FIRST, OTHERS = "0001", "new"

FUNCTIONS = """
select p.proname || '(' || pg_get_function_arguments(p.oid) || ') -> ' || pg_get_function_result(p.oid)
  from pg_proc p where p.pronamespace = to_regnamespace($1)
"""
COLUMNS = """
select table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '')
  from information_schema.columns where table_schema = $1
"""


async def described(sql: asyncpg.Connection, query: str, schema: str) -> set[str]:
    return {row[0].replace(f'"{schema}"', "").replace(f"{schema}.", "") for row in await sql.fetch(query, schema)}


def revisions() -> list[str]:
    with _config("", "eventstore") as config:
        return [one.revision for one in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))]


async def test_no_revision_takes_away_or_changes_a_function_that_older_nodes_call(
    db: str, sql: asyncpg.Connection
) -> None:
    before: set[str] = set()
    for revision in revisions():
        await asyncio.to_thread(migrate, db, OTHERS, revision)
        found = await described(sql, FUNCTIONS, OTHERS)
        assert before <= found, f"{revision} takes away {before - found}"
        before = found
    await sql.execute(f"drop function {OTHERS}.head")  # what a careless revision would do
    assert not before <= await described(sql, FUNCTIONS, OTHERS)


async def test_no_revision_asks_older_functions_for_a_column_they_do_not_know(db: str, sql: asyncpg.Connection) -> None:
    before: set[str] = set()
    for revision in revisions():
        await asyncio.to_thread(migrate, db, OTHERS, revision)
        found = await described(sql, COLUMNS, OTHERS)
        gone = before - found
        tables = {one.split(".")[0] for one in before}
        demanding = {
            one for one in found - before if one.split(".")[0] in tables and " NO " in one and one.endswith(" ")
        }
        assert (gone, demanding) == (set(), set()), revision
        before = found


async def test_a_new_node_refuses_an_old_schema_and_names_the_cure(db: str) -> None:
    for revision in revisions()[:-1]:
        await asyncio.to_thread(migrate, db, OTHERS, revision)
        with pytest.raises(MigrationRequired, match="eventstore migrate"):
            await EventStore(db, schema=OTHERS).__aenter__()


async def test_an_old_node_goes_on_while_the_schema_is_migrated_underneath(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "REVISION", FIRST)  # what the node asks for, which calls nothing that came later
    await asyncio.to_thread(migrate, db, OTHERS, FIRST)
    await sql.execute("create table seen (position bigint primary key)")
    async with EventStore(db, schema=OTHERS, settings=replace(QUICK, poll_interval=0.05, lease_ttl=60.0)) as old:
        handled: list[int] = []

        @old.handler("handled", All(), pool_size=2)
        async def handle(event: Event, delivery: Delivery) -> None:
            handled.append(event.position)

        @old.projection("seen", All())
        async def seen(events: list[Event], tx: asyncpg.Connection) -> None:
            await tx.executemany("insert into public.seen values ($1)", [(event.position,) for event in events])

        running = asyncio.create_task(old.run(handle_sigterm=False))
        await old.started()
        migrated = asyncio.Event()
        async with asyncio.timeout(300), old.listen(after=0) as live:
            appending = asyncio.create_task(append_until(old, migrated))
            for revision in revisions()[1:]:
                await asyncio.to_thread(migrate, db, OTHERS, revision)
            async with EventStore(db, schema=OTHERS, settings=QUICK) as new:
                await new.append("of the new node", [NewEvent("T", 0)])
            migrated.set()
            await appending
            head = await old.head()
            read = [event.position async for event in until(live, head)]
        for name in ("handled", "seen"):
            await old.subscriptions.wait_for(name, head, timeout=120)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    stored = [row[0] for row in await sql.fetch(f"select position from {OTHERS}.events order by position")]
    assert read == stored
    assert sorted(handled) == stored  # each once: nothing was lost and taken up again meanwhile
    assert [row[0] for row in await sql.fetch("select position from seen order by position")] == stored


async def until(events: AsyncIterator[Event], position: int) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.position >= position:
            return


async def append_until(store: EventStore, migrated: asyncio.Event) -> None:
    number = 0
    while not migrated.is_set() or number < 50:
        await store.append(f"s{number % 5}", [NewEvent("T", number)])
        number += 1


async def test_a_plan_locks_nothing_and_waits_for_nobody(db: str, sql: asyncpg.Connection) -> None:
    await asyncio.to_thread(migrate, db, OTHERS, FIRST)
    async with sql.transaction():
        await sql.execute(f"lock table {OTHERS}.events, {OTHERS}.checkpoints")
        found = await asyncio.to_thread(plan, db, OTHERS)
    assert [step.revision for step in found.steps] == revisions()[1:]
    assert found.found == FIRST
    assert re.search(r"^UPDATE .*version_num='" + found.revision, found.sql, re.MULTILINE)
    await sql.execute(found.sql)
    assert (await asyncio.to_thread(plan, db, OTHERS)).steps == ()
