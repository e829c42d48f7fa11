"""What migrating a schema would do, without doing it: the revisions that are missing, and their SQL.

The SQL is what Alembic would send. Whoever may change the schema can read it, and run it as it stands.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from io import StringIO
from typing import Any

from eventstore.database import connect, mapped_errors
from eventstore.errors import ConfigurationError
from eventstore.roles import grants, prefix_of, role_names
from eventstore.schema import DEFAULT_SCHEMA, REVISION, _config, check_schema_name, installed_functions, quoted

__all__ = ["Plan", "Step", "plan"]


@dataclass(frozen=True, slots=True)
class Step:
    """One revision that is missing, and what it brings."""

    revision: str
    title: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What migrating would do.

    Attributes:
        found: the revision the schema is at; None: there is no store in it.
        revision: the one it would be at.
        steps: what is missing, in its order; nothing if there is nothing to do.
        sql: one transaction; empty without steps.
    """

    schema: str
    found: str | None
    revision: str
    steps: tuple[Step, ...]
    sql: str


def plan(dsn: str, schema: str = DEFAULT_SCHEMA) -> Plan:
    """Return what `schema.migrate` would do. Blocking; nothing is changed, and nothing locked.

    Raises:
        ConfigurationError: the name or DSN is unusable, or the schema is newer than this package.
        DatabaseUnavailable: the database cannot be reached.
    """
    check_schema_name(schema)
    found, owner, granted = asyncio.run(_found(dsn, schema))
    if found is not None and found > REVISION:
        raise ConfigurationError(
            f"schema {schema!r} is at revision {found}, and this package knows {REVISION}; is the package older?"
        )
    steps = _steps(found)
    if not steps:
        return Plan(schema, found, REVISION, (), "")
    return Plan(schema, found, REVISION, steps, _sql(schema, found, owner, granted))


_FOUND = """
    select r.rolname as owner, r.rolname <> current_user as other, c.oid is not null as there
      from pg_namespace n
      left join pg_class c on c.relnamespace = n.oid and c.relname = 'eventstore_version'
      join pg_roles r on r.oid = coalesce(c.relowner, n.nspowner)
     where n.nspname = $1
"""


async def _found(dsn: str, schema: str) -> tuple[str | None, str | None, list[str]]:
    """Return the schema's revision, the role that owns it if it is not who asks, and the grants of its roles."""
    connection = await connect(dsn, name="eventstore migrate")
    try:
        with mapped_errors():
            row = await connection.fetchrow(_FOUND, schema)
            if row is None:
                return None, None, []
            owner = row["owner"] if row["other"] else None
            granted = await _grants(connection, schema, row["owner"])
            if not row["there"]:
                return None, owner, granted
            version = await connection.fetchval(f"select version_num from {quoted(schema)}.eventstore_version")
            return version, owner, granted
    finally:
        await connection.close()


async def _grants(connection: Any, schema: str, owner: str) -> list[str]:
    prefix = prefix_of(owner)
    try:
        names = list(role_names(prefix or "").values())
    except ConfigurationError:
        return []
    there = await connection.fetchval("select count(*) from pg_roles where rolname = any($1::text[])", names)
    return list(grants(schema, prefix or "", installed_functions())) if there == len(names) else []


def _steps(found: str | None) -> tuple[Step, ...]:
    from alembic.script import ScriptDirectory

    with _config("", DEFAULT_SCHEMA) as config:
        revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    return tuple(Step(one.revision, one.doc) for one in reversed(revisions) if found is None or one.revision > found)


def _sql(schema: str, found: str | None, owner: str | None, granted: list[str]) -> str:
    from alembic import command

    with _config("", schema) as config:
        config.output_buffer = StringIO()
        config.attributes.update(owner=owner, granted=granted)
        command.upgrade(config, f"{found or 'base'}:head", sql=True)
        return config.output_buffer.getvalue().strip() + "\n"
