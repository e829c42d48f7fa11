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
from eventstore.roles import grants, prefix_of, role_names
from eventstore.schema import DEFAULT_SCHEMA, check_schema_name, quoted
from eventstore.tenants import covering

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
    # Asked for first: creating a schema that exists needs the right to create one all the same.
    if connection.execute(text("select to_regnamespace(:s) is null"), {"s": quoted(SCHEMA)}).scalar():
        connection.execute(text(f"create schema {quoted(SCHEMA)}"))
    if connection.execute(text("select has_schema_privilege('public', :s, 'create')"), {"s": SCHEMA}).scalar():
        raise ConfigurationError(
            f"PUBLIC may create objects in schema {SCHEMA!r}, which would let any role shadow the functions; "
            f"choose another schema, or: revoke create on schema {quoted(SCHEMA)} from public"
        )
    _become_owner(connection)
    connection.execute(text(f"set local search_path to {quoted(SCHEMA)}, pg_catalog"))
    connection.execute(text("set local check_function_bodies to off"))


# Whoever owns the table of revisions has made the others; where there is none yet, the owner of the schema.
OWNER = """
    select r.rolname, pg_has_role(r.oid, case when current_setting('server_version_num')::int < 160000
                                              then 'MEMBER' else 'SET' end) and r.rolname <> current_user
      from pg_namespace n left join pg_class c on c.relnamespace = n.oid and c.relname = :table
      join pg_roles r on r.oid = coalesce(c.relowner, n.nspowner)
     where n.nspname = :schema
"""


def _owner(connection: Connection) -> tuple[str, bool]:
    """Return who owns the store, and whether whoever migrates is somebody else and may become that."""
    name, other = connection.execute(text(OWNER), {"table": VERSION_TABLE, "schema": SCHEMA}).one()
    return name, other


def _become_owner(connection: Connection) -> None:
    """Make what is created belong to whom the rest belongs to: functions run with their owner's rights."""
    owner, other = _owner(connection)
    if other:
        name = connection.dialect.identifier_preparer.quote_identifier(owner)
        connection.exec_driver_sql(f"set local role {name}")


def _grant_again(connection: Connection) -> None:
    """Give the roles of `eventstore.roles`, if the schema has them, their rights on what is new."""
    prefix = prefix_of(_owner(connection)[0])
    try:
        names = role_names(prefix or "")
    except ConfigurationError:
        return
    there = "select count(*) from pg_roles where rolname = any(:names)"
    if connection.execute(text(there), {"names": list(names.values())}).scalar() != len(names):
        return
    installed = connection.execute(
        text("select proname::text from pg_proc where pronamespace = to_regnamespace(:s)"), {"s": quoted(SCHEMA)}
    ).scalars()
    for statement in grants(SCHEMA, prefix or "", installed.all()):
        connection.exec_driver_sql(statement)


def _migrate(connection: Connection) -> None:
    with connection.begin():
        _prepare(connection)
        context.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            version_table_schema=SCHEMA,
            transactional_ddl=True,
        )
        before = context.get_context().get_current_heads()
        context.run_migrations()
        if context.get_context().get_current_heads() != before:
            # Where there are tenants, what is new is theirs as well.
            connection.exec_driver_sql(covering(SCHEMA))
            _grant_again(connection)


async def _online(dsn: str) -> None:
    async def creator() -> Any:
        return await connect(dsn)

    # Nothing is prepared under a name: a pooler may stand in between, whose backend would keep it.
    unnamed = {"async_creator_fn": creator, "prepared_statement_name_func": str, "prepared_statement_cache_size": 0}
    engine = create_async_engine("postgresql+asyncpg://", connect_args=unnamed, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


_CLOSED = """
do $$ begin
    if has_schema_privilege('public', {schema}, 'create') then
        raise 'PUBLIC may create objects in schema %', {schema};
    end if;
end $$
"""


def _offline() -> None:
    """Print what `_online` would send. Who asks for it may have looked at the database; see `eventstore.planning`."""
    literal = f"'{SCHEMA}'"
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # or every % in the functions would be doubled
        literal_binds=True,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
    )
    with context.begin_transaction():
        context.execute(f"select pg_advisory_xact_lock(hashtextextended('eventstore:{SCHEMA}', 0))")
        context.execute(f"create schema if not exists {quoted(SCHEMA)}")
        context.execute(_CLOSED.format(schema=literal))
        if owner := context.config.attributes.get("owner"):
            context.execute(f"set local role {_quoted_role(owner)}")
        context.execute(f"set local search_path to {quoted(SCHEMA)}, pg_catalog")
        context.execute("set local check_function_bodies to off")
        context.run_migrations()
        context.execute(text(covering(SCHEMA).replace(":", r"\:")))
        for statement in context.config.attributes.get("granted") or ():
            context.execute(statement)


def _quoted_role(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


if context.is_offline_mode():
    _offline()
else:
    url = _option("dsn") or os.environ.get("EVENTSTORE_DSN")
    if not url:
        raise ConfigurationError("no database given: set EVENTSTORE_DSN, or pass -x dsn=postgresql://…")
    asyncio.run(_online(url))
