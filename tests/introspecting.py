"""What asyncpg asks each new connection about arrays, asked once in a run: thousands of connections are opened in one.

It knows the types of Postgres itself, but not their arrays, and asks for these with a query that costs more than
connecting does. The method is asyncpg's own and not public, which is why the package leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import asyncpg

__all__ = ["ask_once"]

ASSIGNED = 10_000
"""Types with smaller numbers were given them by Postgres's sources; others are a database's own."""

KNOWN: dict[frozenset[int], Any] = {}

# Not the unnamed statement: that of the query that met the types is still there, and need not be sent again.
_NOT_SENT = SimpleNamespace(name="not sent")

_ask = asyncpg.Connection._introspect_types


def ask_once() -> None:
    """Have every connection of this process told what one was told before it."""
    asyncpg.Connection._introspect_types = _remembered


async def _remembered(connection: Any, typeoids: Iterable[int], timeout: float | None) -> tuple[Any, Any]:
    asked = frozenset(typeoids)
    if asked in KNOWN:
        return KNOWN[asked], _NOT_SENT
    types, statement = await _ask(connection, asked, timeout)
    if all(number < ASSIGNED for number in asked):
        KNOWN[asked] = types
    return types, statement
