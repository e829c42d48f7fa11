"""The SQL of `eventstore roles`, what keeps it so, and what notices that it is not."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from alembic import command

import eventstore
from eventstore import EventStore, NewEvent
from eventstore.database import mapped_errors
from eventstore.errors import ConfigurationError
from eventstore.reports.roles import Difference, differences
from eventstore.reports.site import Site
from eventstore.rights import INTERNAL, RIGHTS, ROLES, callers
from eventstore.roles import apply, membership, prefix_of, role_name, script
from eventstore.schema import _config
from tests.security.conftest import PREFIX, dsn_as, login
from tests.security.server import Server

PACKAGE = Path(eventstore.__file__).parent


async def differing(db: str, schema: str = "eventstore") -> list[Difference]:
    async with Site(db, schema) as site:
        return await differences(site, PREFIX)


# -- the table


def test_every_function_of_the_schema_stands_in_the_table_once() -> None:
    granted = [name for right in RIGHTS for name in right.functions]
    names = sorted([*granted, *INTERNAL])
    assert names == sorted(path.stem for path in (PACKAGE / "sql").glob("*.sql"))


def test_whatever_the_package_calls_is_granted_to_somebody() -> None:
    called = {
        name
        for path in PACKAGE.rglob("*.py")
        if path.name != "rights.py"
        for name in re.findall(r'"([a-z_]+_v1)"', path.read_text())
    }
    assert not [name for name in called if not callers()[name]]


def test_whatever_is_granted_runs_with_the_owners_rights() -> None:
    for name, kinds in callers().items():
        definer = "security definer" in (PACKAGE / "sql" / f"{name}.sql").read_text()
        assert definer or not kinds or name == "signal_channel_v1", name


def test_every_right_is_of_known_roles() -> None:
    assert {kind for right in RIGHTS for kind in right.roles} <= set(ROLES) - {"owner"}


@pytest.mark.parametrize("prefix", ["", "pg_mine", "x" * 55, 'quo"te', "semi;colon"])
def test_an_unusable_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        script("eventstore", prefix)


@pytest.mark.parametrize("pair", [("owner", "me"), ("chief", "me"), ("writer", ""), ("writer", "x" * 64)])
def test_an_unusable_membership_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        membership([pair], PREFIX)


def test_a_login_is_quoted() -> None:
    assert membership([("writer", 'o"brien')], "es") == ['grant "es_writer" to "o""brien"']


def test_the_prefix_is_known_by_the_owner() -> None:
    assert (prefix_of("my store_owner"), prefix_of("shop"), prefix_of("_owner")) == ("my store", None, None)


# -- applying


async def test_applying_twice_leaves_nothing_that_differs(roles: str) -> None:
    await apply(roles, "eventstore", PREFIX)
    assert await differing(roles) == []


async def test_a_name_with_spaces_and_capitals_works(db: str, logins: None) -> None:
    await EventStore.migrate(db, schema="My store-1")
    await apply(db, "My store-1", PREFIX)
    assert await differing(db, "My store-1") == []


async def test_a_migrator_makes_a_new_schema_that_the_roles_can_use_at_once(db: str, logins: None) -> None:
    await apply(db, "later", PREFIX, logins=[("migrator", login("migrator")), ("reader", login("reader"))])
    await EventStore.migrate(dsn_as(db, "migrator"), schema="later")
    assert await differing(db, "later") == []
    async with EventStore(dsn_as(db, "reader"), schema="later") as store:
        assert await store.head() == 0


async def test_the_printed_sql_runs_before_and_after_the_schema_is_there(
    db: str, sql: asyncpg.Connection, logins: None
) -> None:
    text = script("later", PREFIX, logins=[("migrator", login("migrator"))])
    await sql.execute(f"begin; {text} commit;")
    await EventStore.migrate(dsn_as(db, "migrator"), schema="later")
    assert await differing(db, "later") == []
    await sql.execute("revoke execute on all functions in schema later from es_test_reader")
    assert await differing(db, "later") != []
    await sql.execute(f"begin; {text} commit;")
    assert await differing(db, "later") == []


@pytest.mark.parametrize("who", ["migrator", "superuser"])
async def test_what_a_later_migration_brings_belongs_to_the_owner_and_is_granted(
    roles: str, sql: asyncpg.Connection, who: str
) -> None:
    def down() -> None:
        with _config(roles, "eventstore") as config:
            command.downgrade(config, "0001")

    await asyncio.to_thread(down)
    await EventStore.migrate(dsn_as(roles, who) if who == "migrator" else roles)
    assert await differing(roles) == []
    owners = "select distinct proowner::regrole::text from pg_proc where pronamespace = 'eventstore'::regnamespace"
    assert [row[0] for row in await sql.fetch(owners)] == [f"{PREFIX}_owner"]


async def test_who_may_create_roles_and_owns_the_schema_needs_no_superuser(
    db: str, sql: asyncpg.Connection, logins: None
) -> None:
    name = await sql.fetchval("select quote_ident(current_database())")
    await sql.execute(f"create role es_test_dba login createrole; grant create on database {name} to es_test_dba")
    try:
        dba = db.replace("//postgres@", "//es_test_dba@")
        await EventStore.migrate(dba, schema="his")
        prefix = f"{PREFIX}2"
        assert await apply(dba, "his", prefix) == "es_test_dba"
        async with Site(db, "his") as site:
            assert await differences(site, prefix) == []
    finally:
        await sql.execute("drop owned by es_test_dba, " + ", ".join(role_name(kind, f"{PREFIX}2") for kind in ROLES))
        await sql.execute("drop role es_test_dba, " + ", ".join(role_name(kind, f"{PREFIX}2") for kind in ROLES))


async def test_the_sql_is_for_older_servers_too(server: Server) -> None:
    await EventStore.migrate(server.dsn(), schema="old")
    prefix = f"{PREFIX}3"
    await apply(server.dsn(), "old", prefix)
    await apply(server.dsn(), "old", prefix)
    async with Site(server.dsn(), "old") as site:
        assert await differences(site, prefix) == []


async def test_a_role_that_may_log_in_is_not_taken_for_one_of_these(db: str, sql: asyncpg.Connection) -> None:
    await sql.execute("create role es_taken_writer login")
    try:
        with pytest.raises(ConfigurationError, match="es_taken_writer is there already"):
            await apply(db, "eventstore", "es_taken")
        assert await sql.fetchval("select count(*) from pg_roles where rolname like 'es\\_taken%'") == 1
    finally:
        await sql.execute("drop role es_taken_writer")


async def test_a_schema_where_public_may_create_is_refused(db: str, sql: asyncpg.Connection, logins: None) -> None:
    await sql.execute("grant create on schema eventstore to public")
    with pytest.raises(ConfigurationError, match="PUBLIC"):
        await apply(db, "eventstore", PREFIX)


async def test_a_role_without_the_right_to_apply_is_told_so(roles: str) -> None:
    with pytest.raises(ConfigurationError, match="permission denied"):
        await apply(dsn_as(roles, "admin"), "eventstore", "es_mine")


async def test_a_login_that_may_not_do_something_is_told_which_roles_may(roles: str) -> None:
    async with EventStore(dsn_as(roles, "worker")) as store:
        with pytest.raises(ConfigurationError, match=r"append_events_v1; to append takes the role writer \(see"):
            await store.append("s", [NewEvent("T")])
    async with EventStore(dsn_as(roles, "writer")) as store:
        with pytest.raises(ConfigurationError, match="to read the log takes the role reader or worker or admin"):
            [event async for event in store.read("s")]


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("select from eventstore.events", "permission denied for table events$"),
        ("drop function eventstore.head", "must be owner of function eventstore.head$"),
    ],
)
async def test_a_refusal_of_anything_but_a_call_is_told_as_it_is(roles: str, statement: str, refusal: str) -> None:
    async with EventStore(dsn_as(roles, "admin")) as store, store._database.acquire() as connection:
        with pytest.raises(ConfigurationError, match=refusal), mapped_errors():
            await connection.execute(statement)


# -- checking


@pytest.mark.parametrize(
    ("planted", "kind", "role", "found"),
    [
        ("grant execute on function eventstore.read_feed to {0}_writer", "extra", "writer", "read_feed"),
        ("grant execute on function eventstore.signal_v1 to public", "extra", "PUBLIC", "signal_v1"),
        ("revoke execute on function eventstore.head from {0}_reader", "missing", "reader", "head"),
        ("grant select on eventstore.events to {0}_reader", "extra", "reader", "select on events"),
        ("grant select (data) on eventstore.events to {0}_reader", "extra", "reader", "select on events.data"),
        ("grant create on schema eventstore to {0}_admin", "extra", "admin", "CREATE on the schema"),
        ("grant {0}_owner to {0}_admin", "extra", "admin", "is a member"),
        ("alter table eventstore.parked owner to postgres", "owner", "postgres", "owns table parked"),
        ("create function eventstore.f() returns int language sql return 1", "owner", "postgres", "owns function f"),
        ("alter role {0}_reader bypassrls", "attribute", "reader", "may log in, or more"),
    ],
)
async def test_whatever_differs_is_found(
    roles: str, sql: asyncpg.Connection, planted: str, kind: str, role: str, found: str
) -> None:
    try:
        await sql.execute(planted.format(PREFIX))
        name = f"{PREFIX}_{role}" if role in ROLES else role
        assert any((one.kind, one.role) == (kind, name) and found in one.found for one in await differing(roles))
    finally:
        await sql.execute(f"alter role {PREFIX}_reader nobypassrls; revoke {PREFIX}_owner from {PREFIX}_admin")


async def test_what_other_roles_were_granted_is_told_apart(roles: str, sql: asyncpg.Connection) -> None:
    await sql.execute(f"grant execute on function eventstore.head to {login('nobody')}")
    others = [one for one in await differing(roles) if one.kind == "other"]
    assert [(one.role, one.found) for one in others] == [(login("nobody"), "execute on function head")]
