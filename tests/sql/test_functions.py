"""The SQL functions as an API of their own, and what they refuse whoever calls."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore
from eventstore.schema import function_source, installed_functions, signal_channel


async def append(sql: asyncpg.Connection, events: Any, stream: str = "s", expected: int = -1) -> asyncpg.Record:
    text = events if isinstance(events, str) else json.dumps(events)
    return await sql.fetchrow("select * from eventstore.append_events($1, $2, $3)", stream, text, expected)


async def test_psql_users_append_and_read_without_python(sql: asyncpg.Connection) -> None:
    row = await append(sql, [{"type": "A", "data": {"n": 1.50}, "tags": ["x", "y z"]}, {"type": "B"}], expected=0)
    assert (row["first_version"], row["version"], row["idempotent"]) == (1, 2, False)
    stored = await sql.fetch("select version, type, data, tags from eventstore.read_stream('s')")
    assert [tuple(one) for one in stored] == [(1, "A", '{"n": 1.5}', ["x", "y z"]), (2, "B", "null", [])]
    fed = await sql.fetch("select position from eventstore.read_feed(after => 1)")
    assert [one["position"] for one in fed] == [2]
    assert await sql.fetchval("select eventstore.head()") == 2


async def test_a_selector_filters_the_feed_in_sql(sql: asyncpg.Connection) -> None:
    await append(sql, [{"type": "A", "data": {"n": 1}}, {"type": "B"}])
    query = "select type from eventstore.read_feed(selector => $1)"
    assert [one["type"] for one in await sql.fetch(query, '{"kind": "event_payload", "pattern": {"n": 1}}')] == ["A"]


async def test_events_appended_in_sql_are_read_by_the_library(store: EventStore, sql: asyncpg.Connection) -> None:
    await append(sql, '[{"type": "A", "data": {"big": 1208925819614629174706176, "f": 1e16}}]')
    (event,) = [event async for event in store.read("s")]
    assert event.data == {"big": 2**80, "f": 1e16}
    assert event.id.version == 7


async def test_an_append_in_sql_signals_inside_its_transaction(sql: asyncpg.Connection, db: str) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(db)
    await listener.add_listener(signal_channel("eventstore"), lambda *args: heard.append(str(args[3])))
    async with sql.transaction():
        await append(sql, [{"type": "A"}])
    while not heard:
        await listener.fetchval("select 1")
    assert heard == [""]
    await listener.close()


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ("{}", "ES003"),
        ("[]", "ES003"),
        ("[1]", "ES003"),
        ('[{"data": 1}]', "ES003"),
        ('[{"type": ""}]', "ES003"),
        ('[{"type": "A", "kind": "x"}]', "ES003"),
        ('[{"type": "A", "tags": "x"}]', "ES003"),
        ('[{"type": "A", "tags": [""]}]', "ES003"),
        ('[{"type": "A", "tags": ["x", "x"]}]', "ES003"),
        ('[{"type": "A", "metadata": []}]', "ES003"),
        ('[{"type": "A", "data": "\\u0000"}]', "ES003"),
        ('[{"type": "A", "data": {"x": "\\ud83d"}}]', "ES003"),
        ('[{"type": "A", "data": 1e400}]', "ES003"),
        ('[{"type": "A", "data": [-1e999]}]', "ES003"),
        ('[{"type": "A", "data": ' + "9" * 4301 + "}]", "ES003"),
        ('[{"type": "A", "data": ' + "[" * 65 + "]" * 65 + "}]", "ES003"),
        ('[{"type": "A", "data": "' + "x" * (1 << 20) + '"}]', "ES004"),
        ('[{"type": "A", "created_at": "infinity"}]', "ES003"),
        ('[{"type": "A", "created_at": "20000-01-01"}]', "ES003"),
        ('[{"type": "A", "created_at": "0044-03-15 BC"}]', "ES003"),
        ('[{"type": "A", "created_at": "2020-01-01 00:00+99:00"}]', "ES003"),
        ('[{"type": "A", "data": ' + "9" * 254 + "e99}]", "ES003"),
        ('[{"type": 5}]', "ES003"),
        ('[{"type": "A", "tags": [1]}]', "ES003"),
    ],
)
async def test_sql_refuses_what_python_refuses(sql: asyncpg.Connection, events: str, state: str) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await append(sql, events)
    assert caught.value.sqlstate == state
    assert await sql.fetchval("select count(*) from eventstore.streams") == 0


@pytest.mark.parametrize(
    "data",
    ['"\\\\u0000"', '"\\ud83d\\ude00"', "1e308", '"1e999"', "9" * 4300, "[" * 64 + "]" * 64, '"' + "[" * 99 + '"'],
)
async def test_sql_accepts_what_only_looks_wrong(sql: asyncpg.Connection, data: str) -> None:
    assert (await append(sql, '[{"type": "A", "data": ' + data + "}]"))["version"] == 1


async def test_the_log_is_append_only_for_its_owner_too(sql: asyncpg.Connection) -> None:
    await append(sql, [{"type": "A"}])
    for statement in ("update {} set type = 'B'", "delete from {}", "truncate {}"):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await sql.execute(statement.format("eventstore.events"))
        assert caught.value.sqlstate == "ES009"


async def test_a_role_with_execute_alone_appends_and_reads_but_touches_no_table(
    sql: asyncpg.Connection, db: str
) -> None:
    await sql.execute(
        "drop role if exists writer_only; create role writer_only login;"
        "grant usage on schema eventstore to writer_only;"
        "grant execute on all functions in schema eventstore to writer_only"
    )
    try:
        async with EventStore(db.replace("//postgres@", "//writer_only@")) as store:
            from eventstore import NewEvent

            await store.append("s", [NewEvent(type="A")])
            assert [event.type async for event in store.read_all()] == ["A"]
        await touches_no_table(db.replace("//postgres@", "//writer_only@"))
    finally:
        await sql.execute("drop owned by writer_only; drop role writer_only")


async def touches_no_table(dsn: str) -> None:
    role = await asyncpg.connect(dsn)
    for statement in (
        "select * from eventstore.events",
        "insert into eventstore.streams (name, bucket) values ('x', 1)",
        "update eventstore.checkpoints set position = 0",
        "select nextval('eventstore.event_positions')",
        "truncate eventstore.events",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(statement)
    await role.close()


async def test_a_role_without_grants_can_call_nothing(sql: asyncpg.Connection) -> None:
    allowed = await sql.fetch(
        "select p.proname from pg_proc p where p.pronamespace = 'eventstore'::regnamespace"
        " and has_function_privilege('public', p.oid, 'execute')"
    )
    assert allowed == []


async def test_every_function_has_a_pinned_search_path_or_names_no_object(sql: asyncpg.Connection) -> None:
    unpinned = await sql.fetch(
        "select p.proname, p.prosecdef from pg_proc p where p.pronamespace = 'eventstore'::regnamespace"
        " and not coalesce(array_to_string(p.proconfig, ','), '') like '%search_path=pg_catalog%pg_temp%'"
    )
    assert not [one["proname"] for one in unpinned if one["prosecdef"]]


DRAW = "select count(nextval('eventstore.event_positions')) from generate_series(1, 200000)"

LOOK = """
create function ahead(times int, by_query boolean) returns bigint language plpgsql as $$
declare
    v_seen bigint;
    v_ahead bigint := 0;
