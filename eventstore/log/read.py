"""Reading: pages of the log, and readings that walk them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

import asyncpg

from eventstore.codec import decoder_of
from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.events import Event
from eventstore.log.append import check_timeout
from eventstore.selectors import All, Selector, dump

__all__ = ["Page", "Reading", "Share", "Window", "head", "read_page", "read_stream"]


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
    """Read the next page between *after* and *before*, up to the horizon, or *upto* where one is known already.

    It looks at no more than *window* positions, but at *limit* of them at least. Without a window it looks until the
    page is full, which is for who takes every event.
    """
    if window is not None:
        # Where nearly every position matches, a wider one would tempt a planner without statistics, as after an import,
        # to fetch and sort all of it for each page.
        everything = isinstance(selector, All) and not share and not since and not until
        window = limit * 2 if everything else max(window, limit)
    rows = await database.rows(
        "read_events_v1",
        None if isinstance(selector, All) else dump(selector),
        after,
        before,
        since,
        until,
        backwards,
        limit,
        window,
        upto,
        share.modulus if share else None,
        share.remainder if share else None,
    )
    closing = rows.pop()
    scanned = rows[-1]["position"] if len(rows) == limit else closing["window_end"]
    database.reads.pages += 1
    database.reads.events += len(rows)
    return Page(to_events(rows), scanned, closing["horizon"], closing["last_position"])


class _Blank:
    """An event that is being filled in: `Event` without its checks against change, so that setting a field is cheap."""

    __slots__ = Event.__slots__


def to_events(rows: Sequence[asyncpg.Record]) -> list[Event]:
    """Return the events of *rows*, decoded.

    A frozen dataclass sets its own fields by a call each, which costs more than decoding the data. So the fields are
    set on an object of the same layout, which then becomes the event; Python refuses that should the layouts differ.
    """
    decode_data, decode_metadata = decoder_of(row[2] for row in rows), decoder_of(row[3] for row in rows)
    blank, events = object.__new__, []
    for row in rows:
        made: Any = blank(_Blank)
        (
            made.id, made.type, data, metadata, tags, made.stream, made.version, made.position, made.bucket,
            made.created_at, made.recorded_at,
        ) = row[:11]  # fmt: skip
        made.data = decode_data(data)
        made.metadata = decode_metadata(metadata) if metadata != "{}" else {}
        made.tags = tuple(tags) if tags else ()
        made.__class__ = Event
        events.append(made)
    return events


async def head(database: Database) -> int:
    """Return the horizon."""
    return int(await database.value("head"))


class Window:
    """How many positions the next query of a selective reading looks at: as many as it can in a moment.

    A query that comes back within `QUICK` seconds without a full page makes the window four times as large, one that
    takes longer than `SLOW` a quarter of it. So a selector that an index serves crosses a million positions in a few
    queries, and one that has to look into every event never asks for more than about a quarter of a second of work.

    Args:
        size: where it starts; it never falls below a sixteenth of that.
        clock: seconds that only go forward.
    """

    QUICK, SLOW, MOST = 0.05, 0.25, 1 << 25

    def __init__(self, size: int, clock: Callable[[], float] = monotonic) -> None:
        self.size = size
        self._least, self._clock = max(1, size // 16), clock

    async def read(self, page: Callable[[int], Awaitable[Page]], limit: int) -> Page:
        """Return what *page* reads with the window of now, and learn from how long it took."""
        began = self._clock()
        found = await page(self.size)
        took = self._clock() - began
        if took > self.SLOW:
            self.size = max(self._least, self.size // 4)
        elif took < self.QUICK and len(found.events) < limit:
            self.size = max(self.size, min(self.MOST, self.size * 4))
        return found


async def each(pages: AsyncGenerator[list[Event], None], timeout: float | None) -> AsyncGenerator[Event, None]:
    """Yield the events of *pages*, waiting at most *timeout* seconds for each page.

    Who came for a second page is taken to want them all: from then on the next page is read while the caller works
    through this one. Ending the iteration also ends what is being read for it.

    Raises:
        TimeoutError: a page took longer.
    """
    pending: asyncio.Task[list[Event] | None] | None = None
    try:
        for number in itertools.count(1):
            async with asyncio.timeout(timeout):
                events = await (pending or _next(pages))
            if events is None:
                return
            if number > 1:
                pending = asyncio.ensure_future(_next(pages))
                await asyncio.sleep(0)  # a turn of the event loop, in which the query is sent
            for event in events:
                yield event
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await pages.aclose()


async def _next(pages: AsyncGenerator[list[Event], None]) -> list[Event] | None:
    return await anext(pages, None)


def read_stream(
    database: Database,
    stream: str,
    *,
    after: int,
    before: int | None,
    backwards: bool,
    limit: int | None,
    page_size: int,
    timeout: float | None = None,
) -> AsyncGenerator[Event, None]:
    """Yield one stream's events by version; see `EventStore.read`, which checks the arguments."""
    return each(_stream_pages(database, stream, after, before, backwards, limit, page_size), timeout)


async def _stream_pages(
    database: Database,
    stream: str,
    after: int,
    before: int | None,
    backwards: bool,
    limit: int | None,
    page_size: int,
) -> AsyncGenerator[list[Event], None]:
    left = limit
    while left is None or left > 0:
        size = page_size if left is None else min(page_size, left)
        events = to_events(await database.rows("read_stream_v1", stream, after, before, backwards, size))
        database.reads.pages += 1
        database.reads.events += len(events)
        yield events
        if len(events) < size:
            return
        left = None if left is None else left - size
        last = events[-1].version
        assert last is not None
        if backwards:
            before = last
        else:
            after = last


class Reading:
    """A walk over the log that ends at the horizon of its start; ``async for event in reading``.

    Each iteration is a walk of its own, and looks at the log through a `Window` of its own. See `EventStore.read_all`
    for the arguments.
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
        timeout: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        check_bounds(after, before, limit)
        for name, time in (("since", since), ("until", until)):
            if time is not None:
                check_time(name, time)
        check_timeout(timeout)
        self._database, self._selector = database, selector
        self._after, self._before, self._since, self._until = after, before, since, until
        self._backwards, self._limit, self._page_size = backwards, limit, page_size
        self._window, self._timeout, self._clock = window, timeout, clock
        self._horizon: int | None = None

    @property
    def horizon(self) -> int:
        """Position up to which this reading sees every event; known once the iteration has begun."""
        if self._horizon is None:
            raise ConfigurationError("a reading knows its horizon once its iteration has begun")
        return self._horizon

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        return each(self._pages(), self._timeout)

    async def _pages(self) -> AsyncGenerator[list[Event], None]:
        after, before, left, upto = self._after, self._before, self._limit, None
        if self._since is not None or self._until is not None:
            low, high, upto = (await self._database.rows("time_bounds_v1", self._since, self._until))[0]
            after, before = max(after, low), high + 1 if before is None else min(before, high + 1)
            self._horizon = upto
            yield []
        window = Window(self._window, self._clock)
        while left is None or left > 0:
            limit = self._page_size if left is None else min(self._page_size, left)
            page = await window.read(partial(self._page, after, before, upto, limit), limit)
            upto = self._horizon = page.horizon
            yield page.events
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

    async def _page(self, after: int, before: int | None, upto: int | None, limit: int, window: int) -> Page:
        return await read_page(
            self._database,
            self._selector,
            after=after,
            before=before,
            since=self._since,
            until=self._until,
            backwards=self._backwards,
            limit=limit,
            window=window,
            upto=upto,
        )


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
