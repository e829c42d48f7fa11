from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore
from eventstore.errors import ConfigurationError
from eventstore.reports.actions import Action, list_actions, recorded
from tests.reports.conftest import queries


async def listed(store: EventStore, **asked: Any) -> list[Action]:
    return list(await list_actions(store.database, **asked))


def do(store: EventStore, subject: str = "billing", **arguments: Any) -> Any:
    return recorded(store.database, "ada", "dashboard", "rewind", subject, arguments)


async def test_an_action_is_written_before_it_is_done_and_its_end_after(store: EventStore) -> None:
    async with do(store, after=7):
        (begun,) = await listed(store)
    (done,) = await listed(store)
    assert (begun.outcome, begun.finished_at) == ("begun", None)
    assert (done.who, done.via, done.action, done.subject) == ("ada", "dashboard", "rewind", "billing")
    assert (done.arguments, done.outcome, done.error, done.role) == ({"after": 7}, "done", None, "postgres")
    assert done.finished_at is not None
    assert done.finished_at >= done.at


async def test_a_failure_is_recorded_and_goes_on(store: EventStore) -> None:
    with pytest.raises(ValueError, match="no"):
        async with do(store):
            raise ValueError("no\0\ud800")
    (failed,) = await listed(store)
    assert (failed.outcome, failed.error) == ("failed", "ValueError: no\ufffd?")


async def test_what_was_cancelled_may_have_happened(store: EventStore) -> None:
    entered = asyncio.Event()

    async def act() -> None:
        async with do(store):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (failed,) = await listed(store)
    assert (failed.outcome, failed.error) == ("failed", "cancelled; it may have happened all the same")


async def test_what_cannot_be_recorded_is_not_done(store: EventStore, sql: asyncpg.Connection) -> None:
    await sql.execute("alter table eventstore.operator_actions rename to elsewhere")
    with pytest.raises(ConfigurationError):
        async with do(store):
            raise AssertionError("it was done")


async def test_an_outcome_that_cannot_be_recorded_is_logged(
    store: EventStore, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with do(store):
        await sql.execute("alter table eventstore.operator_actions rename to elsewhere")
    assert "could not be recorded" in caplog.text


async def test_an_outcome_is_recorded_once(store: EventStore, sql: asyncpg.Connection) -> None:
    async with do(store) as number:
        pass
    assert not await sql.fetchval("select eventstore.finish_action_v1($1, 'failed', 'forged')", number)


async def test_actions_are_listed_newest_first_by_subject_and_page(store: EventStore) -> None:
    for subject in ("a", "b", "a", "a"):
        async with do(store, subject):
            pass
    first = await listed(store, subject="a", limit=2)
    rest = await listed(store, subject="a", before=first[-1].id)
    assert [[one.id for one in page] for page in (first, rest)] == [[4, 3], [1]]
    assert await queries(store.database, list_actions(store.database)) == 1


async def test_the_role_cannot_be_chosen(store: EventStore, sql: asyncpg.Connection, db: str) -> None:
    await sql.execute(
        "drop role if exists clerk; create role clerk login; grant usage on schema eventstore to clerk;"
        "grant execute on all functions in schema eventstore to clerk"
    )
    try:
        async with EventStore(db.replace("//postgres@", "//clerk@")) as other, do(other):
            pass
        assert [one.role for one in await listed(store)] == ["clerk"]
    finally:
        await sql.execute("drop owned by clerk; drop role clerk")
