"""Reading: pages of the log, and readings that walk them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from eventstore.codec import decode
from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.events import Event
from eventstore.selectors import All, Selector, dump

__all__ = ["Page", "Reading", "Share", "head", "read_page", "read_stream"]


@dataclass(frozen=True, slots=True)
class Share:
    """One partition's share of the log: events whose ``bucket % modulus == remainder``."""

    modulus: int
    remainder: int

    def __contains__(self, event: Event) -> bool:
        return event.bucket % self.modulus == self.remainder


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the log.

    Attributes:
        scanned: position up to which (backwards: down to which) the log has been looked at.
        horizon: what the page could read up to.
        last_position: last position drawn when the horizon was read; None if it was given.
    """

    events: list[Event]
    scanned: int
    horizon: int
    last_position: int | None


async def read_page(
    database: Database,
    selector: Selector,
    *,
    limit: int,
    window: int | None,
    after: int = 0,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backwards: bool = False,
    upto: int | None = None,
    share: Share | None = None,
) -> Page:
    """Read the next page between *after* and *before*, up to the horizon, or *upto* where one is known already."""
    everything = isinstance(selector, All) and share is None and since is None and until is None
    rows = await database.rows(
        "read_events_v1",
        None if isinstance(selector, All) else dump(selector),
        after,
        before,
        since,
        until,
        backwards,
        limit,
        None if everything else window,
        upto,
        share.modulus if share else None,
        share.remainder if share else None,
    )
    closing = rows.pop()
    scanned = rows[-1]["position"] if len(rows) == limit else closing["window_end"]
    return Page([to_event(row) for row in rows], scanned, closing["horizon"], closing["last_position"])


def to_event(row: asyncpg.Record) -> Event:
    """Return the event of one row, decoded."""
    identity, kind, data, metadata, tags, stream, version, position, bucket, created_at, recorded_at = row[:11]
    decoded = decode(metadata) if metadata != "{}" else {}
    return Event(
        identity,
        kind,
        decode(data),
        decoded,
        tuple(tags),
        stream,
        version,
        position,
        bucket,
        created_at,
        recorded_at,
    )


async def head(database: Database) -> int:
    """Return the horizon."""
    return int(await database.value("head"))


async def read_stream(
    database: Database,
    stream: str,
    *,
    after: int,
    before: int | None,
    backwards: bool,
    limit: int | None,
    page_size: int,
) -> AsyncIterator[Event]:
    """Yield one stream's events by version; see `EventStore.read`, which checks the arguments."""
    left = limit
    while left is None or left > 0:
        size = page_size if left is None else min(page_size, left)
        rows = await database.rows("read_stream_v1", stream, after, before, backwards, size)
        for row in rows:
            yield to_event(row)
        if len(rows) < size:
            return
        left = None if left is None else left - size
        if backwards:
            before = rows[-1]["version"]
        else:
            after = rows[-1]["version"]


class Reading:
    """A walk over the log that ends at the horizon of its start; ``async for event in reading``.

    Each iteration is a walk of its own. See `EventStore.read_all` for the arguments.
    """

    def __init__(
        self,
        database: Database,
        selector: Selector,
        *,
        after: int = 0,
        before: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        backwards: bool = False,
        limit: int | None = None,
        page_size: int = 500,
        window: int = 10_000,
    ) -> None:
        check_bounds(after, before, limit)
        for name, time in (("since", since), ("until", until)):
            if time is not None:
                check_time(name, time)
        self._database, self._selector = database, selector
        self._after, self._before, self._since, self._until = after, before, since, until
        self._backwards, self._limit = backwards, limit
        self._page_size, self._window = page_size, window
        self._horizon: int | None = None

    @property
    def horizon(self) -> int:
        """Position up to which this reading sees every event; known once the iteration has begun."""
        if self._horizon is None:
            raise ConfigurationError("a reading knows its horizon once its iteration has begun")
        return self._horizon

    async def __aiter__(self) -> AsyncIterator[Event]:
        after, before, left, upto = self._after, self._before, self._limit, None
        while left is None or left > 0:
            page = await read_page(
                self._database,
                self._selector,
                after=after,
                before=before,
                since=self._since,
                until=self._until,
                backwards=self._backwards,
                limit=self._page_size if left is None else min(self._page_size, left),
                window=self._window,
                upto=upto,
            )
            upto = self._horizon = page.horizon
            for event in page.events:
                yield event
            left = None if left is None else left - len(page.events)
            if self._backwards:
                # window_end looked down to is exclusive like `after`; a full page ends at its last event.
                full = bool(page.events) and page.events[-1].position == page.scanned
                before = page.scanned if full else page.scanned + 1
                if before - 1 <= after:
                    return
            else:
                after = page.scanned
                if after >= (upto if before is None else min(upto, before - 1)):
                    return


def check_bounds(after: int, before: int | None, limit: int | None) -> None:
    """Refuse exclusive bounds or a limit that are none (`ConfigurationError`)."""
    for name, value in (("after", after), ("before", before), ("limit", limit)):
        if value is not None or name == "after":
            check_position(name, value)


def check_position(name: str, value: object) -> None:
    """Refuse what is no position, version or count (`ConfigurationError`)."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ConfigurationError(f"{name} must be a whole number from 0 to 2^63 - 1, not {value!r}")


def check_time(name: str, value: object) -> None:
    """Refuse a time without a zone, or one that Postgres cannot hold in UTC (`ConfigurationError`)."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ConfigurationError(f"{name} must be a datetime with a time zone, not {value!r}")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ConfigurationError(f"{name} is out of range in UTC: {value!r}") from None
