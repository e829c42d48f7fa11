"""Deciding: read, decide on what was read, append if nothing came in between, and begin again if something did."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from eventstore.errors import (
    AppendConditionFailed,
    ConfigurationError,
    EventStoreError,
    TransactionConflict,
    WrongExpectedVersion,
)
from eventstore.events import AppendResult, Event, NewEvent
from eventstore.service import Backoff

__all__ = ["Decision", "decide"]

Decision: TypeAlias = Callable[[list[Event]], Sequence[NewEvent] | Awaitable[Sequence[NewEvent]]]
"""From the events that were read to those to append, a function or a coroutine function; none: nothing is to be done.
It is called anew at every attempt, and should do nothing else."""

Seen = TypeVar("Seen")

ATTEMPTS = 10
"""Attempts of a decision that loses against others."""


async def decide(
    read: Callable[[EventStoreError | None], Awaitable[tuple[list[Event], Seen]]],
    decision: Decision,
    append: Callable[[Sequence[NewEvent], Seen, float | None], Awaitable[AppendResult]],
    *,
    attempts: int,
    timeout: float | None,
) -> AppendResult | None:
    """Read, decide and append, until no other append comes in between.

    Args:
        read: returns the events, and what their append has to expect; it is told the conflict of the last attempt.
        append: is handed the new events, what *read* returned, and the seconds that are left.

    Raises:
        WrongExpectedVersion, AppendConditionFailed, TransactionConflict: the last attempt lost as well.
        TimeoutError: time ran out while reading or deciding; nothing was appended.
    """
    if type(attempts) is not int or attempts < 1:
        raise ConfigurationError(f"attempts must be a whole number of at least 1, not {attempts!r}")
    if not callable(decision):
        raise ConfigurationError(f"a decision is a function from events to new events, not {type(decision).__name__}")
    loop, backoff = asyncio.get_running_loop(), Backoff(0.005, 0.5)
    until = None if timeout is None else loop.time() + timeout
    conflict: EventStoreError | None = None
    while True:
        async with asyncio.timeout_at(until):
            events, seen = await read(conflict)
            decided = decision(events)
            new = await decided if inspect.isawaitable(decided) else decided
        if not new:
            return None
        try:
            return await append(new, seen, None if until is None else max(1e-3, until - loop.time()))
        except (WrongExpectedVersion, AppendConditionFailed, TransactionConflict) as error:
            conflict = error
            if backoff.attempts + 1 >= attempts:
                raise
        async with asyncio.timeout_at(until):
            await asyncio.sleep(backoff.next())
