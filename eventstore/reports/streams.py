"""Looking for streams and events: by page, and for a bounded time each, however large the log is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic
from uuid import UUID

import asyncpg

from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.events import Event, check_stream_name
from eventstore.log.read import Page, Window, check_position, check_time, read_page, to_events
from eventstore.log.streams import StreamInfo, info_of, stream_info
from eventstore.moments import to_datetime
from eventstore.reports.paging import check_limit
from eventstore.selectors import All, EventPattern, EventType, Selector, Stream, Tags

__all__ = [
    "EventDetail",
    "EventPage",
    "EventSearch",
    "Point",
    "StreamPage",
    "Timeline",
    "list_streams",
    "read_event",
    "read_timeline",
    "search_events",
]

WITHIN = 0.2
"""Seconds after which a search returns what it has found."""

FIRST_WINDOW, MOST_QUERIES = 100_000, 4
"""Positions that the first query of a search looks at, and queries of one search."""


@dataclass(frozen=True, slots=True)
class StreamPage:
    """A page of streams, by name.

    Attributes:
        after: hand this over for the next page; None: this is the last one.
    """

    streams: Sequence[StreamInfo]
    after: str | None


@dataclass(frozen=True, slots=True)
class EventSearch:
    """Which events to look for; all that is given must be true of an event.

    Attributes:
        stream: its name, exactly.
        category: the part of the stream's name before the first ``-``; the whole name of one without.
        types: one of these; *tags*: all of these.
        since, until: of `recorded_at`, inclusive and exclusive.

    Raises (by `search_events`):
        InvalidSelector: a name is empty, too long, or holds what no text can.
        ConfigurationError: a time has no zone.
    """

    stream: str | None = None
    category: str | None = None
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """What a search has found, newest first.

    Attributes:
        scanned: the log was looked at down to this position (exclusive); 0: to its beginning.
        before: hand this over to go on; None: there is nothing more to be found. A page with no events and *before*
            means that time was over: "nothing between *scanned* and there, go on?".
        horizon: position up to which readers see everything.
    """

    events: Sequence[Event]
    scanned: int
    before: int | None
    horizon: int


@dataclass(frozen=True, slots=True)
class EventDetail:
    """One event and its neighbours.

    Attributes:
        event: None: its content was scavenged.
        position: of the event.
        previous, following: positions of the events before and after it in the log; None: there is none.
        previous_in_stream, following_in_stream: the same within its stream.
    """

    event: Event | None
    position: int
    previous: int | None
    following: int | None
    previous_in_stream: int | None
    following_in_stream: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """An event on a timeline; *created_at* is the caller's time of the fact, long before *recorded_at* in imports."""

    version: int
    position: int
    type: str
    recorded_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """The newest events of a stream.

    Attributes:
        points: oldest first.
        types: how many of *points* are of each type, the most first.
        more: there are older events.
    """

    stream: StreamInfo
    points: Sequence[Point]
    types: dict[str, int]
    more: bool


async def list_streams(
    database: Database,
    *,
    prefix: str = "",
    category: str = "",
    after: str = "",
    limit: int = 50,
    include_deleted: bool = False,
) -> StreamPage:
    """Return streams by name; one query, or two for the first page of a category.

    Args:
        prefix: what names begin with; *category*: what stands before their first ``-``. One of them, or none.
        after: only names that sort behind this one (by code point).
        include_deleted: also those that are deleted or tombstoned.

    Raises:
        ConfigurationError: both a prefix and a category are given, or the limit is not from 1 to 500.
        InvalidEvent: no stream's name can begin like that.
    """
    check_limit(limit)
    if prefix and category:
        raise ConfigurationError("give a prefix or a category, not both")
    for name in filter(None, (prefix, category, after)):
        check_stream_name(name)
    found = []
    if category and not after:
        # The one stream of a category that has no dash, before all others by code point.
        alone = await stream_info(database, category)
        found = [alone] if alone is not None and (include_deleted or (alone.state == "live" and alone.version)) else []
    start = f"{category}-" if category else prefix
    rows = await database.rows("list_streams_v1", start, after, limit + 1 - len(found), include_deleted)
    found += [info_of(row) for row in rows]
    return StreamPage(found[:limit], found[limit - 1].name if len(found) > limit else None)


