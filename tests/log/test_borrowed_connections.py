"""Appends inside the caller's own transaction, over asyncpg and SQLAlchemy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from eventstore import NO_STREAM, EventStore, NewEvent, WrongExpectedVersion
from eventstore.errors import ConfigurationError, TransactionConflict

A = {"n": 1, "text": "ü", "list": [1.0, None]}


@pytest.fixture
async def engine(db: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(db.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.execute(text("create table orders (id int)"))
    yield engine
    await engine.dispose()


async def stored(store: EventStore) -> list[object]:
    return [event.data async for event in store.read_all()]


async def test_a_session_that_commits_keeps_rows_and_events(store: EventStore, engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine)() as session, session.begin():
        await session.execute(text("insert into orders values (1)"))
        result = await store.append("s", [NewEvent("A", A)], connection=session)
        assert (result.version, await stored(store)) == (1, [])
    assert await stored(store) == [A]


async def test_a_session_that_rolls_back_takes_the_event_with_it(store: EventStore, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await store.append("s", [NewEvent("A", A)], connection=session)
        await session.rollback()
    assert await stored(store) == []


async def test_the_append_may_be_the_first_statement_of_a_connection(store: EventStore, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await store.append("s", [NewEvent("A", A)], connection=connection)
        await connection.rollback()
        await store.append("s", [NewEvent("B", A)], connection=connection)
        await connection.commit()
    assert [event.type async for event in store.read("s")] == ["B"]


async def test_a_conflict_leaves_a_session_usable(store: EventStore, engine: AsyncEngine) -> None:
    await store.append("s", [NewEvent("A")])
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("insert into orders values (1)"))
        with pytest.raises(WrongExpectedVersion):
            await store.append("s", [NewEvent("B")], expected=NO_STREAM, connection=session)
        await session.execute(text("insert into orders values (2)"))
        assert await session.scalar(text("select count(*) from orders")) == 2


async def test_autocommit_is_refused_by_name(store: EventStore, engine: AsyncEngine) -> None:
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            await store.append("s", [NewEvent("A")], connection=connection)
    assert await stored(store) == []


async def test_another_driver_is_refused_by_name(store: EventStore, db: str) -> None:
    engine = create_async_engine(db.replace("postgresql://", "postgresql+psycopg://"))
    async with engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="asyncpg"):
            await store.append("s", [NewEvent("A")], connection=connection)
    await engine.dispose()


async def test_what_is_no_connection_is_refused(store: EventStore, engine: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        await store.append("s", [NewEvent("A")], connection=engine)  # type: ignore[arg-type]


async def test_codecs_of_the_callers_connection_do_not_change_the_data(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    for kind in ("json", "jsonb"):
        await sql.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    async with sql.transaction():
        await store.append("s", [NewEvent("A", A, {"m": 1})], connection=sql)
    assert [(event.data, event.metadata) async for event in store.read("s")] == [(A, {"m": 1})]


async def test_an_aborted_transaction_says_so(store: EventStore, engine: AsyncEngine) -> None:
    from eventstore import EventStoreError

    async with engine.connect() as connection:
        with pytest.raises(Exception, match="division"):
            await connection.execute(text("select 1/0"))
        with pytest.raises(EventStoreError, match="aborted"):
            await store.append("s", [NewEvent("A")], connection=connection)


async def test_a_repetition_that_the_isolation_level_hides_is_a_conflict(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    event = NewEvent("A")
    async with sql.transaction(isolation="repeatable_read"):
        await sql.fetchval("select 1 from eventstore.streams")
        await store.append(None, [event])
        with pytest.raises(TransactionConflict, match="roll back"):
            await store.append(None, [event], connection=sql)
        assert await sql.fetchval("select 1") == 1
    assert len(await stored(store)) == 1