begin
    for n in 1..times loop
        if by_query then
            select last_value into v_seen from eventstore.event_positions;
        else
            v_seen := (eventstore.horizon_v1()).last_position;
        end if;
        v_ahead := v_ahead + (v_seen > pg_sequence_last_value('eventstore.event_positions'))::int;
    end loop;
    return v_ahead;
end $$
"""


async def test_the_last_position_is_never_one_that_is_still_to_be_drawn(sql: asyncpg.Connection, db: str) -> None:
    """A query of the sequence may see what its page holds for a moment while a draw is logged: 32 further on."""
    await sql.execute(LOOK)
    other = await asyncpg.connect(db)
    deadline = time.monotonic() + 600  # it takes two who work at the same moment
    seen_by_query = 0
    while not seen_by_query and time.monotonic() < deadline:
        drawing = asyncio.create_task(other.fetchval(DRAW))
        assert await sql.fetchval("select ahead(2000, false)") == 0
        seen_by_query = await sql.fetchval("select ahead(20000, true)")
        await drawing
    await other.close()
    assert seen_by_query, "the trap was not sprung within ten minutes: this shows nothing"


def test_no_function_queries_the_sequence_of_positions() -> None:
    sources = [function_source(name, "eventstore") for name in installed_functions()]
    code = [re.sub(r"--.*", "", source) for source in sources]
    assert [one for one in code if re.search(r"(from|join)\s+(\S+\.)?event_positions\b", one)] == []


async def test_uuids_made_in_sql_are_version_7(sql: asyncpg.Connection) -> None:
    made = await sql.fetch("select eventstore.uuid_v7_v1() id from generate_series(1, 100)")
    assert {one["id"].version for one in made} == {7}
    assert {one["id"].variant for one in made} == {"specified in RFC 4122"}