async def search_events(
    database: Database,
    search: EventSearch | None = None,
    *,
    before: int | None = None,
    limit: int = 50,
    within: float = WITHIN,
    clock: Callable[[], float] = monotonic,
) -> EventPage:
    """Return the newest events that fit, before a position; at most five queries.

    Args:
        before: exclusive position, `EventPage.before` of the last page; None: from the horizon down.
        limit: 1 to 500.
        within: seconds after which it returns what it has.
        clock: seconds that only go forward.

    Raises:
        InvalidSelector, ConfigurationError: as `EventSearch`, or a bound is none.
    """
    check_limit(limit)
    if before is not None:
        check_position("before", before)
    search, until = search or EventSearch(), clock() + within
    selector, after, upto = _selector(search), 0, None
    if search.since is not None or search.until is not None:
        after, before, upto = await _bounds(database, search, before)
    found: list[Event] = []
    window, scanned = Window(FIRST_WINDOW, clock), before
    for _ in range(MOST_QUERIES):
        read = partial(_page, database, selector, search, after, scanned, limit + 1 - len(found), upto)
        page = await window.read(read, limit + 1 - len(found))
        upto = page.horizon
        found += [one for one in page.events if _in_category(one, search.category)]
        # A full page ends at its last event, which `before` leaves out; otherwise the window was looked through to
        # its end, which is exclusive like `after`.
        full = bool(page.events) and page.events[-1].position == page.scanned
        scanned = page.scanned if full else page.scanned + 1
        if len(found) > limit:
            return EventPage(found[:limit], found[limit - 1].position, found[limit - 1].position, upto)
        if scanned - 1 <= after:
            return EventPage(found, after, None, upto)
        if clock() >= until:
            break
    assert scanned is not None
    assert upto is not None
    return EventPage(found, scanned - 1, scanned, upto)


async def _page(
    database: Database,
    selector: Selector,
    search: EventSearch,
    after: int,
    before: int | None,
    limit: int,
    upto: int | None,
    window: int,
) -> Page:
    return await read_page(
        database,
        selector,
        after=after,
        before=before,
        since=search.since,
        until=search.until,
        backwards=True,
        limit=limit,
        window=window,
        upto=upto,
    )


async def _bounds(database: Database, search: EventSearch, before: int | None) -> tuple[int, int, int]:
    """Return between which positions, both exclusive, the times can lie, and the horizon."""
    for name, time in (("since", search.since), ("until", search.until)):
        if time is not None:
            check_time(name, time)
    ((low, high, horizon),) = await database.rows("time_bounds_v1", search.since, search.until)
    return low, high + 1 if before is None else min(before, high + 1), horizon


def _selector(search: EventSearch) -> Selector:
    parts: list[Selector] = []
    if search.stream is not None:
        parts.append(Stream(search.stream))
    if search.category is not None:
        check_stream_name(search.category)
        # Names that no glob can tell apart from it are sorted out below.
        parts.append(Stream(search.category) | EventPattern(search.category.replace("*", "?") + "-*"))
    if search.types:
        parts.append(EventType(*search.types))
    if search.tags:
        parts.append(Tags(*search.tags))
    chosen: Selector = All()
    for number, part in enumerate(parts):
        chosen = chosen & part if number else part
    return chosen


def _in_category(event: Event, category: str | None) -> bool:
    return category is None or (event.stream or "").partition("-")[0] == category


async def read_event(database: Database, which: int | UUID) -> EventDetail | None:
    """Return the event at a position, or with an id, also beyond the horizon; one query. None: there is none."""
    if not isinstance(which, UUID):
        check_position("position", which)
    position, id = (None, which) if isinstance(which, UUID) else (which, None)
    rows = await database.rows("event_detail_v1", position, id)
    if not rows:
        return None
    row = rows[0]
    event = to_events(rows)[0] if row["data"] is not None else None
    names = ("position", "previous", "following", "previous_in_stream", "following_in_stream")
    return EventDetail(event, *(row[name] for name in names))


async def read_timeline(database: Database, stream: str, *, limit: int = 500) -> Timeline | None:
    """Return the newest events of a stream without their data; two queries. None: there is no such stream.

    Args:
        limit: 1 to 5,000.

    Raises:
        InvalidEvent: the name breaks a rule.
    """
    check_limit(limit, 5_000)
    info = await stream_info(database, stream)
    if info is None:
        return None
    rows = await database.rows("stream_timeline_v1", stream, limit + 1)
    points = [_point(row) for row in reversed(rows[:limit])]
    return Timeline(info, points, dict(Counter(one.type for one in points).most_common()), len(rows) > limit)


def _point(row: asyncpg.Record) -> Point:
    times = (to_datetime(row[name]) for name in ("recorded_at", "created_at"))
    return Point(row["version"], row["position"], row["type"], *times)
