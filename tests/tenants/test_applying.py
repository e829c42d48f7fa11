"""Turning tenants on: what it takes, what it refuses, and what notices that they are not kept apart."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from alembic import command
from sqlalchemy.exc import DBAPIError

from eventstore import EventStore, EventType, NewEvent
from eventstore.errors import ConfigurationError
from eventstore.planning import plan
from eventstore.reports.health import examine
from eventstore.reports.site import Site
from eventstore.reports.tenants import differences
from eventstore.roles import apply as apply_roles
from eventstore.schema import _config, migrate
from eventstore.tenants import COVERED, SHARED, apply, check_tenant_name, script
from tests.tenants.conftest import ANYBODY, PREFIX, dsn_as


@pytest.fixture
async def roles(db: str, logins: None) -> str:
    """DSN of a database with roles, without tenants."""
    kinds = ("writer", "reader", "worker", "admin")
    await apply_roles(db, "eventstore", PREFIX, logins=[(kind, ANYBODY) for kind in kinds])
    return db


async def differing(dsn: str) -> list[tuple[str, str]]:
    async with Site(dsn) as site:
        return [(one.kind, one.name) for one in await differences(site)]


async def verdict(dsn: str) -> str:
    async with Site(dsn) as site:
        (found,) = [one async for one in examine(site, ["tenants"])]
        return found.status


async def test_every_table_is_covered_or_shared(sql: asyncpg.Connection) -> None:
    tables = "select relname from pg_class where relnamespace = 'eventstore'::regnamespace and relkind in ('r', 'p')"
    assert {row[0] for row in await sql.fetch(tables)} == {*COVERED, *SHARED}


async def test_applying_twice_leaves_nothing_that_differs(roles: str) -> None:
    assert await differing(roles) == [("table", "eventstore")]
    assert await verdict(roles) == "ok"
    for _ in range(2):
        await apply(roles, "eventstore")
        assert (await differing(roles), await verdict(roles)) == ([], "ok")


async def test_what_was_there_becomes_the_tenants_that_is_named(roles: str, anybody_of: Any) -> None:
    async with EventStore(dsn_as(roles, ANYBODY)) as store:
        await store.append("s", [NewEvent("A", "mine", tags=["t"])])
        await store.subscribe("handled", EventType("A"))
    with pytest.raises(ConfigurationError, match=r"holds rows of no tenant.*--existing"):
        await apply(roles, "eventstore")
    await apply(roles, "eventstore", existing="acme")
    async with anybody_of("acme") as acme, anybody_of("rival") as rival:
        assert [event.data async for event in acme.read("s")] == ["mine"]
        assert [one.name for one in await acme.subscriptions.list()] == ["handled"]
        assert await rival.subscriptions.list() == []
        assert [event async for event in rival.read("s")] == []
    with pytest.raises(ConfigurationError, match="has tenants already"):
        await apply(roles, "eventstore", existing="acme")


@pytest.fixture
def anybody_of(roles: str) -> Any:
    return lambda tenant: EventStore(dsn_as(roles, ANYBODY), tenant=tenant)


async def test_a_schema_whose_owner_no_policy_holds_back_is_refused(db: str) -> None:
    with pytest.raises(ConfigurationError, match=r"row-level security does not hold back.*eventstore roles --apply"):
        await apply(db, "eventstore")
    assert await differing(db) == [("table", "eventstore")]


async def test_a_missing_schema_is_refused(db: str) -> None:
    with pytest.raises(ConfigurationError, match="missing or too old"):
        await apply(db, "elsewhere")


async def test_who_may_not_become_the_owner_is_refused(roles: str) -> None:
    with pytest.raises(ConfigurationError, match="permission denied"):
        await apply(dsn_as(roles, ANYBODY), "eventstore")


async def test_a_schema_of_any_name_can_have_tenants(db: str, logins: None) -> None:
    await EventStore.migrate(db, schema="My store-1")
    await apply_roles(db, "My store-1", PREFIX)
    await apply(db, "My store-1")
    async with Site(db, "My store-1") as site:
        assert await differences(site) == []
    async with EventStore(db, schema="My store-1", tenant="acme") as store:
        assert (await store.append("s", [NewEvent("A")])).version == 1


@pytest.mark.parametrize("name", ["", "-a", "a b", "a'b", "é", "x" * 101, "a\0", None, 5])
def test_an_unusable_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="1 to 100 letters"):
        check_tenant_name(name)


@pytest.mark.parametrize("name", ["a", "0", "eu-1:shop_2.test", "x" * 100])
async def test_a_name_that_python_takes_sql_takes(shared: str, name: str) -> None:
    async with EventStore(dsn_as(shared, ANYBODY), tenant=name) as store:
        assert store.database.tenant == name


async def test_a_login_that_is_bound_has_to_be_there(shared: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no login no_such"):
        await apply(shared, "eventstore", bound=[("no_such", "acme")])


async def test_a_login_can_be_bound_to_another_tenant_and_to_none(shared: str) -> None:
    await apply(shared, "eventstore", bound=[(ANYBODY, "third")])
    async with EventStore(dsn_as(shared, ANYBODY)) as store:
        assert store.database.tenant == "third"
    await apply(shared, "eventstore", unbound=[ANYBODY])
    async with EventStore(dsn_as(shared, ANYBODY), tenant="acme") as store:
        assert store.database.tenant == "acme"


def test_names_are_quoted() -> None:
    assert "'o''brien'" in script("eventstore", bound=[("o'brien", "acme")])


@pytest.mark.parametrize(
    ("planted", "kind", "name"),
    [
        ("alter table eventstore.events no force row level security", "security", "events"),
        ("alter table eventstore.seals disable row level security", "security", "seals"),
        ("drop policy tenants on eventstore.parked", "policy", "parked"),
        ("create policy more on eventstore.nodes using (true)", "policy", "nodes"),
        ("alter policy tenants on eventstore.streams using (true)", "policy", "streams"),
        ("alter policy tenants on eventstore.streams with check (true)", "policy", "streams"),
        ("alter policy tenants on eventstore.control to pg_monitor", "policy", "control"),
        ("create table eventstore.mine (a int)", "table", "mine"),
        ("alter table eventstore.seals drop column tenant cascade", "table", "seals"),
        ("create unique index on eventstore.events (id)", "key", "eventstore.events_id_idx"),
        ("alter table eventstore.events owner to postgres", "owner", "postgres"),
        ("alter role {0}_owner bypassrls", "owner", "{0}_owner"),
        ("alter role {0}_acme bypassrls", "login", "{0}_acme"),
        ("select setval('eventstore.tenant_bindings', 0)", "login", "{0}_acme"),
        ("grant {0}_owner to {0}_acme", "login", "{0}_acme"),
        ("grant {0}_migrator to {0}_acme", "login", "{0}_acme"),
        ("grant postgres to {0}_acme", "login", "{0}_acme"),
        (
            "alter function eventstore.current_tenant_v1 set search_path = pg_temp, pg_catalog, eventstore",
            "function",
            "current_tenant_v1",
        ),
        (
            "alter function eventstore.current_tenant_v1 set eventstore.tenant = 'rival'",
            "function",
            "current_tenant_v1",
        ),
        ("alter function eventstore.current_tenant_v1 owner to postgres", "function", "current_tenant_v1"),
        (
            "create or replace function eventstore.current_tenant_v1() returns text language sql stable return 'acme'",
            "function",
            "current_tenant_v1",
        ),
    ],
)
async def test_whatever_keeps_them_no_longer_apart_is_found(
    shared: str, everything: asyncpg.Connection, planted: str, kind: str, name: str
) -> None:
    try:
        await everything.execute(planted.format(PREFIX))
        assert (kind, name.format(PREFIX)) in await differing(shared)
        assert await verdict(shared) == "fail"
    finally:
        await everything.execute(
            f"alter role {PREFIX}_owner nobypassrls; alter role {PREFIX}_acme nobypassrls;"
            f"revoke {PREFIX}_owner, {PREFIX}_migrator, postgres from {PREFIX}_acme"
        )


async def test_applying_makes_tables_and_policies_right_again(shared: str, everything: asyncpg.Connection) -> None:
    await everything.execute(
        "alter table eventstore.events no force row level security; alter table eventstore.seals drop column tenant"
        " cascade; create policy more on eventstore.nodes using (true); drop policy tenants on eventstore.parked"
    )
    await apply(shared, "eventstore")
    assert await differing(shared) == []


BEFORE = """
drop function eventstore.current_tenant_v1 cascade;
drop table eventstore.tenant_logins;
drop sequence eventstore.tenant_bindings;
update eventstore.eventstore_version set version_num = '0004'
"""
"""Back to the revision before, past what a downgrade refuses."""


async def test_what_a_migration_brings_is_covered_in_its_transaction(
    shared: str, everything: asyncpg.Connection
) -> None:
    await everything.execute("alter table eventstore.seals drop column tenant cascade")  # it is new, say
    await everything.execute(BEFORE)
    await asyncio.to_thread(migrate, shared)
    assert await differing(shared) == []


async def test_the_sql_of_a_migration_covers_what_it_brings(shared: str, everything: asyncpg.Connection) -> None:
    await everything.execute(BEFORE)
    await everything.execute((await asyncio.to_thread(plan, shared)).sql)
    assert await differing(shared) == []


async def test_a_schema_with_tenants_cannot_go_back(shared: str) -> None:
    def down() -> None:
        with _config(shared, "eventstore") as config:
            command.downgrade(config, "0004")

    with pytest.raises(DBAPIError, match="other objects depend on it"):
        await asyncio.to_thread(down)
    assert await differing(shared) == []
