"""Poolers between node and database: finding out that there is one, and what cannot be relied on then.

A pooler answers for the server, and its word for "this is your backend" is an invention; so a connection whose process
id is not what the server says goes through one. In session mode everything works as usual. In transaction mode each
statement may be served by another backend: what is prepared under a name is gone, LISTEN hears nothing, and what SET
changes is somebody else's. Nothing may then be sent that outlives its transaction.

And a connection outlives the server behind it; see `eventstore.servers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from eventstore.errors import ConfigurationError

__all__ = ["CACHED", "DEAF", "Way", "is_pooled", "moves", "spare_settings"]

CACHED = 100
"""Prepared statements kept by a connection that goes straight to the server."""

DEAF = (
    "through a pooler in transaction mode nothing can be listened to; set listen_dsn to a direct DSN of the same "
    "database, or listen=False"
)

LOOKS = 3
"""How often a connection has to be given the backend it had, to be taken for one in session mode."""

ANSWERED_WITHIN = 2.0
"""Seconds in which a connection that has a backend of its own answers."""


@dataclass(frozen=True, slots=True)
class Way:
    """How connections of a DSN reach the server.

    Attributes:
        cache: prepared statements that a connection may keep.
        pooled: through a pooler.
        moves: from one backend to another, as in transaction mode.
    """

    cache: int = CACHED
    pooled: bool = False
    moves: bool = False


async def is_pooled(connection: Any) -> bool:
    """Whether *connection*, of asyncpg, goes through a pooler. Nothing is left behind on the backend."""
    return bool(await _backend(connection) != connection.get_server_pid())


def spare_settings(connection: Any) -> None:
    """Keep asyncpg from turning the backend's JIT off, and on again, which another backend would be told to.

    It does so around its question for types that it does not know, arrays among them.
    """
    raw = getattr(connection, "_con", connection)  # of a pool's
    with suppress(AttributeError):
        raw._server_caps = raw._server_caps._replace(jit=False)


async def moves(opened: Callable[[], Awaitable[Any]], close: Callable[[Any], Awaitable[None]]) -> bool:
    """Whether the connections that *opened* makes are served by one backend and then by another.

    A second connection occupies what the first one was given, so that the first is given another one. Who shares the
    pooler may come in between, so that a connection is taken for faithful only after several looks.

    Raises:
        ConfigurationError: the pooler allows no transactions at all.
    """
    one = await opened()
    try:
        two = await opened()
        try:
            for _ in range(LOOKS):
                if await _moved(one, two):
                    return True
            return False
        finally:
            await close(two)
    finally:
        await close(one)


async def _moved(one: Any, two: Any) -> bool:
    first = await _backend(one)
    try:
        await two.execute("begin")
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"the pooler must be in transaction or session mode: {error}") from error
    try:
        if await _backend(two) == first:
            return True
        async with asyncio.timeout(ANSWERED_WITHIN):
            return await _backend(one) != first
    except TimeoutError:  # it waits for one to be free, having none of its own
        return True
    finally:
        await two.execute("rollback")


async def _backend(connection: Any) -> int:
    # Unnamed, so that both of its messages reach the same backend, and none keeps it.
    statement = await connection.prepare("select pg_backend_pid()", name="")
    return int(await statement.fetchval())
