"""The roles of `eventstore roles`, each with a login, in a fresh database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore.rights import ROLES
from eventstore.roles import apply, role_names
from tests.conftest import dsn_of
from tests.security.server import Server, secured

PREFIX = "es_test"
"""Roles belong to the server, not to a database."""

KINDS = (*ROLES, "nobody")
"""Who is tried: a member of each role, and a login that is member of none."""


def login(kind: str) -> str:
    return f"{PREFIX}_{kind}_login"


def dsn_as(dsn: str, kind: str) -> str:
    return dsn.replace("//postgres@", f"//{login(kind)}@")


@pytest.fixture(scope="session")
def logins(pg: Any) -> Iterator[None]:
    """Logins, for as long as the run lasts."""
    with psycopg.connect(dsn_of(pg.host, pg.port, pg.user, "postgres"), autocommit=True) as admin:
        for kind in KINDS:
            admin.execute(f"create role {login(kind)} login".encode())
        yield
        for name in (*map(login, KINDS), *role_names(PREFIX).values()):
            admin.execute(f"drop role if exists {name}".encode())


@pytest.fixture
async def roles(db: str, logins: None) -> str:
    """DSN of a database whose schema belongs to the roles."""
    await apply(db, "eventstore", PREFIX, logins=[(kind, login(kind)) for kind in ROLES if kind != "owner"])
    return db


@pytest.fixture
async def owner(roles: str, sql: asyncpg.Connection) -> AsyncIterator[None]:
    """A login that is a member of the owner, as none should be."""
    await sql.execute(f"grant {PREFIX}_owner to {login('owner')}")
    yield
    await sql.execute(f"revoke {PREFIX}_owner from {login('owner')}")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with passwords and TLS; its superuser's password is the one that must not be seen."""
    try:
        with secured() as running:
            yield running
    except (FileNotFoundError, PermissionError) as missing:
        pytest.skip(f"no server with TLS: {missing}")
