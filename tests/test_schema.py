from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from eventstore import DatabaseUnavailable, EventStore, MigrationRequired
from eventstore.errors import ConfigurationError
from eventstore.schema import REVISION, check_schema_name, function_source, migrate, signal_channel

ROOT = Path(__file__).parent.parent


def test_the_revision_the_code_needs_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(ROOT / "migrations")).get_current_head() == REVISION


def test_every_sql_file_is_one_function_of_its_name() -> None:
    for path in (ROOT / "eventstore" / "sql").glob("*.sql"):
        text = path.read_text()
        assert text.lower().count("create function") == 1, path
        assert f"create function @schema@.{path.stem}(" in text, path
        assert text.startswith("-- "), path


async def test_every_sql_file_is_installed(sql: asyncpg.Connection) -> None:
    installed = await sql.fetch("select distinct proname from pg_proc where pronamespace = 'eventstore'::regnamespace")
    files = {path.stem for path in (ROOT / "eventstore" / "sql").glob("*.sql")}
    assert {one["proname"] for one in installed} == files


async def test_an_old_schema_is_named_with_its_cure(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("update eventstore.eventstore_version set version_num = '0000'")
    with pytest.raises(MigrationRequired, match="eventstore migrate --schema eventstore"):
        await EventStore(db).__aenter__()


async def test_a_newer_schema_is_used_during_a_rollout(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("update eventstore.eventstore_version set version_num = '9999'")
    async with EventStore(db) as store:
        assert await store.head() == 0


async def test_a_missing_schema_is_named(db: str) -> None:
    with pytest.raises(MigrationRequired, match="holds no event store"):
        await EventStore(db, schema="elsewhere").__aenter__()


@pytest.mark.parametrize("schema", ["tenant 1", "a-b_c", "Größe", "select", "2nd"])
async def test_any_schema_name_works(db: str, sql: asyncpg.Connection, schema: str) -> None:
    from eventstore import NewEvent

    await EventStore.migrate(db, schema=schema)
    async with EventStore(db, schema=schema) as store:
        await store.append("s", [NewEvent(type="A")])
        assert await store.head() == 1
    assert await sql.fetchval(f'select "{schema}".signal_channel_v1()') == signal_channel(schema)


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "pg_mine", "a\0b", "information_schema", 'quo"te', "a$$b", "@schema@", "\ud800", 5, "é" * 32]
)
def test_an_unusable_schema_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        check_schema_name(name)


async def test_a_schema_where_public_may_create_is_refused(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("create schema open; grant create on schema open to public")
    with pytest.raises(ConfigurationError, match="PUBLIC"):
        await EventStore.migrate(db, schema="open")
    assert await sql.fetchval("select count(*) from pg_class where relnamespace = 'open'::regnamespace") == 0


async def test_migrators_at_the_same_time_are_safe(db: str, sql: asyncpg.Connection) -> None:
    script = "import sys; from eventstore.schema import migrate; migrate(sys.argv[1], 'together')"
    import sys

    migrators = [await asyncio.create_subprocess_exec(sys.executable, "-c", script, db) for _ in range(3)]
    assert [await one.wait() for one in migrators] == [0, 0, 0]
    assert await sql.fetchval("select together.schema_revision()") == REVISION


async def test_a_role_that_may_not_create_a_schema_is_told_so(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("drop role if exists nobody_much; create role nobody_much login")
    try:
        with pytest.raises(ConfigurationError, match="permission denied"):
            await EventStore.migrate(db.replace("//postgres@", "//nobody_much@"), schema="mine")
    finally:
        await sql.execute("drop role nobody_much")


async def test_a_schema_newer_than_the_package_is_not_migrated(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("update eventstore.eventstore_version set version_num = '9999'")
    with pytest.raises(ConfigurationError, match="9999"):
        await EventStore.migrate(db)


async def default(sql: asyncpg.Connection, setting: str, value: str) -> None:
    await sql.execute(f'alter database "{await sql.fetchval("select current_database()")}" set {setting} to {value}')


async def test_a_read_only_database_is_named(db: str, sql: asyncpg.Connection) -> None:
    await default(sql, "default_transaction_read_only", "on")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await EventStore.migrate(db, schema="mine")


async def test_a_database_that_is_serializable_by_default_is_read_all_the_same(
    db: str, sql: asyncpg.Connection
) -> None:
    await default(sql, "default_transaction_isolation", "serializable")
    async with EventStore(db) as store:
        assert await store.head() == 0


async def test_migrating_again_changes_nothing(db: str) -> None:
    await EventStore.migrate(db)


def test_a_template_leaves_no_placeholder() -> None:
    assert "@" not in function_source("horizon_v1", "x")


@pytest.mark.parametrize("name", ["horizon_v1", "write_events_v1", "append_one_v1", "signal_v1", "changed_v1"])
async def test_a_schema_of_an_earlier_revision_gets_what_was_mended_since(
    db: str, sql: asyncpg.Connection, name: str
) -> None:
    await asyncio.to_thread(migrate, db, "older", "0004")
    body = "select p.prosrc from pg_proc p where p.pronamespace = $1::regnamespace and p.proname = $2"
    await sql.execute(
        function_source(name, "older")
        .replace("create function", "create or replace function", 1)
        .replace("$$;", "-- as it was before\n$$;")
    )
    assert "as it was before" in await sql.fetchval(body, "older", name)
    await asyncio.to_thread(migrate, db, "older")
    assert await sql.fetchval(body, "older", name) in function_source(name, "older")


async def test_downgrading_removes_everything(db: str, sql: asyncpg.Connection) -> None:
    from alembic import command

    from eventstore.schema import _config

    def downgrade() -> None:
        with _config(db, "eventstore") as config:
            command.downgrade(config, "base")

    await asyncio.to_thread(downgrade)
    left = await sql.fetch(
        "select relname from pg_class where relnamespace = 'eventstore'::regnamespace and relkind in ('r', 'S')"
    )
    assert [one["relname"] for one in left] == ["eventstore_version"]
    await asyncio.to_thread(migrate, db)
