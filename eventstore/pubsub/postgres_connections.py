"""Connections of the Postgres adapter: from a DSN, or through an application's SQLAlchemy engine."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from eventstore.database import connect, mapped_errors, redacted
from eventstore.errors import ConfigurationError, DatabaseUnavailable
from eventstore.listening import end
from eventstore.poolers import CACHED, is_pooled, spare_settings
from eventstore.service import to_its_end

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Line", "Source", "source_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")

STATEMENT_WITHIN = 10.0
"""Seconds a statement may take before its connection is cut."""


class Source(Protocol):
    """Where connections come from."""

    async def open(self, role: str) -> Any:
        """Return an asyncpg connection for *role*, for whoever asked alone.

        Raises:
            ConfigurationError, DatabaseUnavailable: as `database.connect`.
        """

    async def close(self, connection: Any) -> None:
        """End a connection that `open` returned."""


def source_of(given: object, *, timeout: float, cache: int | None) -> Source:
    """Return where connections to *given* come from, a DSN or an engine.

    Raises:
        ConfigurationError: it is neither, or an engine of another driver.
    """
    if isinstance(given, str):
        return _Dsn(given, timeout, cache)
    # Whoever has an engine has imported it.
    if "sqlalchemy.ext.asyncio" in sys.modules:
        from sqlalchemy.ext.asyncio import AsyncEngine

        if isinstance(given, AsyncEngine):
            return _Engine(given, timeout)
    raise ConfigurationError(
        "Postgres takes a DSN (postgresql://…) or what create_async_engine('postgresql+asyncpg://…') returns, "
        f"not {type(given).__name__}"
    )


class _Dsn:
    def __init__(self, dsn: str, timeout: float, cache: int | None) -> None:
        scheme, _, rest = dsn.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
            raise ConfigurationError("the DSN must begin with postgresql:// or postgresql+asyncpg://")
        self._dsn, self._timeout, self._cache = f"postgresql://{rest}", timeout, cache

    async def open(self, role: str) -> Any:
        cache = CACHED if self._cache is None else self._cache
        connection = await connect(self._dsn, timeout=self._timeout, cache=cache, name=f"eventstore pubsub {role}")
        if self._cache is None:
            try:
                with mapped_errors():
                    self._cache = 0 if await is_pooled(connection) else CACHED
            except BaseException:
                await to_its_end(end(connection))
                raise
            if not self._cache:
                await to_its_end(end(connection))
                return await self.open(role)
        if not self._cache:
            spare_settings(connection)
        return connection

    async def close(self, connection: Any) -> None:
        await end(connection)


class _Engine:
    """Keeps each connection checked out, so that the engine's limits hold, and gives none back that was changed."""

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        if engine.dialect.name != "postgresql" or engine.dialect.driver != "asyncpg":
            raise ConfigurationError(
                f"Postgres needs an engine over asyncpg (postgresql+asyncpg://), not over {engine.dialect.driver}"
            )
        self._engine, self._timeout = engine, timeout
        self._held: dict[Any, AsyncConnection] = {}

    async def open(self, role: str) -> Any:
        with self._opening():
            async with asyncio.timeout(self._timeout):
                held = await self._engine.connect()
            try:
                raw = (await held.get_raw_connection()).driver_connection
            except BaseException:
                await to_its_end(held.close())
                raise
        self._held[raw] = held
        return raw

    @contextmanager
    def _opening(self) -> Iterator[None]:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        where = redacted(self._engine.url.render_as_string(hide_password=True))
        try:
            with mapped_errors():
                try:
                    yield
                except DBAPIError as error:
                    # asyncpg's error lies two wrappers deep; it is the one that has a name.
                    raise (error.orig.__cause__ if error.orig else None) or error from None
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            cause = error.__cause__ or error
            reason = "timed out" if isinstance(cause, TimeoutError) else cause
            raise DatabaseUnavailable(f"cannot connect to {where}: {reason}") from None

    async def close(self, connection: Any) -> None:
        held = self._held.pop(connection)
        await end(connection)
        await to_its_end(_given_back(held))


async def _given_back(held: AsyncConnection) -> None:
    try:
        await held.invalidate()
        await held.close()
    except Exception:
        log.debug("a connection could not be given back to its engine", exc_info=True)


class Line:
    """One connection that is opened on first use, lent to one user at a time, and replaced when it fails."""

    def __init__(self, source: Source, role: str) -> None:
        self._source, self._role = source, role
        self._turn = asyncio.Lock()
        self._connection: Any = None

    @property
    def idle(self) -> bool:
        """Whether nobody uses it, and it has no connection."""
        return self._connection is None and not self._turn.locked()

    async def run(self, use: Callable[[Any], Awaitable[T]]) -> T:
        """Return what *use* makes of the connection. If it fails the connection is closed: who knows its state.

        Raises:
            DatabaseUnavailable: there is none, it was lost, or took too long; further errors as `mapped_errors`.
        """
        async with self._turn:
            connection = await self._opened()
            try:
                with mapped_errors():
                    async with asyncio.timeout(STATEMENT_WITHIN):
                        return await use(connection)
            except BaseException:
                connection.terminate()
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection; the next use opens another one."""
        async with self._turn:
            await self._drop()

    async def _opened(self) -> Any:
        if self._connection is not None and self._connection.is_closed():
            await self._drop()
        if self._connection is None:
            self._connection = await self._source.open(self._role)
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await to_its_end(self._source.close(connection))
