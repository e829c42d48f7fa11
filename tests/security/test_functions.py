"""What every function of the schema has to be like, and what cannot be slipped under it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from alembic import command

import eventstore
from eventstore import All, EventStore, NewEvent, Settings
from eventstore.reports.health import Finding, examine
from eventstore.reports.site import Site
from eventstore.rights import INTERNAL, UNPINNED
from eventstore.schema import _config
from tests.security.conftest import dsn_as, login

SQL = Path(eventstore.__file__).parent / "sql"

ALONE = Settings(listen=False)


async def finding(db: str, name: str) -> Finding:
    async with Site(db) as site:
        (found,) = [one async for one in examine(site, [name])]
        return found


async def test_every_function_pins_its_path_and_is_nobodys(db: str) -> None:
    assert (await finding(db, "rights")).status == "ok"


async def test_that_holds_after_a_migration_from_the_first_revision(db: str) -> None:
    def again() -> None:
        with _config(db, "eventstore") as config:
            command.downgrade(config, "0001")
            command.upgrade(config, "head")

    await asyncio.to_thread(again)
    assert (await finding(db, "rights")).status == "ok"


def test_what_has_no_path_of_its_own_is_internal_and_only_called_by_what_has() -> None:
    texts = {path.stem: path.read_text() for path in SQL.glob("*.sql")}
    assert set(UNPINNED) <= set(INTERNAL)
    for name in UNPINNED:
        assert "security definer" not in texts[name]
    for caller, text in texts.items():
        used = [name for name in UNPINNED if name != caller and re.search(rf"\b{name}\(", _code(text))]
        assert not used or "set search_path" in text or caller in UNPINNED, caller


def _code(text: str) -> str:
    return re.sub("--.*", "", text)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("create function eventstore.f() returns int language sql return 1", "PUBLIC may call f"),
        (
            "create function eventstore.f() returns int language sql return 1;"
            "revoke all on function eventstore.f from public",
            "without a pinned search_path: f",
        ),
        ("alter function eventstore.head set search_path = eventstore, pg_catalog", "search_path: head"),
        ("alter function eventstore.head set search_path = pg_catalog, eventstore", "search_path: head"),
        ("grant execute on function eventstore.head to public", "PUBLIC may call head"),
        ("grant select on eventstore.events to public", "PUBLIC may select on events"),
        ("grant select on eventstore.pubsub_keys to public", "PUBLIC may select on pubsub_keys"),
        ("alter function eventstore.head owner to pg_monitor", "owned by different roles"),
    ],
)
async def test_the_doctor_finds_what_is_not_so(db: str, sql: asyncpg.Connection, planted: str, found: str) -> None:
    await sql.execute(planted)
    rights = await finding(db, "rights")
    assert rights.status == "fail"
    assert found in rights.found


@pytest.mark.parametrize(
    "planted",
    [
        "alter table eventstore.events disable trigger events_append_only",
        "alter table eventstore.events enable replica trigger events_stub_only",
        "drop trigger event_tags_no_truncate on eventstore.event_tags",
    ],
)
async def test_the_doctor_finds_a_trigger_that_does_not_fire(db: str, sql: asyncpg.Connection, planted: str) -> None:
    assert (await finding(db, "append_only")).status == "ok"
    await sql.execute(planted)
    assert (await finding(db, "append_only")).status == "fail"


# -- shadows


EVIL = """
create schema evil authorization {0};
set role {0};
create function evil.trap() returns text language plpgsql as $$
    begin
        if current_user <> '{0}' then raise exception 'trapped as %', current_user; end if;
        return '';
    end $$;
