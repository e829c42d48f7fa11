from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore import EventStore
from eventstore.analytics import RequestTable
from eventstore.errors import ConfigurationError, TransactionConflict
from eventstore.schema import _config
from tests.analytics.logs import a_log

JUNE = datetime(2026, 6, 15, tzinfo=UTC)


async def count(sql: asyncpg.Connection) -> int:
    found = await sql.fetchval("select count(*) from eventstore.request_logs")
    assert type(found) is int
    return found


async def months(sql: asyncpg.Connection) -> list[str]:
    rows = await sql.fetch("select name from eventstore.request_months_v1()")
    return [one["name"].removeprefix("request_logs_") for one in rows]


async def test_every_column_is_stored_as_it_was_given(db: str, sql: asyncpg.Connection) -> None:
    log = a_log(
        user_agent="a\0b\ud800", remote_ip="0123456789abcdef", referer="Direct", device_type="mobile",
        session_id="s", session_page_views=3, inserted_at=JUNE,
    )  # fmt: skip
    async with RequestTable(db) as table:
        assert await table.insert([log]) == 1
    assert dict(await sql.fetchrow("select * from eventstore.request_logs") or {}) == log.model_dump()


async def test_an_engine_and_a_store_s_database_will_do_as_well(store: EventStore, sql: asyncpg.Connection) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(store._dsn))
    for where in (engine, store.database):
        assert await RequestTable(where).insert([a_log(session_id="é"), a_log()]) == 2
    await engine.dispose()
    assert await count(sql) == 4


