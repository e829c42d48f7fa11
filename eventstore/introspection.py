"""What asyncpg asks each new connection about arrays, asked once.

It knows the types of Postgres itself, but not their arrays, and asks for these with a query that costs more than
connecting does. Their numbers are the same in every database.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import asyncpg

__all__ = ["Knowing"]

ASSIGNED = 10_000
"""Types with smaller numbers were given them by Postgres's sources; others are a database's own."""

_KNOWN: dict[frozenset[int], Any] = {}

# Not the unnamed statement: that of the query that met the types is still there, and need not be sent again.
_NOT_SENT = SimpleNamespace(name="not sent")


class Knowing(asyncpg.Connection):
    """A connection that remembers, for the process, what one like it was told.

    The method is asyncpg's own and not public: where it is called otherwise, nothing is remembered.
    """

    async def _introspect_types(self, typeoids: Iterable[int], timeout: float | None) -> tuple[Any, Any]:
        asked = frozenset(typeoids)
        if asked in _KNOWN:
            return _KNOWN[asked], _NOT_SENT
        types, statement = await super()._introspect_types(asked, timeout)  # type: ignore[misc]
        if all(number < ASSIGNED for number in asked):
            _KNOWN[asked] = types
        return types, statement
