"""The log of a tenant where another one has the same: the same names, ids, versions and positions.

Suites of other folders run again here, by the import of their tests. What they take for a database of their own is a
login that is bound to a tenant; whatever that tenant stores a trigger stores again as another one's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore import EventStore
from tests.conftest import QUICK, Databases, dsn_of
from tests.tenants.conftest import PREFIX, dsn_as

INSIDER = f"{PREFIX}_insider"
"""A login that is bound to one tenant, and a member of the schema's owner: tests look into tables."""

MIRROR = """
create function mirror() returns trigger language plpgsql security definer as $$
declare
    v_copy record := new;
begin
    v_copy.tenant := 'rival';
    if tg_table_name = 'subscriptions' then
        v_copy.id := nextval('eventstore.subscriptions_id_seq');
        execute 'insert into eventstore.subscriptions overriding system value select ($1).*'
            ' on conflict do nothing' using v_copy;
        insert into eventstore.checkpoints (tenant, subscription_id, partition, position)
            select s.tenant, s.id, n, s.start_position
              from eventstore.subscriptions s, generate_series(0, s.pool_size - 1) n where s.id = v_copy.id;
    else
        execute format('insert into eventstore.%I select ($1).*' || case tg_table_name when 'streams'
                       then ' on conflict do nothing' else '' end, tg_table_name) using v_copy;
    end if;
    return null;
end $$;
"""
MIRRORED = ("streams", "events", "event_tags", "subscriptions")


@pytest.fixture(scope="session")
def mirrored_template(databases: Databases, shared_template: str, pg: Any) -> Iterator[str]:
    name = f"tenants_{os.getpid()}_mirrored"
    with databases.fresh(name, template=shared_template) as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role {INSIDER} login in role {PREFIX}_owner".encode())
        admin.execute(f"insert into eventstore.tenant_logins (login, tenant) values ('{INSIDER}', 'acme')".encode())
        # What tests do that are about none of this.
        admin.execute(f"grant set on parameter session_replication_role to {INSIDER}".encode())
        admin.execute(f"grant create on schema public to {INSIDER}".encode())
        admin.execute(MIRROR.encode())
        for table in MIRRORED:
            admin.execute(
                f"create trigger mirror after insert on eventstore.{table} for each row"
                " when (new.tenant = 'acme') execute function public.mirror()".encode()
            )
        admin.close()
        yield name
    with psycopg.connect(dsn_of(pg.host, pg.port, pg.user, "postgres"), autocommit=True) as admin:
        admin.execute(f"drop owned by {INSIDER}; drop role {INSIDER}".encode())


@pytest.fixture
def mirrored(databases: Databases, mirrored_template: str) -> Iterator[str]:
    with databases.fresh(f"tenants_{os.getpid()}_again", template=mirrored_template) as dsn:
        yield dsn


@pytest.fixture
def db(mirrored: str) -> str:
    """DSN of the tenant, in place of a database of its own."""
    return dsn_as(mirrored, INSIDER)


@pytest.fixture
async def store(db: str) -> AsyncIterator[EventStore]:
    """An open store of the tenant."""
    async with EventStore(db, tenant="acme", settings=QUICK, node_name="one") as opened:
        yield opened


@pytest.fixture
async def sql(db: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection of the tenant."""
    connection = await asyncpg.connect(db)
    yield connection
    await connection.close()
