"""`RequestTable`: requests in Postgres, through the SQL functions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from eventstore.database import Database, mapped_errors
from eventstore.errors import ConfigurationError, TransactionConflict
from eventstore.schema import DEFAULT_SCHEMA, quoted
from eventstore.service import Backoff, Clock, LoopClock
from eventstore.settings import Settings
from eventstore.tenants import as_tenant, check_tenant_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore.analytics.logs import RequestLog

__all__ = ["Month", "RequestTable"]

CONNECTIONS = 2
"""Most connections of a table that was given a DSN."""

MOST = 10_000
"""Requests of one statement."""

ATTEMPTS = 20
"""How often dropping a month is tried while others are at the table; each waits half a second for them."""


@dataclass(frozen=True, slots=True)
class Month:
    """The requests of one month.

    Attributes:
        month: its first day, in UTC.
        requests: how many there are, as Postgres last estimated; 0 if it did not yet.
        bytes: on disk, with indexes.
    """

    month: date
    requests: int
    bytes: int


class RequestTable:
    """The table ``request_logs`` of a schema, a storage for `Batcher`.

    Args:
        where: a DSN, whose connections are opened with the first call and closed by `close`; a SQLAlchemy
            ``AsyncEngine`` over asyncpg; or the ``database`` of an open store. The latter two stay their owner's.
        schema: the schema that holds the log.
        tenant: whose requests these are, in a schema with tenants; a store knows that itself.

    Raises:
        ConfigurationError: it is none of these.
    """

    def __init__(
        self, where: str | AsyncEngine | Database, schema: str = DEFAULT_SCHEMA, *, tenant: str | None = None
    ) -> None:
        self._tenant = None if tenant is None else check_tenant_name(tenant)
        self._schema, self._prefix = schema, quoted(schema)
        self._engine: Any = None
        self._database: Database | None = None
        self._dsn: str | None = None
        self._opening = asyncio.Lock()
        if isinstance(where, str):
            self._dsn = where
        elif isinstance(where, Database):
            self._database = where
        elif hasattr(where, "connect") and hasattr(where, "sync_engine"):
            self._engine = where
        else:
            raise ConfigurationError(f"requests are stored by a DSN or an AsyncEngine, not {type(where).__name__}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what this table opened. It opens again when it is used again."""
        async with self._opening:
            if self._dsn is not None and self._database is not None:
                database, self._database = self._database, None
                await database.stop()

    async def insert(self, logs: Sequence[RequestLog]) -> int:
        """Store *logs*; those whose request_id is stored already change nothing. Returns how many were new.

        More than 10,000 are stored in several transactions.

        Raises:
            ConfigurationError, DatabaseUnavailable, MigrationRequired, TransactionConflict: as `EventStore` does.
        """
        new = 0
        for first in range(0, len(logs), MOST):
            (row,) = await self._call("insert_requests_v1", *_columns(logs[first : first + MOST]))
            new += row[0]
        return new

    async def address_key(self) -> bytes:
        """Return the secret that addresses are hashed with: one for all nodes, made by the first that asks."""
        (row,) = await self._call("request_address_key_v1")
        return bytes(row[0])

    async def months(
        self, *, keep_months: int | None = None, keep_days: int | None = None, now: datetime | None = None
    ) -> list[Month]:
        """Return the months there are, or those that `prune` would drop, the oldest first."""
        return [month for _, month in await self._months(keep_months, keep_days, now)]

    async def prune(
        self,
        *,
        keep_months: int = 0,
        keep_days: int = 0,
        now: datetime | None = None,
        clock: Clock | None = None,
    ) -> list[Month]:
        """Drop the months that ended at least *keep_months* and *keep_days* ago; return them.

        Each is dropped as a whole, in a transaction of its own, which waits for others at the table for half a second
        at a time. So up to a month more is kept than is asked for.

        Args:
            now: the moment to count back from, if not the database's now.

        Raises:
            ConfigurationError: neither is above 0, or the role may not.
            TransactionConflict: others held the table for many attempts; those dropped until then are gone.
        """
        kept = (keep_months, keep_days)
        if any(type(one) is not int or one < 0 for one in kept) or not any(kept):
            raise ConfigurationError(f"keep whole months or days, at least 1, not {keep_months!r} and {keep_days!r}")
        dropped = []
        for name, month in await self._months(*kept, now):
            if await self._drop(name, *kept, now, clock or LoopClock()):
                dropped.append(month)
        return dropped

    async def _months(
        self, keep_months: int | None, keep_days: int | None, now: datetime | None
    ) -> list[tuple[str, Month]]:
        if now is not None and now.tzinfo is None:
            raise ConfigurationError(f"now must be a time with its time zone, not {now!r}")
        rows = await self._call("request_months_v1", keep_months, keep_days, *([] if now is None else [now]))
        return [(row["name"], Month(row["month"], row["requests"], row["bytes"])) for row in rows]

    async def _drop(self, name: str, months: int, days: int, now: datetime | None, clock: Clock) -> bool:
        backoff = Backoff(0.05, 0.5)
        while True:
            try:
                (row,) = await self._call("drop_request_month_v1", name, months, days, *([] if now is None else [now]))
            except TransactionConflict:
                if backoff.attempts == ATTEMPTS:
                    raise
                await clock.sleep(backoff.next())
            else:
                return bool(row[0])

    async def _call(self, function: str, *args: Any) -> list[asyncpg.Record]:
        if self._engine is not None:
            return await self._call_by_engine(function, *args)
        if self._database is None:
            await self._open()
        assert self._database is not None
        return await self._database.rows(function, *args)

    async def _open(self) -> None:
        async with self._opening:
            if self._database is None:
                database = Database(Settings(connections=CONNECTIONS), CONNECTIONS)
                await database.start(str(self._dsn), self._schema, self._tenant)
                self._database = database

    async def _call_by_engine(self, function: str, *args: Any) -> list[asyncpg.Record]:
        numbers = ", ".join(f"${n}" for n in range(1, len(args) + 1))
        statement = f"select * from {self._prefix}.{function}({numbers})"
        if self._tenant is not None:
            args = (*args, self._tenant)
            statement = as_tenant(statement, len(args))
        # Past SQLAlchemy, which would have to be told the type of each array. A statement is a transaction of its own.
        with mapped_errors():
            async with self._engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                if not isinstance(raw, asyncpg.Connection):
                    raise ConfigurationError(f"the engine must be postgresql+asyncpg://, not {type(raw).__module__}")
                return list(await raw.fetch(statement, *args))


def _columns(logs: Sequence[RequestLog]) -> tuple[list[Any], ...]:
    return (
        [one.request_id for one in logs],
        [one.method for one in logs],
        [one.path for one in logs],
        [one.status_code for one in logs],
        [one.duration_ms for one in logs],
        [one.user_agent for one in logs],
        [one.remote_ip for one in logs],
        [one.referer for one in logs],
        [one.device_type for one in logs],
        [one.session_id for one in logs],
        [one.session_page_views for one in logs],
        [one.inserted_at for one in logs],
    )
