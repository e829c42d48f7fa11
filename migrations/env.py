"""Alembic's environment: one schema, one transaction, one migrator at a time.

Callers pass ``dsn`` and ``schema`` through ``Config.attributes``; on the command line they are ``-x dsn=…`` (or the
environment variable EVENTSTORE_DSN) and ``-x schema=…``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore.database import connect
from eventstore.errors import ConfigurationError
from eventstore.schema import DEFAULT_SCHEMA, check_schema_name, quoted

VERSION_TABLE = "eventstore_version"


def _option(name: str, default: str | None = None) -> str | None:
    given = context.config.attributes.get(name)
    return given or context.get_x_argument(as_dictionary=True).get(name, default)


SCHEMA = check_schema_name(_option("schema", DEFAULT_SCHEMA) or "")
context.config.attributes["schema"] = SCHEMA


def _prepare(connection: Connection) -> None:
    # Concurrent migrators queue here until the first has committed, then find nothing left to do.
    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"eventstore:{SCHEMA}"})
    encoding = connection.execute(text("show server_encoding")).scalar()
    if encoding != "UTF8":
        raise ConfigurationError(f"the database is encoded in {encoding}; events need one in UTF8")
    connection.execute(text(f"create schema if not exists {quoted(SCHEMA)}"))
    if connection.execute(text("select has_schema_privilege('public', :s, 'create')"), {"s": SCHEMA}).scalar():
        raise ConfigurationError(
            f"PUBLIC may create objects in schema {SCHEMA!r}, which would let any role shadow the functions; "
            f"choose another schema, or: revoke create on schema {quoted(SCHEMA)} from public"
        )
    connection.execute(text(f"set local search_path to {quoted(SCHEMA)}, pg_catalog"))
    connection.execute(text("set local check_function_bodies to off"))


def _migrate(connection: Connection) -> None:
    with connection.begin():
        _prepare(connection)
        context.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            version_table_schema=SCHEMA,
            transactional_ddl=True,
        )
        context.run_migrations()


async def _online(dsn: str) -> None:
    async def creator() -> Any:
        return await connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


def _offline() -> None:
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
    )
    with context.begin_transaction():
        context.execute(f"create schema if not exists {quoted(SCHEMA)}")
        context.execute(f"set local search_path to {quoted(SCHEMA)}, pg_catalog")
        context.execute("set local check_function_bodies to off")
        context.run_migrations()


if context.is_offline_mode():
    _offline()
else:
    url = _option("dsn") or os.environ.get("EVENTSTORE_DSN")
    if not url:
        raise ConfigurationError("no database given: set EVENTSTORE_DSN, or pass -x dsn=postgresql://…")
    asyncio.run(_online(url))
