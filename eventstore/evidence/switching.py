"""The chain on and off, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from eventstore.database import Database
from eventstore.moments import to_datetime

__all__ = ["Status", "chained", "read_seals", "read_status", "turn"]

PAGE = 100


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a log's evidence.

    Attributes:
        horizon: up to here it can be verified and sealed.
        last_position: the last one drawn.
        state: whether the chain is ``on`` or ``off``; ``never``: it never was.
        since: the position at which it was turned on or off.
        periods: where it was on: after a position, up to another (None: it still is).
        seals: how many are stored.
        last_seal: the last of them.
        sealed_at: when that was stored, by the database's clock.
    """

    horizon: int
    last_position: int
    state: Literal["on", "off", "never"]
    since: int
    periods: tuple[tuple[int, int | None], ...]
    seals: int
    last_seal: str | None
    sealed_at: datetime | None


async def read_status(database: Database) -> Status:
    """Read it."""
    (row,) = await database.rows("chain_status_v1")
    sealed_at = None if row["sealed_at"] is None else to_datetime(row["sealed_at"])
    periods = tuple((after, upto) for after, upto in json.loads(row["periods"]))
    return Status(
        row["horizon"],
        row["last_position"],
        row["state"],
        row["since"],
        periods,
        row["seals"],
        row["last_seal"],
        sealed_at,
    )


async def turn(database: Database, on: bool) -> Status:
    """Turn the chain on or off, for all appends after that.

    It waits for appends in flight, and they for it, for 5 s at most.

    Raises:
        TransactionConflict: an append went on for longer than that; nothing has changed.
        ConfigurationError: the role may not.
    """
    while not await database.value("set_chain_v1", on):
        pass
    return await read_status(database)


def chained(periods: Sequence[tuple[int, int | None]], position: int) -> bool:
    """Tell whether the chain was on when *position* was drawn."""
    return any(after < position and (upto is None or position <= upto) for after, upto in periods)


async def read_seals(database: Database, after: int = 0) -> AsyncIterator[tuple[int, str]]:
    """Yield number and text of the seals that the database holds."""
    while rows := await database.rows("list_seals_v1", after, PAGE):
        for row in rows:
            yield row["number"], row["seal"]
        after = rows[-1]["number"]
