"""Tenants by schema: two schemas of one database have nothing in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from eventstore import All, Delivery, Event, EventStore, NewEvent
from eventstore.analytics.logs import RequestLog
from eventstore.analytics.storing import RequestTable
from eventstore.errors import ConfigurationError
from eventstore.mailbox import Mailbox
from eventstore.roles import apply as apply_roles
from eventstore.roles import role_names
from tests.conftest import QUICK, dsn_of
from tests.tenants.conftest import dsn_as
from tests.tenants.test_stores import data_of, running

SCHEMAS = ("one", "two")
PREFIXES = {name: f"es_schema_{name}" for name in SCHEMAS}
KINDS = ("writer", "reader", "worker", "admin")


@pytest.fixture
async def schemas(db: str) -> str:
    for name in SCHEMAS:
        await EventStore.migrate(db, schema=name)
    return db


@pytest.fixture
async def stores(schemas: str) -> AsyncIterator[tuple[EventStore, ...]]:
    async with AsyncExitStack() as opened:
        yield tuple([
            await opened.enter_async_context(EventStore(schemas, schema=name, settings=QUICK, node_name=f"in-{name}"))
            for name in SCHEMAS
        ])  # fmt: skip


async def test_events_and_subscriptions_of_one_name_are_apart(stores: tuple[EventStore, ...]) -> None:
    got: dict[str, list[object]] = {name: [] for name in SCHEMAS}
    id = uuid4()
    for store in stores:

        @store.handler("both", All())
        async def handle(event: Event, delivery: Delivery, mine: list[object] = got[store.schema]) -> None:
            mine.append(event.data)

    async with running(*stores):
        for store in stores:
            result = await store.append("s", [NewEvent("A", store.schema, id=id)], expected=0)
            assert (result.version, result.position) == (1, 1)
            await store.subscriptions.wait_for("both", 1)
            assert await data_of(store) == [store.schema]
            assert [node.name for node in await store.nodes()] == [f"in-{store.schema}"]
    assert got == {"one": ["one"], "two": ["two"]}


async def test_signals_messages_and_requests_are_apart(stores: tuple[EventStore, ...]) -> None:
    one, two = stores
    box: Mailbox[object] = Mailbox()
    if (waiting := two.pubsub.subscribe("topic", box)) is not None:
        await waiting
    heard = two.counts.signals_heard
    await one.append("s", [NewEvent("A")])
    await one.pubsub.broadcast("topic", "one's")
    await two.pubsub.broadcast("topic", "two's")
    async with asyncio.timeout(30):
        assert await box.get() == "two's"
    assert two.counts.signals_heard == heard
    log = RequestLog(
        request_id=uuid4(), method="GET", path="/", status_code=200, duration_ms=1, inserted_at=datetime.now(UTC)
    )
    assert [await RequestTable(store.database).insert([log]) for store in stores] == [1, 1]


async def test_an_append_in_flight_delays_nobody_in_another_schema(stores: tuple[EventStore, ...], db: str) -> None:
    one, two = stores
    connection = await asyncpg.connect(db)
    async with connection.transaction():
        await one.append("held", [NewEvent("A")], connection=connection)
        await one.append("s", [NewEvent("A", "one's")])
        await two.append("s", [NewEvent("A", "two's")])
        assert (await one.head(), await two.head()) == (0, 1)
        assert (await data_of(one), await data_of(two)) == ([], ["two's"])
    await connection.close()
    assert await one.head() == 2


@pytest.fixture
async def members(schemas: str, pg: Any) -> AsyncIterator[dict[str, str]]:
    """DSNs of logins that may do everything in one schema each."""
    admin = dsn_of(pg.host, pg.port, pg.user, "postgres")
    logins = {name: f"{prefix}_login" for name, prefix in PREFIXES.items()}
    with psycopg.connect(admin, autocommit=True) as connection:
        for login in logins.values():
            connection.execute(f"create role {login} login".encode())
    for name, prefix in PREFIXES.items():
        await apply_roles(schemas, name, prefix, logins=[(kind, logins[name]) for kind in KINDS])
    yield {name: dsn_as(schemas, login) for name, login in logins.items()}
    roles = [*logins.values(), *(role for prefix in PREFIXES.values() for role in role_names(prefix).values())]
    with psycopg.connect(schemas, autocommit=True) as connection:
        for role in roles:
            connection.execute(f"drop owned by {role} cascade".encode())
        for role in roles:
            connection.execute(f"drop role {role}".encode())


async def test_roles_of_one_schema_can_do_nothing_in_another(members: dict[str, str]) -> None:
    for name, other in zip(SCHEMAS, reversed(SCHEMAS), strict=True):
        async with EventStore(members[name], schema=name, settings=QUICK) as store:
            await store.append("s", [NewEvent("A")])
        with pytest.raises(ConfigurationError, match="permission denied for schema"):
            await EventStore(members[name], schema=other, settings=QUICK).__aenter__()
        connection = await asyncpg.connect(members[name])
        for call in ("read_feed()", "append_events('s', '[]')", "get_subscriptions_v1()", "current_tenant_v1()"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"select * from {other}.{call}")
        for table in ("events", "pubsub_keys", "pubsub_spill", "subscriptions"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"select * from {other}.{table}")
        await connection.close()