create function evil.md5(text) returns text language sql as 'select evil.trap()';
create function evil.now() returns timestamptz language sql as 'select evil.trap()::timestamptz';
create function evil.clock_timestamp() returns timestamptz language sql as 'select evil.trap()::timestamptz';
create function evil.bucket_v1(text) returns smallint language sql as 'select evil.trap()::smallint';
create function evil.horizon_v1() returns bigint language sql as 'select evil.trap()::bigint';
create function evil.jsonb_array_length(jsonb) returns int language sql as 'select evil.trap()::int';
create function evil.array_length(anyarray, int) returns int language sql as 'select evil.trap()::int';
create function evil.eq(text, text) returns boolean language sql as 'select evil.trap() is null';
create operator evil.= (leftarg = text, rightarg = text, function = evil.eq);
create function evil.add(bigint, bigint) returns bigint language sql as 'select evil.trap()::bigint';
create operator evil.+ (leftarg = bigint, rightarg = bigint, function = evil.add);
create table evil.events (position bigint);
create table evil.streams (name text);
"""

TEMPORARY = """
create temp table events (like evil.events);
create temp table streams (like evil.streams);
create temp table event_tags (tag text);
create temp table subscriptions (name text);
create temp table event_positions (last_value bigint);
create function pg_temp.bucket_v1(text) returns smallint language sql as 'select evil.trap()::smallint';
create type pg_temp.jsonb as (a int);
"""

CALLS = """
select eventstore.head();
select * from eventstore.append_events('s', '[{"type": "A", "tags": ["a", "b"]}, {"type": "B"}]', 0);
select * from eventstore.append_events(null, '[{"type": "A"}]', -1, '{"items": [{"types": ["C"]}]}');
select * from eventstore.read_feed(0, 10, '{"kind": "tags", "tags": ["a"], "match": "all"}');
select * from eventstore.read_feed(0, 10, '{"kind": "event_pattern", "glob": "s*"}');
select * from eventstore.read_stream('s');
select * from eventstore.lag_v1();
select * from eventstore.overview_v1();
"""


async def shadowed(db: str, sql: asyncpg.Connection) -> asyncpg.Connection:
    """A session of a writer, reader and admin whose path leads to traps first."""
    name = login("nobody")
    await sql.execute(EVIL.format(name) + "reset role;")
    await sql.execute(f"grant es_test_writer, es_test_reader, es_test_admin to {name}")
    attacker = await asyncpg.connect(dsn_as(db, "nobody"))
    await attacker.execute(TEMPORARY)
    await attacker.execute("set search_path = evil, pg_temp, pg_catalog")
    return attacker


async def test_nothing_of_the_callers_is_found_by_a_function(roles: str, sql: asyncpg.Connection) -> None:
    attacker = await shadowed(roles, sql)
    try:
        for call in CALLS.strip().splitlines():
            await attacker.execute(call)
        assert await sql.fetchval("select count(*) from eventstore.events") == 3
        assert await attacker.fetchval("select count(*) from evil.events") == 0
    finally:
        await attacker.close()
        await sql.execute(f"revoke es_test_writer, es_test_reader, es_test_admin from {login('nobody')}")


async def test_a_function_without_a_pinned_path_walks_into_the_trap(roles: str, sql: asyncpg.Connection) -> None:
    attacker = await shadowed(roles, sql)
    try:
        await sql.execute("alter function eventstore.append_events_v1 reset search_path")
        await sql.execute("alter function eventstore.append_events reset search_path")
        with pytest.raises(asyncpg.PostgresError):
            await attacker.execute(CALLS.strip().splitlines()[1])
    finally:
        await attacker.close()
        await sql.execute(f"revoke es_test_writer, es_test_reader, es_test_admin from {login('nobody')}")


async def test_the_library_is_not_led_astray_either(roles: str, sql: asyncpg.Connection) -> None:
    await sql.execute(EVIL.format(login("writer")) + "reset role;")
    await sql.execute(f"alter role {login('writer')} set search_path = evil, pg_catalog")
    try:
        async with EventStore(dsn_as(roles, "writer"), settings=ALONE) as store:
            await store.append("s", [NewEvent("A", tags=["t"])])
        async with EventStore(dsn_as(roles, "reader"), settings=ALONE) as store:
            assert [event.type async for event in store.read_all(All())] == ["A"]
    finally:
        await sql.execute(f"alter role {login('writer')} reset search_path")
