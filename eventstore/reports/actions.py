"""What operators did: who, when, through what, to what, and how it ended. Nothing is ever removed from it."""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg

from eventstore.database import Database
from eventstore.errors import EventStoreError
from eventstore.log.read import check_position
from eventstore.moments import to_datetime
from eventstore.reports.paging import check_limit
from eventstore.service import to_its_end
from eventstore.subscriptions.ledger import storable

__all__ = ["Action", "begin", "finishing", "list_actions", "operator", "recorded"]

log = logging.getLogger(__name__)

FINISHED_WITHIN = 5.0
"""Seconds for which it is tried to record how an action ended; nobody can cut that short."""


def operator() -> str:
    """Return who runs this process: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an operator did, or tried to do.

    Attributes:
        id: rises with time.
        at: when it was begun, by the database's clock.
        who: the operator's name: of a token, or user@host.
        via: ``dashboard`` or ``cli``.
        role: the database role that it was recorded as.
        action: such as ``pause`` or ``replay``.
        subject: what it was done to, such as a subscription's name.
        arguments: the others, as JSON.
        outcome: ``begun`` (it is under way, or was broken off so that nobody knows), ``done`` or ``failed``.
        error: why it failed.
    """

    id: int
    at: datetime
    who: str
    via: str
    role: str
    action: str
    subject: str
    arguments: dict[str, Any]
    outcome: Literal["begun", "done", "failed"]
    error: str | None
    finished_at: datetime | None


@asynccontextmanager
async def recorded(
    database: Database, who: str, via: str, action: str, subject: str, arguments: Mapping[str, Any] | None = None
) -> AsyncIterator[int]:
    """Record an action around the block that does it::

        async with recorded(database, "ada", "dashboard", "pause", name):
            await store.subscriptions.pause(name)

    What cannot be recorded is not done: the block does not run if the intent cannot be written. An exception of the
    block, also a cancellation, is recorded as ``failed`` and goes on. That the outcome could not be written is logged.

    Raises:
        ConfigurationError: the role may not record.
        DatabaseUnavailable: the database cannot be reached.
    """
    number = await begin(database, who, via, action, subject, arguments)
    async with finishing(database, number):
        yield number


async def begin(
    database: Database, who: str, via: str, action: str, subject: str, arguments: Mapping[str, Any] | None = None
) -> int:
    """Record what is about to be done, and return its number for `finishing`; errors as `recorded`."""
    texts = [storable(one) for one in (who, via, action, subject)]
    given = json.dumps(dict(arguments or {}), default=str)
    return int(await database.value("begin_action_v1", *texts, given))


@asynccontextmanager
async def finishing(database: Database, number: int) -> AsyncIterator[None]:
    """Record how the block ended that does the action *number*."""
    try:
        yield
    except BaseException as error:
        await _finish(database, number, error)
        raise
    await _finish(database, number)


async def _finish(database: Database, number: int, error: BaseException | None = None) -> None:
    """Record how it ended; that this could not be done is logged, for what was done is done."""
    why = None if error is None else storable(f"{type(error).__name__}: {error}".rstrip(": "))
    if isinstance(error, asyncio.CancelledError):
        why = "cancelled; it may have happened all the same"
    try:
        # To its end: a caller that is cancelled has done it, or has not, all the same.
        await to_its_end(_write_end(database, number, "done" if error is None else "failed", why))
    except (EventStoreError, asyncpg.PostgresError, TimeoutError) as failure:
        log.warning("how action %d ended could not be recorded: %s", number, failure or "the database did not answer")


async def _write_end(database: Database, number: int, outcome: str, why: str | None) -> None:
    async with asyncio.timeout(FINISHED_WITHIN):
        await database.value("finish_action_v1", number, outcome, why)


async def list_actions(
    database: Database, *, subject: str | None = None, before: int | None = None, limit: int = 50
) -> Sequence[Action]:
    """Return the latest actions, newest first; one query.

    Args:
        subject: only of this one.
        before: only those with a lower id: the last id of the page before.
        limit: 1 to 500.
    """
    check_limit(limit)
    if before is not None:
        check_position("before", before)
    rows = await database.rows("list_actions_v1", None if subject is None else storable(subject), before, limit)
    return [_action(row) for row in rows]


def _action(row: asyncpg.Record) -> Action:
    ended = row["finished_at"]
    times = {"at": to_datetime(row["at"]), "finished_at": None if ended is None else to_datetime(ended)}
    return Action(**dict(row) | times | {"arguments": json.loads(row["arguments"])})
