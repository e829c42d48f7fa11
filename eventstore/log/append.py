"""Appending: from events to the arrays of ``append_events_v1``, and its answer back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from eventstore.database import Connection, Database, borrowed
from eventstore.errors import DatabaseUnavailable, InvalidEvent, OutcomeUnknown
from eventstore.events import ANY, AppendResult, Expected, NewEvent, check_stream_name

__all__ = ["MAX_EVENTS", "append", "append_known", "event_arrays"]

MAX_EVENTS = 1000
"""Events of one append; imports bring their own batches."""


async def append(
    database: Database,
    stream: str,
    events: Sequence[NewEvent],
    expected: int = ANY,
    connection: Connection | None = None,
) -> AppendResult:
    """Append *events* to *stream*; see `EventStore.append`."""
    check_stream_name(stream)
    _check(events, expected)
    arguments = ([stream], [int(expected)], *event_arrays(events, [1] * len(events)))
    if connection is None:
        row = (await _outside(database, arguments))[0]
    else:
        async with borrowed(connection):
            row = (await database.rows("append_events_v1", *arguments, False, True, on=connection))[0]
    return _result(row)


async def append_known(database: Database, streams: Sequence[str], events: Sequence[NewEvent]) -> int:
    """Append each event to the stream beside it, in one transaction, leaving out those stored already.

    Returns how many were new.

    Raises:
        DuplicateEventId: an id is stored with other content; nothing of the batch is written.
    """
    _check_events(events)
    if len(streams) != len(events):
        raise InvalidEvent(f"{len(events)} events need as many streams, not {len(streams)}")
    for name in streams:
        check_stream_name(name)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(streams), 1)}
    arrays = event_arrays(events, [numbers[name] for name in streams])
    rows = await _outside(database, (list(numbers), [int(ANY)] * len(numbers), *arrays), skip_known=True)
    return sum(row["version"] - row["first_version"] + 1 for row in rows)


def event_arrays(events: Sequence[NewEvent], stream_numbers: list[int]) -> tuple[list[Any], ...]:
    """Return the columns of *events* as ``append_events_v1`` takes them, from ``p_stream_no`` on."""
    return (
        stream_numbers,
        [event.id for event in events],
        [event.type for event in events],
        [event.encoded_data for event in events],
        [event.encoded_metadata for event in events],
        [_array_literal(event.tags) if event.tags else None for event in events],
        [event.created_at for event in events],
    )


def _check(events: Sequence[NewEvent], expected: int) -> None:
    _check_events(events)
    if len(events) > MAX_EVENTS:
        raise InvalidEvent(f"an append takes at most {MAX_EVENTS} events, this has {len(events)}")
    if isinstance(expected, bool) or not isinstance(expected, int) or not min(Expected) <= expected < 1 << 63:
        raise InvalidEvent(f"expected must be ANY, NO_STREAM, STREAM_EXISTS or a version, not {expected!r}")


def _check_events(events: Sequence[NewEvent]) -> None:
    if isinstance(events, NewEvent) or not isinstance(events, Sequence):
        raise InvalidEvent("events must be a list of NewEvent")
    if not events:
        raise InvalidEvent("an append needs at least one event")
    for event in events:
        if not isinstance(event, NewEvent):
            raise InvalidEvent(f"events must be NewEvent, not {type(event).__name__}")
    if len({event.id for event in events}) < len(events):
        raise InvalidEvent("an event id stands twice in one append")


async def _outside(database: Database, arguments: Sequence[Any], skip_known: bool = False) -> list[asyncpg.Record]:
    async with database.acquire() as connection:
        try:
            return await database.rows("append_events_v1", *arguments, skip_known, False, on=connection)
        except DatabaseUnavailable as error:
            if _refused(error):
                raise
            raise OutcomeUnknown(
                f"the connection was lost during an append ({error}); "
                "repeat it with the same events to learn whether it happened"
            ) from error


def _refused(error: DatabaseUnavailable) -> bool:
    """Whether the server answered, so that nothing happened; a connection that it cut is no answer."""
    cause = error.__cause__
    return isinstance(cause, asyncpg.PostgresError) and (cause.sqlstate or "08000")[:3] not in ("57P", "080")


def _result(row: asyncpg.Record) -> AppendResult:
    return AppendResult(
        stream=row["stream"],
        version=row["version"],
        position=row["position"],
        first_version=row["first_version"],
        first_position=row["first_position"],
        idempotent=row["idempotent"],
    )


def _array_literal(tags: Any) -> str:
    quoted = (tag.replace("\\", "\\\\").replace('"', '\\"') for tag in tags)
    return '{"' + '","'.join(quoted) + '"}'
