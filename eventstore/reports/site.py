"""The database that a report is about. Anything may be wrong with it, so that no store is opened."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Self

import asyncpg

from eventstore.database import Database, connect, mapped_errors
from eventstore.errors import DatabaseUnavailable
from eventstore.listening import end
from eventstore.schema import DEFAULT_SCHEMA, check_schema_name
from eventstore.settings import Settings
from eventstore.subscriptions.ledger import Ledger
from eventstore.tenants import check_tenant_name

__all__ = ["Site"]

ANSWERED_WITHIN = 10.0
"""Seconds that a question to the catalogs may take."""

_SETTINGS = Settings(connections=2, statement_cache_size=0)


class Site:
    """One schema in one database; ``async with Site(dsn) as site``.

    The catalogs are read over a plain connection, which takes any database; the tables of the schema through its
    functions, which `database` refuses to call if the schema is missing or too old. Nothing is prepared under a name,
    so that a pooler in transaction mode may stand in between.

    Args:
        dsn: how the nodes connect.
        schema: the schema that holds the log.
        tenant: whose log it is, in a schema with tenants; the catalogs are everybody's.
        listen_dsn: how the nodes connect to LISTEN, where that is another way.

    Raises (on entering):
        ConfigurationError: the DSN is malformed.
        DatabaseUnavailable: the database refuses or cannot be reached.
    """

    def __init__(
        self, dsn: str, schema: str = DEFAULT_SCHEMA, *, tenant: str | None = None, listen_dsn: str | None = None
    ) -> None:
        self.tenant = None if tenant is None else check_tenant_name(tenant)
        self.dsn, self.listen_dsn, self.schema = dsn, listen_dsn or dsn, check_schema_name(schema)
        self._plain: asyncpg.Connection | None = None
        self._database: Database | None = None

    async def __aenter__(self) -> Self:
        self._plain = await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        plain, self._plain = self._plain, None
        database, self._database = self._database, None
        if database is not None:
            await database.stop()
        if plain is not None:
            await end(plain)

    async def connect(self, dsn: str | None = None) -> Any:
        """Open another connection, which the caller closes."""
        return await connect(dsn or self.dsn, cache=0, name="eventstore doctor")

    async def rows(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Ask the catalogs."""
        if self._plain is None:
            raise DatabaseUnavailable("the database is not connected to")
        with mapped_errors():
            return list(await self._plain.fetch(query, *args, timeout=ANSWERED_WITHIN))

    async def row(self, query: str, *args: Any) -> asyncpg.Record:
        """Ask the catalogs for one row."""
        return (await self.rows(query, *args))[0]

    async def database(self) -> Database:
        """Return what calls the functions of the schema.

        Raises:
            MigrationRequired: the schema is missing or too old.
            ConfigurationError: the role may not use it.
        """
        if self._database is None:
            database = Database(_SETTINGS, _SETTINGS.connections)
            await database.start(self.dsn, self.schema, self.tenant)
            self._database = database
        return self._database

    async def ledger(self) -> Ledger:
        """Return the subscriptions of the schema; as `database`."""
        return Ledger(await self.database())

    async def sequence_oid(self) -> int | None:
        """Return the OID of the sequence that positions are drawn from."""
        found = await self.row(
            "select c.oid from (select to_regnamespace($1) as oid) n"
            " left join pg_class c on c.relnamespace = n.oid and c.relname = 'event_positions' and c.relkind = 'S'",
            self.quoted,
        )
        return None if found["oid"] is None else int(found["oid"])

    @property
    def quoted(self) -> str:
        """The schema's name as an SQL identifier."""
        return f'"{self.schema}"'


async def ended(connection: Any) -> None:
    """Close *connection*, whatever its state."""
    with suppress(Exception):
        await end(connection)
