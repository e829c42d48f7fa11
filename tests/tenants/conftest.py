"""A database whose schema has tenants, and logins: one that may be any tenant, and two that are bound to theirs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore import EventStore
from eventstore.roles import apply as apply_roles
from eventstore.roles import role_names
from eventstore.tenants import apply
from tests.conftest import QUICK, Databases, dsn_of

PREFIX = "es_tenants"
"""Roles belong to the server, not to a database."""

ANYBODY, ACME, RIVAL = f"{PREFIX}_anybody", f"{PREFIX}_acme", f"{PREFIX}_rival"
"""Logins that may do whatever a role may; the latter two as one tenant each."""

BOUND = {ACME: "acme", RIVAL: "rival"}


def dsn_as(dsn: str, login: str) -> str:
    return dsn.replace("//postgres@", f"//{login}@")


@pytest.fixture(scope="session")
def logins(pg: Any) -> Iterator[None]:
    """The logins, for as long as the run lasts."""
    with psycopg.connect(dsn_of(pg.host, pg.port, pg.user, "postgres"), autocommit=True) as admin:
        for login in (ANYBODY, *BOUND):
            admin.execute(f"create role {login} login".encode())
        yield
        for role in (ANYBODY, *BOUND, *role_names(PREFIX).values()):
            admin.execute(f"drop role if exists {role}".encode())


async def _with_tenants(dsn: str) -> None:
    kinds = ("writer", "reader", "worker", "admin")
    members = [(kind, login) for kind in kinds for login in (ANYBODY, *BOUND)]
    await apply_roles(dsn, "eventstore", PREFIX, logins=members)
    await apply(dsn, "eventstore", bound=list(BOUND.items()))


@pytest.fixture(scope="session")
def shared_template(databases: Databases, logins: None) -> Iterator[str]:
    """Name of a database that has tenants, for others to be copies of."""
    name = f"tenants_{os.getpid()}_template"
    with databases.fresh(name) as dsn:
        asyncio.run(_with_tenants(dsn))
        yield name


@pytest.fixture
def shared(databases: Databases, shared_template: str, pg: Any) -> Iterator[str]:
    """DSN, of a superuser, of a fresh database that has tenants."""
    with databases.fresh(f"tenants_{os.getpid()}", template=shared_template) as dsn:
        yield dsn


@pytest.fixture
def anybody(shared: str) -> str:
    """DSN of a login that may be any tenant."""
    return dsn_as(shared, ANYBODY)


@pytest.fixture
async def acme(anybody: str) -> AsyncIterator[EventStore]:
    """An open store of one tenant."""
    async with EventStore(anybody, tenant="acme", settings=QUICK, node_name="acme-1") as opened:
        yield opened


@pytest.fixture
async def rival(anybody: str) -> AsyncIterator[EventStore]:
    """An open store of another tenant, as the same login."""
    async with EventStore(anybody, tenant="rival", settings=QUICK, node_name="rival-1") as opened:
        yield opened


@pytest.fixture
async def everything(shared: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, whom no policy holds back."""
    connection = await asyncpg.connect(shared)
    yield connection
    await connection.close()
