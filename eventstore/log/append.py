"""Appending: what is asked for, as the arrays of the SQL functions, and their answer back.

`run` appends one request on a connection of its own and finds out what became of it; `coalescing` takes the requests
that can share a round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from eventstore.conditions import AppendCondition
from eventstore.database import Borrowable, Database, borrowed
from eventstore.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    DuplicateEventId,
    EventStoreError,
    InvalidEvent,
    OutcomeUnknown,
    TransactionConflict,
)
from eventstore.events import ANY, AppendResult, Expected, NewEvent, check_stream_name
from eventstore.service import Backoff

__all__ = [
    "MAX_EVENTS",
    "KnownRequest",
    "Request",
    "StreamAppend",
    "answered",
    "deadline",
    "event_arrays",
    "known_added",
    "lost",
    "results",
    "run",
    "run_in",
    "tags_literal",
]

BRIEF = "50ms"
"""How long an attempt may wait for locks before it counts as waiting."""

MAX_EVENTS = 1000
"""Events of one append; imports bring their own batches."""


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream, as a part of `EventStore.append_many`.

    Attributes:
        stream: None: events without a stream.
        expected: `ANY`, `NO_STREAM`, `STREAM_EXISTS`, or the exact version the stream must have.

    Raises:
        InvalidEvent: a part breaks a rule.
    """

    stream: str | None
    events: Sequence[NewEvent]
    expected: int = ANY

    def __post_init__(self) -> None:
        check_stream(self.stream)
        check_events(self.events)
        # The list stays the caller's, who may change it while the append waits.
        object.__setattr__(self, "events", tuple(self.events))
        expected = self.expected
        if isinstance(expected, bool) or not isinstance(expected, int) or not min(Expected) <= expected < 1 << 63:
            raise InvalidEvent(f"expected must be ANY, NO_STREAM, STREAM_EXISTS or a version, not {expected!r}")
        if self.stream is None and expected != ANY:
            raise InvalidEvent("events without a stream have no version to expect; use a condition")


@dataclass(slots=True)
class Request:
    """One append, all or nothing.

    Attributes:
        sent: it may have happened.
        until: when to give up finding out what became of it, by the event loop's clock; set when a reply is lost.
        lent: what was answered on a connection of the caller's.
    """

    parts: Sequence[StreamAppend]
    condition: AppendCondition | None = None
    sent: bool = False
    until: float | None = None
    lent: Sequence[asyncpg.Record] | None = None

    @property
    def size(self) -> int:
        """How many events it has."""
        return sum(len(part.events) for part in self.parts)

    def __post_init__(self) -> None:
        if self.condition is not None and not isinstance(self.condition, AppendCondition):
            raise InvalidEvent(f"condition must be an AppendCondition, not {type(self.condition).__name__}")
        count = sum(len(part.events) for part in self.parts)
        if not count:
            raise InvalidEvent("an append needs at least one event")
        if count > MAX_EVENTS:
            raise InvalidEvent(f"an append takes at most {MAX_EVENTS} events, this has {count}")
        if len(self.parts) > 1 and len({part.stream for part in self.parts}) < len(self.parts):
            raise InvalidEvent("a stream stands twice in one append; put its events together")
        if count > 1 and len({event.id for part in self.parts for event in part.events}) < count:
            raise InvalidEvent("an event id stands twice in one append")

    def arguments(self, *, signal: bool) -> list[Any]:
        """Return the arguments of ``append_events_v1``."""
        events = [event for part in self.parts for event in part.events]
        one = len(self.parts) == 1
        numbers = None if one else [number for number, part in enumerate(self.parts, 1) for _ in part.events]
        condition = self.condition.encoded if self.condition else None
        return [
            [part.stream for part in self.parts],
            [int(part.expected) for part in self.parts],
            *event_arrays(events, numbers),
            False,
            signal,
            condition,
            None,
        ]


