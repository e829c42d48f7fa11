"""The six conditions that make the horizon exact, and what it does not depend on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from eventstore import DatabaseUnavailable, EventStore, NewEvent
from eventstore.errors import TransactionConflict

APPEND = """select position from eventstore.append_events($1, '[{"type": "T"}]')"""


@asynccontextmanager
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        await opened.close()


async def positions(store: EventStore) -> list[int]:
    return [event.position async for event in store.read_all()]


async def test_the_head_of_an_empty_log_is_zero_and_the_first_position_one(store: EventStore) -> None:
    assert await store.head() == 0
    assert (await store.append("s", [NewEvent(type="T")])).position == 1


async def test_an_append_in_flight_holds_back_later_ones_until_it_commits(store: EventStore, db: str) -> None:
    async with connection(db) as writer:
        transaction = writer.transaction()
        await transaction.start()
        slow = await writer.fetchval(APPEND, "slow")
        quick = await store.append("quick", [NewEvent(type="T")])
        assert slow < quick.position
        assert await positions(store) == []
        await transaction.commit()
    await store.wait_for(quick.position, timeout=60)
    assert await positions(store) == [slow, quick.position]


async def test_an_append_rolled_back_leaves_a_gap_that_holds_back_nobody(store: EventStore, db: str) -> None:
    async with connection(db) as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.fetchval(APPEND, "s")
        quick = await store.append("quick", [NewEvent(type="T")])
        await transaction.rollback()
    assert await store.head() == quick.position
    assert await positions(store) == [quick.position]


async def test_a_savepoint_rolled_back_releases_the_horizon_with_its_events(store: EventStore, db: str) -> None:
    async with connection(db) as writer:
        async with writer.transaction():
            await writer.execute("savepoint here")
            await writer.fetchval(APPEND, "s")
            await writer.execute("rollback to savepoint here")
            quick = await store.append("quick", [NewEvent(type="T")])
            assert await store.head() == quick.position


async def test_a_writer_paused_before_drawing_only_lowers_the_horizon_for_a_moment(store: EventStore, db: str) -> None:
    """The lock's key is the last position before the lock: what is drawn later lies above it."""
    await store.append("s", [NewEvent(type="T")])
    async with connection(db) as writer:
        await writer.execute("begin")
        await writer.execute(
            "select pg_advisory_xact_lock_shared('eventstore.event_positions'::regclass::oid::bigint::bit(32)::int,"
            " (pg_sequence_last_value('eventstore.event_positions') & 2147483647)::int)"
        )
        later = await store.append("s", [NewEvent(type="T")])
        assert await store.head() == 1 < later.position
        await writer.execute("commit")
    assert await store.head() == later.position


@pytest.mark.parametrize("start", [2**31 - 3, 2**31 + 5, 2**32 - 2, 2**53 - 4, 5 * 2**31 + 7])
async def test_the_horizon_is_exact_wherever_the_sequence_stands(
    store: EventStore, db: str, sql: asyncpg.Connection, start: int
) -> None:
    await sql.execute("select setval('eventstore.event_positions', $1)", start)
    async with connection(db) as writer:
        await writer.execute("begin")
        held = await writer.fetchval(APPEND, "slow")
        for _ in range(6):
            await store.append("s", [NewEvent(type="T")])
        assert await store.head() == start == held - 1
        await writer.execute("commit")
    assert await store.head() == start + 7
    assert await positions(store) == list(range(start + 1, start + 8))


async def test_the_sequence_hands_out_positions_one_by_one_and_only_in_the_append(sql: asyncpg.Connection) -> None:
    row = await sql.fetchrow(
        "select cache_size, min_value, start_value, increment_by from pg_sequences"
        " where schemaname = 'eventstore' and sequencename = 'event_positions'"
    )
    assert dict(row) == {"cache_size": 1, "min_value": 0, "start_value": 0, "increment_by": 1}
    default = await sql.fetchval(
        "select column_default from information_schema.columns"
        " where table_schema = 'eventstore' and table_name = 'events' and column_name = 'position'"
    )
    assert default is None


