"""Whose log a store is: what is refused by name, and that nobody ever sees the rows of all."""

from __future__ import annotations

import asyncpg
import pytest

from eventstore import All, EventStore, NewEvent
from eventstore.analytics.storing import RequestTable
from eventstore.errors import ConfigurationError
from eventstore.pubsub import PubSub
from eventstore.pubsub.postgres import Postgres
from eventstore.reports.site import Site
from eventstore.tenants import as_tenant
from tests.tenants.conftest import ACME, ANYBODY, PREFIX, dsn_as


async def refused(store: EventStore, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        await store.__aenter__()


async def test_a_store_without_a_tenant_is_refused_where_there_are_some(anybody: str) -> None:
    await refused(EventStore(anybody), "the schema 'eventstore' has tenants, and none is named")


async def test_a_store_with_a_tenant_is_refused_where_there_are_none(db: str) -> None:
    await refused(EventStore(db, tenant="acme"), "has no tenants: leave out tenant='acme'")


async def test_a_store_is_refused_where_the_owner_is_not_held_back(shared: str, everything: asyncpg.Connection) -> None:
    await everything.execute("alter table eventstore.events owner to postgres")
    await refused(EventStore(shared, tenant="acme"), "does not hold back its owner, 'postgres'")


async def test_a_store_is_refused_where_security_is_not_forced(shared: str, everything: asyncpg.Connection) -> None:
    await everything.execute("alter table eventstore.events no force row level security")
    await refused(EventStore(shared, tenant="acme"), "nothing keeps the tenants")


async def test_a_login_that_is_bound_is_its_tenant_and_no_other(shared: str) -> None:
    async with EventStore(dsn_as(shared, ACME)) as store:
        assert store.database.tenant == "acme"
        assert store.pubsub.adapter.tenant == "acme"  # type: ignore[attr-defined]
    await refused(EventStore(dsn_as(shared, ACME), tenant="rival"), "bound to another tenant than 'rival'")


async def test_a_superuser_sees_one_tenant_too(shared: str, acme: EventStore, rival: EventStore) -> None:
    await acme.append("s", [NewEvent("A", "acme's")])
    async with EventStore(shared, tenant="rival") as store:
        assert [event async for event in store.read_all(All())] == []


async def test_a_setting_of_the_session_makes_nobody_a_tenant(shared: str, everything: asyncpg.Connection) -> None:
    await everything.execute(f"alter role {ANYBODY} set eventstore.tenant = 'acme'")
    try:
        await refused(EventStore(dsn_as(shared, ANYBODY)), "none is named")
    finally:
        await everything.execute(f"alter role {ANYBODY} reset eventstore.tenant")


async def test_pubsub_alone_and_request_tables_are_refused_alike(anybody: str, db: str) -> None:
    for dsn, tenant in ((anybody, None), (db, "acme")):
        with pytest.raises(ConfigurationError, match="tenant"):
            await PubSub("chat", Postgres(dsn, node_name="a", tenant=tenant)).__aenter__()
        async with RequestTable(dsn, tenant=tenant) as table:
            with pytest.raises(ConfigurationError, match="tenant"):
                await table.address_key()
        async with Site(dsn, tenant=tenant) as site:
            with pytest.raises(ConfigurationError, match="tenant"):
                await site.database()


# -- in SQL


async def test_without_a_tenant_nothing_is_seen_and_nothing_appended(anybody: str) -> None:
    connection = await asyncpg.connect(anybody)
    calls = ("read_feed()", "append_events('s', '[{\"type\": \"A\"}]')", "get_subscriptions_v1()")
    for setting in ("", "set eventstore.tenant = ''; ", "begin; set local eventstore.tenant = 'acme'; rollback; "):
        for call in calls:
            with pytest.raises(asyncpg.PostgresError, match="none is named") as error:
                await connection.execute(f"{setting}select * from eventstore.{call}")
            assert error.value.sqlstate == "ES015"
    await connection.close()


async def test_a_name_that_python_refuses_sql_refuses(anybody: str) -> None:
    connection = await asyncpg.connect(anybody)
    with pytest.raises(asyncpg.PostgresError, match="1 to 100 letters"):
        await connection.execute(
            "set eventstore.tenant = 'a b'; select eventstore.append_events('s', '[{\"type\": \"A\"}]')"
        )
    await connection.close()


async def test_whoever_cannot_ask_for_the_tenant_sees_nothing(anybody: str, everything: asyncpg.Connection) -> None:
    await everything.execute(
        f"revoke execute on function eventstore.current_tenant_v1 from {PREFIX}_writer, {PREFIX}_reader,"
        f" {PREFIX}_worker, {PREFIX}_admin"
    )
    connection = await asyncpg.connect(anybody, server_settings={"eventstore.tenant": "acme"})
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="current_tenant_v1"):
        await connection.fetch("select * from eventstore.pubsub_keys")
    await connection.close()


async def test_the_tenant_is_set_before_the_query_begins_whatever_the_plan(anybody: str) -> None:
    connection = await asyncpg.connect(anybody)
    statement = as_tenant("select * from eventstore.read_feed($1)", 2)
    for hint in ("enable_nestloop", "enable_material", "enable_seqscan"):
        await connection.execute(f"set {hint} = off")
    for mode in ("force_generic_plan", "force_custom_plan"):
        await connection.execute(f"set plan_cache_mode = {mode}")
        assert await connection.fetch(statement, 0, "acme") == []
        assert await connection.fetchval("select current_setting('eventstore.tenant', true)") in (None, "")
    # What is written in that order is not what comes first.
    loose = "select f.*, set_config('eventstore.tenant', $2, true) from eventstore.read_feed($1) f"
    with pytest.raises(asyncpg.PostgresError, match="none is named"):
        await connection.fetch(loose, 0, "acme")
    await connection.close()


async def test_what_clients_filter_keeps_nobody_apart(
    acme: EventStore, anybody: str, everything: asyncpg.Connection
) -> None:
    await acme.append("s", [NewEvent("A", "acme's")])
    await everything.execute("alter table eventstore.events disable row level security")
    connection = await asyncpg.connect(anybody)
    found = await connection.fetch(as_tenant("select data from eventstore.read_feed()", 1), "rival")
    assert [row["data"] for row in found] == ['"acme\'s"']
    await connection.close()