async def test_months_are_found_however_the_planner_goes_about_it(db: str, sql: asyncpg.Connection) -> None:
    async with RequestTable(db) as table:
        await table.insert([a_log(inserted_at=datetime(2020 + n // 12, n % 12 + 1, 5, tzinfo=UTC)) for n in range(30)])
        await sql.execute("create table odd (like eventstore.request_logs including constraints)")
        await sql.execute(
            "alter table eventstore.request_logs attach partition odd for values from ('1999-01-01') to ('2000-01-01')"
        )
        for catalog in ("pg_class", "pg_inherits"):
            await sql.execute(f"analyze pg_catalog.{catalog}")
        for scans in ("on", "off"):
            await sql.execute(f"set enable_indexscan = {scans}; set enable_hashjoin = {scans}; discard plans")
            assert len(await sql.fetch("select from eventstore.request_months_v1(0, 30)")) == 30
        assert len(await table.prune(keep_days=30)) == 30


async def test_the_moment_to_count_back_from_has_a_time_zone(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        await RequestTable(store.database).prune(keep_days=1, now=datetime(2026, 1, 1))


def test_anything_else_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        RequestTable(5)  # type: ignore[arg-type]


async def test_a_table_that_was_closed_opens_again(db: str) -> None:
    table = RequestTable(db)
    for _ in range(2):
        assert await table.insert([a_log()]) == 1
        await table.close()


async def test_a_request_is_stored_once_whatever_time_comes_with_it(store: EventStore, sql: asyncpg.Connection) -> None:
    table, same = RequestTable(store.database), uuid4()
    assert await table.insert([a_log(request_id=same), a_log(request_id=same)]) == 1
    assert await table.insert([a_log(request_id=same), a_log()]) == 1
    assert await count(sql) == 2


async def test_batches_come_again_in_any_order_and_overlap_and_each_request_is_stored_once(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    table, times = RequestTable(store.database), [JUNE, JUNE + timedelta(days=20), JUNE + timedelta(days=400)]
    logs = [a_log(inserted_at=times[n % 3]) for n in range(6)]
    batches = st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=6)

    async def insert(sent: list[list[int]], together: bool) -> None:
        inserts = [table.insert([logs[n] for n in batch]) for batch in sent]
        new = sum(await asyncio.gather(*inserts)) if together else sum([await one for one in inserts])
        assert new == await count(sql) == len({n for batch in sent for n in batch})
        await sql.execute("truncate eventstore.request_logs")

    cases = []

    @settings(max_examples=25, deadline=None, database=None)
    @given(batches, st.booleans())
    def collect(sent: list[list[int]], together: bool) -> None:
        cases.append((sent, together))

    collect()
    for case in cases:
        await insert(*case)


async def test_many_connections_make_a_month_at_once_and_none_fails(db: str, sql: asyncpg.Connection) -> None:
    days = [JUNE + timedelta(days=31 * n) for n in range(3)]
    tables = [RequestTable(db) for _ in range(8)]
    for table in tables:
        await table.months()
    inserts = [table.insert([a_log(inserted_at=day) for day in (days if n % 2 else days[::-1])])
               for n, table in enumerate(tables)]  # fmt: skip
    assert await asyncio.gather(*inserts) == [3] * 8
    for table in tables:
        await table.close()
    assert (await months(sql), await count(sql)) == (["202606", "202607", "202608"], 24)


async def test_a_month_is_made_while_others_read_and_write(store: EventStore, db: str, sql: asyncpg.Connection) -> None:
    table = RequestTable(store.database)
    await table.insert([a_log(inserted_at=JUNE)])
    async with sql.transaction():
        await sql.execute("update eventstore.request_logs set path = path")
        assert await table.insert([a_log(inserted_at=JUNE + timedelta(days=30))]) == 1


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ({"keep_days": 1}, ["202606"]),
        ({"keep_days": 14}, ["202606"]),
        ({"keep_days": 15}, ["202605", "202606"]),
        ({"keep_months": 1}, ["202605", "202606"]),
        ({"keep_months": 1, "keep_days": 20}, ["202604", "202605", "202606"]),
        ({"keep_months": 12}, ["202604", "202605", "202606"]),
    ],
)
async def test_months_are_dropped_once_all_of_them_is_old_enough(
    store: EventStore, sql: asyncpg.Connection, keep: dict[str, int], left: list[str]
) -> None:
    table = RequestTable(store.database)
    await table.insert([a_log(inserted_at=datetime(2026, month, 10, tzinfo=UTC)) for month in (4, 5, 6)])
    to_drop = await table.months(**keep, now=JUNE)
    assert [one.month for one in await table.prune(**keep, now=JUNE)] == [one.month for one in to_drop]
    assert (await months(sql), len(to_drop)) == (left, 3 - len(left))


async def test_dropping_gives_up_quickly_and_goes_on_when_the_table_is_free(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    table = RequestTable(store.database)
    await table.insert([a_log(inserted_at=JUNE)])

    class Freed:
        """The pause after the first refusal is when the reader ends."""

        async def sleep(self, seconds: float) -> None:
            await sql.execute("rollback")

    await sql.execute("begin; select * from eventstore.request_logs")
    with pytest.raises(TransactionConflict):
        await store.database.value("drop_request_month_v1", "request_logs_202606", 0, 1)
    freed: Any = Freed()
    assert len(await table.prune(keep_days=1, clock=freed)) == 1


async def test_nothing_but_an_old_month_is_dropped(store: EventStore, sql: asyncpg.Connection) -> None:
    await RequestTable(store.database).insert([a_log()])
    (current,) = await months(sql)
    for name in ("events", "request_logs", f"request_logs_{current}", 'x"; drop table events'):
        assert await store.database.value("drop_request_month_v1", name, 0, 1) is False


@pytest.mark.parametrize("keep", [{}, {"keep_days": 0}, {"keep_days": -1}, {"keep_months": 1.5}])
async def test_everything_is_not_dropped_by_mistake(db: str, keep: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="keep"):
        await RequestTable(db).prune(**keep)


async def test_whoever_asks_first_makes_the_key_and_all_get_the_same(db: str, sql: asyncpg.Connection) -> None:
    tables = [RequestTable(db) for _ in range(8)]
    for table in tables:
        await table.months()
    keys = await asyncio.gather(*(table.address_key() for table in tables))
    for table in tables:
        await table.close()
    assert (len(set(keys)), len(keys[0])) == (1, 32)
    assert await sql.fetchval("select count(*) from eventstore.request_keys") == 1


async def test_a_role_with_execute_alone_stores_and_touches_no_table(db: str, sql: asyncpg.Connection) -> None:
    role = f"web_{uuid4().hex[:8]}"
    await sql.execute(
        f"create role {role} login; grant usage on schema eventstore to {role};"
        f"grant execute on all functions in schema eventstore to {role}"
    )
    try:
        async with RequestTable(db.replace("//postgres@", f"//{role}@")) as table:
            assert await table.insert([a_log()]) == 1
        connection = await asyncpg.connect(db.replace("//postgres@", f"//{role}@"))
        (month,) = await months(sql)
        for name in ("request_logs", f"request_logs_{month}", "request_keys"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"select * from eventstore.{name}")
        await connection.close()
    finally:
        await sql.execute(f"drop owned by {role}; drop role {role}")


async def test_a_downgrade_removes_the_tables_and_an_upgrade_brings_them_back(db: str, sql: asyncpg.Connection) -> None:
    from alembic import command

    def move(way: Any, revision: str) -> None:
        with _config(db, "eventstore") as config:
            way(config, revision)

    async with RequestTable(db) as table:
        await table.insert([a_log()])
    left = "select count(*) from pg_class where relname like 'request%' and relnamespace = 'eventstore'::regnamespace"
    await asyncio.to_thread(move, command.downgrade, "0001")
    assert await sql.fetchval(left) == 0
    assert await sql.fetchval("select count(*) from pg_proc where oid::regprocedure::text like '%request_month%'") == 0
    await asyncio.to_thread(move, command.upgrade, "head")
    async with RequestTable(db) as table:
        assert await table.insert([a_log()]) == 1