async def test_rows_come_from_a_newer_snapshot_than_the_horizon(store: EventStore, db: str) -> None:
    """A reader whose statement began before a commit must not take the horizon of after it with the rows of before."""
    async with connection(db) as reader:
        for level in ("repeatable read", "serializable"):
            async with reader.transaction(isolation=level.replace(" ", "_")):
                with pytest.raises(asyncpg.PostgresError) as caught:
                    await reader.fetch("select * from eventstore.read_feed()")
                assert caught.value.sqlstate == "ES011"


async def test_a_lock_that_waits_to_be_granted_counts_as_held(store: EventStore, db: str) -> None:
    """Somebody holds the key exclusively: the writer waits behind it, and readers stay below the writer."""
    key = "select 'eventstore.event_positions'::regclass::oid::bigint::bit(32)::int"
    async with connection(db) as blocker, connection(db) as writer:
        await blocker.execute("begin")
        await blocker.execute("select pg_advisory_xact_lock(($1)::int, 0)", await blocker.fetchval(key))
        waiting = asyncio.create_task(writer.fetchval(APPEND, "s"))
        await waits_for_lock(blocker)
        assert await store.head() == 0
        await blocker.execute("commit")
        assert await waiting == await store.head() == 1


async def waits_for_lock(observer: asyncpg.Connection) -> None:
    query = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
    while not await observer.fetchval(query):
        await asyncio.sleep(0.005)


async def test_forged_locks_delay_readers_and_never_lose_anything(store: EventStore, db: str) -> None:
    result = await store.append("s", [NewEvent(type="T")])
    async with connection(db) as stranger:
        key = await stranger.fetchval("select 'eventstore.event_positions'::regclass::oid::bigint::bit(32)::int")
        await stranger.execute("select pg_advisory_lock($1::int, 0)", key)
        assert await store.head() == 0
    await store.wait_for(result.position, timeout=60)
    assert await positions(store) == [result.position]


async def test_a_plain_write_transaction_held_open_delays_nobody(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("create table unrelated (n int)")
    async with connection(db) as other:
        await other.execute("begin")
        await other.execute("insert into unrelated values (1)")
        result = await store.append("s", [NewEvent(type="T")])
        assert await positions(store) == [result.position]
        await other.execute("rollback")


async def test_a_writer_held_open_in_another_database_delays_nobody(store: EventStore, db: str) -> None:
    elsewhere = db.replace("/" + db.split("/")[3].split("?")[0], "/postgres", 1)
    async with connection(elsewhere) as other:
        await other.execute("begin")
        await other.execute("create table written_elsewhere (n int)")
        await other.execute("insert into written_elsewhere values (1)")
        key = "select pg_advisory_xact_lock_shared($1::int, 0)"
        async with connection(db) as here:
            oid = await here.fetchval("select 'eventstore.event_positions'::regclass::oid::bigint::bit(32)::int")
        await other.execute(key, oid)
        result = await store.append("s", [NewEvent(type="T")])
        assert await store.head() == result.position
        await other.execute("rollback")


async def test_a_transaction_that_wrote_elsewhere_first_does_not_invert_versions(store: EventStore, db: str) -> None:
    async with connection(db) as early, connection(db) as late:
        await early.execute("create table notes (n int)")
        await early.execute("begin")
        await early.execute("insert into notes values (1)")
        async with late.transaction():
            await late.fetchval(APPEND, "s")
        await early.fetchval(APPEND, "s")
        await early.execute("commit")
    versions = [event.version async for event in store.read_all()]
    assert versions == [1, 2]


async def test_wait_for_times_out_while_the_horizon_is_held_back(store: EventStore, db: str) -> None:
    async with connection(db) as writer:
        await writer.execute("begin")
        await writer.fetchval(APPEND, "slow")
        result = await store.append("s", [NewEvent(type="T")])
        with pytest.raises(TimeoutError):
            await store.wait_for(result.position, timeout=0.1)
        await writer.execute("rollback")
    await store.wait_for(result.position, timeout=60)


def test_the_named_refusals_of_the_horizon_have_errors() -> None:
    from eventstore.database import SQLSTATES

    made = {SQLSTATES[state](asyncpg.PostgresError("x")) for state in ("ES010", "ES011")}
    assert {type(error) for error in made} == {DatabaseUnavailable, TransactionConflict}