@dataclass(slots=True)
class KnownRequest:
    """An import: events beside their streams, of which those that are stored already are left out."""

    streams: Sequence[str | None]
    events: Sequence[NewEvent]
    sent: bool = False
    until: float | None = None

    def __post_init__(self) -> None:
        check_events(self.events)
        if len(self.streams) != len(self.events):
            raise InvalidEvent(f"{len(self.events)} events need as many streams, not {len(self.streams)}")
        for name in self.streams:
            check_stream(name)
        if len({event.id for event in self.events}) < len(self.events):
            raise InvalidEvent("an event id stands twice in one append")

    def arguments(self, *, signal: bool) -> list[Any]:
        """Return the arguments of ``append_events_v1``."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.streams), 1)}
        arrays = event_arrays(self.events, [numbers[name] for name in self.streams])
        return [list(numbers), [int(ANY)] * len(numbers), *arrays, True, signal, None, None]


def event_arrays(events: Sequence[NewEvent], numbers: list[int] | None) -> tuple[list[Any] | None, ...]:
    """Return the columns of *events* as the SQL functions take them, from *numbers*, what each belongs to, on.

    Metadata and tags that no event has are None: an array costs its encoding and decoding whatever stands in it.
    """
    metadata = [event.encoded_metadata for event in events]
    tags = [tags_literal(event) for event in events]
    return (
        numbers,
        [event.id for event in events],
        [event.type for event in events],
        [event.encoded_data for event in events],
        metadata if any(text != "{}" for text in metadata) else None,
        tags if any(tags) else None,
        [event.created_at for event in events],
    )


def check_stream(stream: object) -> None:
    """Refuse what is neither a stream's name nor None (`InvalidEvent`)."""
    if stream is not None:
        check_stream_name(stream)


def check_events(events: object) -> None:
    """Refuse what is no list of `NewEvent`, or an empty one (`InvalidEvent`)."""
    if isinstance(events, NewEvent) or not isinstance(events, Sequence):
        raise InvalidEvent("events must be a list of NewEvent")
    if not events:
        raise InvalidEvent("an append needs at least one event")
    for event in events:
        if not isinstance(event, NewEvent):
            raise InvalidEvent(f"events must be NewEvent, not {type(event).__name__}")


async def run(
    database: Database,
    request: Request | KnownRequest,
    patience: float,
    brief: asyncio.Semaphore,
    waiting: asyncio.Semaphore,
) -> list[asyncpg.Record]:
    """Append *request* on a connection of the pool; one row a stream.

    After a lost reply it is sent again, which the ids make harmless, for *patience* seconds. Each attempt takes one of
    the places *brief*, until it turns out to wait for a lock, then one of *waiting*: so appends that wait leave
    connections for those that need not.

    Raises:
        OutcomeUnknown: the database did not come back within that time.
        DatabaseUnavailable: there was no connection; nothing was sent.
    """
    arguments = request.arguments(signal=False)
    arguments[-1], places = BRIEF, brief
    backoff = Backoff(0.05, 1.0)
    while True:
        try:
            async with places:
                return await _sent(database, request, arguments)
        except (DatabaseUnavailable, TransactionConflict, ConfigurationError) as error:
            if places is brief and isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                arguments[-1], places = None, waiting
                continue
            # Of an append that was sent before these say nothing: the first attempt may still be running, and hold the
            # locks this one waited for. ConfigurationError: the store was closed in between.
            if not request.sent:
                if places is waiting and isinstance(error, ConfigurationError):
                    raise DatabaseUnavailable(
                        "the store was closed before the append was sent; nothing happened"
                    ) from error
                raise
            lost(request, patience)
            wait = backoff.next()
            if asyncio.get_running_loop().time() + wait > (request.until or 0) or isinstance(error, ConfigurationError):
                raise OutcomeUnknown(
                    f"the connection was lost during an append, and trying again found no answer ({error}); "
                    "append the same events again to learn whether it happened"
                ) from error
            await asyncio.sleep(wait)


def lost(request: Request | KnownRequest, patience: float) -> None:
    """Note that a reply was lost: from the first on *patience* seconds are left to find out what happened."""
    if request.until is None:
        request.until = asyncio.get_running_loop().time() + patience


async def _sent(database: Database, request: Request | KnownRequest, arguments: Sequence[Any]) -> list[asyncpg.Record]:
    async with database.acquire() as connection:
        before, request.sent = request.sent, True
        try:
            return await _racing(database, arguments, connection)
        except EventStoreError as error:
            # An answer, whatever it is, says that this attempt did nothing.
            request.sent = before or (isinstance(error, DatabaseUnavailable) and not answered(error))
            raise


async def _racing(database: Database, arguments: Sequence[Any], connection: Any) -> list[asyncpg.Record]:
    """Append; if the same ids were just being written elsewhere, look at what they became."""
    try:
        return await database.rows("append_events_v1", *arguments, on=connection)
    except DuplicateEventId as error:
        if not _raced(error):
            raise
    return await database.rows("append_events_v1", *arguments, on=connection)


def answered(error: DatabaseUnavailable) -> bool:
    """Tell whether the server answered, so that nothing happened; a connection that it cut is no answer."""
    cause = error.__cause__
    return isinstance(cause, asyncpg.PostgresError) and (cause.sqlstate or "08000")[:3] not in ("57P", "080")


# A caller's connection may have codecs of its own for json, SQLAlchemy's has: ours are texts, whatever it thinks.
_AS_TEXT = {6: "::text[]::json[]", 7: "::text[]::json[]", 12: "::text::jsonb"}


async def run_in(database: Database, connection: Borrowable, request: Request) -> Sequence[asyncpg.Record]:
    """Append *request* inside the caller's open transaction; see `database.borrowed`."""
    arguments = request.arguments(signal=True)
    for looked_again in (False, True):
        try:
            async with borrowed(connection) as raw:
                request.lent = await database.rows("append_events_v1", *arguments, on=raw, casts=_AS_TEXT)
            return request.lent
        except DuplicateEventId as error:
            if not _raced(error):
                raise
            if looked_again:
                raise TransactionConflict(
                    "the same events were appended after this transaction began, and its isolation level hides them; "
                    "roll back and repeat it"
                ) from error
    raise AssertionError  # the second look returns or raises


def _raced(error: DuplicateEventId) -> bool:
    """Whether the same ids were just being written elsewhere: then another look tells what they became."""
    return isinstance(error.__cause__, asyncpg.UniqueViolationError)


@contextmanager
def deadline(request: Request, timeout: float | None, *, lent: bool) -> Iterator[None]:
    """Turn the end of *timeout* seconds into the error that says whether *request* may have happened.

    On a *lent* connection it was undone with its savepoint.
    """
    try:
        yield
    except TimeoutError:
        if lent:
            raise TimeoutError(
                f"the append took longer than {timeout:g} s and was undone; your transaction can go on"
            ) from None
        if not request.sent:
            raise TimeoutError(f"the append was not sent within {timeout:g} s; nothing happened") from None
        raise OutcomeUnknown(
            f"no answer within {timeout:g} s; append the same events again to learn whether it happened"
        ) from None


def results(rows: Sequence[asyncpg.Record]) -> list[AppendResult]:
    """Return what ``append_events_v1`` answered."""
    return [
        AppendResult(
            stream=row["stream"],
            version=row["version"],
            position=row["position"],
            first_version=row["first_version"],
            first_position=row["first_position"],
            idempotent=row["idempotent"],
        )
        for row in rows
    ]


def known_added(rows: Sequence[asyncpg.Record]) -> int:
    """Return how many events of an import were new."""
    return sum(row["events"] for row in rows)


def check_timeout(timeout: object) -> None:
    """Refuse what is no time in seconds (`ConfigurationError`)."""
    if timeout is not None and (type(timeout) not in (int, float) or not 0 < timeout < 1e6):  # type: ignore[operator]
        raise ConfigurationError(f"timeout must be a number of seconds above 0, not {timeout!r}")


def tags_literal(event: NewEvent) -> str | None:
    """Return the tags as the text of a Postgres array; None if there are none."""
    if not event.tags:
        return None
    quoted = (tag.replace("\\", "\\\\").replace('"', '\\"') for tag in event.tags)
    return '{"' + '","'.join(quoted) + '"}'
