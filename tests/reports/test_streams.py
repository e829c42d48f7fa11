"""Looking for streams and events, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from eventstore.errors import ConfigurationError, InvalidEvent, InvalidSelector
from eventstore.log.streams import StreamMetadata
from eventstore.reports import streams
from eventstore.reports.streams import EventSearch, list_streams, read_event, read_timeline, search_events
from tests.reports.conftest import aged, queries


async def names(store: EventStore, **asked: Any) -> tuple[list[str], str | None]:
    page = await list_streams(store.database, **asked)
    return [one.name for one in page.streams], page.after


async def append(store: EventStore, *names: str) -> None:
    for name in names:
        await store.append(name, [NewEvent(type="A")])


async def test_streams_are_listed_by_prefix_page_by_page(store: EventStore) -> None:
    await append(store, "a-1", "a-2", "a-3", "b-1")
    assert await names(store, prefix="a", limit=2) == (["a-1", "a-2"], "a-2")
    assert await names(store, prefix="a", limit=2, after="a-2") == (["a-3"], None)
    assert await names(store, limit=4) == (["a-1", "a-2", "a-3", "b-1"], None)


async def test_a_category_is_what_stands_before_the_first_dash(store: EventStore) -> None:
    await append(store, "order", "order-1", "order-1-b", "orders-1", "order_x", "other-order-1")
    assert await names(store, category="order") == (["order", "order-1", "order-1-b"], None)
    assert await names(store, category="order", limit=1) == (["order"], "order")
    assert await names(store, category="order", limit=1, after="order") == (["order-1"], "order-1")
    assert await names(store, category="orde") == ([], None)


async def test_deleted_streams_are_listed_on_request(store: EventStore) -> None:
    await append(store, "x", "x-1")
    await store.delete_stream("x")
    await store.delete_stream("x-1")
    assert await names(store, category="x") == ([], None)
    assert await names(store, category="x", include_deleted=True) == (["x", "x-1"], None)


async def test_a_prefix_and_a_category_are_refused_together(store: EventStore) -> None:
    with pytest.raises(ConfigurationError):
        await names(store, prefix="a", category="b")
    with pytest.raises(InvalidEvent):
        await names(store, prefix="\0")


# -- events


async def found(store: EventStore, search: EventSearch | None = None, **asked: Any) -> list[int]:
    page = await search_events(store.database, search, within=60, **asked)  # nobody waits for these
    return [event.position for event in page.events]


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    ("search", "positions"),
    [
        (EventSearch(), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (EventSearch(stream="order-1"), [8, 5, 2]),
        (EventSearch(category="order", types=("T0",)), [9, 7, 5, 3, 1]),
        (EventSearch(types=("T0", "T1"), tags=("n:4",)), [5]),
        (EventSearch(category="orde"), []),
        (EventSearch(stream="order-1", category="other"), []),
    ],
)
async def test_all_that_is_given_must_be_true(store: EventStore, search: EventSearch, positions: list[int]) -> None:
    assert await found(store, search) == positions


async def test_a_category_with_signs_of_patterns_is_taken_literally(store: EventStore) -> None:
    await append(store, "a*-1", "ab-1", "abc-1", "a?-1", "a*")
    assert await found(store, EventSearch(category="a*")) == [5, 1]
    assert await found(store, EventSearch(category="a?")) == [4]


@pytest.mark.usefixtures("events")
async def test_pages_go_back_to_the_first_event(store: EventStore) -> None:
    search, pages, before = EventSearch(category="order"), [], None
    while len(pages) < 9:
        page = await search_events(store.database, search, before=before, limit=4, within=60)
        pages.append([event.position for event in page.events])
        if (before := page.before) is None:
            break
    assert pages == [[10, 9, 8, 7], [6, 5, 4, 3], [2, 1]]
    assert (page.scanned, page.horizon) == (0, 10)


@pytest.mark.usefixtures("events")
async def test_times_bound_it_and_pages_keep_to_them(store: EventStore, sql: asyncpg.Connection) -> None:
    await aged(sql, 6, 3600)
    hour = EventSearch(since=datetime.now(UTC) - timedelta(minutes=10))
    assert await found(store, hour) == [10, 9, 8, 7]
    assert await found(store, hour, before=9) == [8, 7]
    assert await found(store, EventSearch(until=hour.since, types=("T0",))) == [5, 3, 1]
    with pytest.raises(ConfigurationError):
        await found(store, EventSearch(since=datetime(2026, 1, 1)))


def ticking(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


async def test_when_time_is_over_it_tells_how_far_it_came(
    store: EventStore, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FIRST_WINDOW", 100)
    await append(store, "found-1")
    for batch in range(10):
        await store.append(f"bulk-{batch}", [NewEvent(type="B") for _ in range(100)])
    clock = ticking(1.0)
    search, asked = EventSearch(types=("A",)), {"limit": 5, "clock": lambda: next(clock)}
    first = await search_events(store.database, search, **asked)
    assert (first.events, first.scanned, first.before) == ([], 901, 902)
    before, looks = first.before, 1
    while before is not None:
        page = await search_events(store.database, search, before=before, **asked)
        before, looks = page.before, looks + 1
    assert ([event.position for event in page.events], page.scanned, looks) == ([1], 0, 11)


async def test_a_search_takes_five_queries_at_most(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_WINDOW", 10)
    for batch in range(10):
        await store.append(f"bulk-{batch}", [NewEvent(type="B") for _ in range(100)])
    search = EventSearch(types=("A",), since=datetime.now(UTC) - timedelta(days=1))
    assert await queries(store.database, search_events(store.database, search, limit=1, within=60)) <= 5


@pytest.mark.parametrize("search", [EventSearch(stream=""), EventSearch(types=("",)), EventSearch(tags=("\0",))])
async def test_names_that_cannot_be_are_refused(store: EventStore, search: EventSearch) -> None:
    with pytest.raises(InvalidSelector):
        await found(store, search)


# -- one event


@pytest.mark.usefixtures("events")
async def test_an_event_is_found_by_position_and_by_id_with_its_neighbours(store: EventStore) -> None:
    detail = await read_event(store.database, 5)
    assert detail is not None
    assert detail.event is not None
    assert (detail.event.stream, detail.event.version, detail.event.tags) == ("order-1", 2, ("n:4",))
    assert (detail.previous, detail.following) == (4, 6)
    assert (detail.previous_in_stream, detail.following_in_stream) == (2, 8)
    assert await read_event(store.database, detail.event.id) == detail


@pytest.mark.usefixtures("events")
async def test_the_first_and_the_last_event_have_one_neighbour(store: EventStore) -> None:
    first, last = await read_event(store.database, 1), await read_event(store.database, 10)
    assert first is not None
    assert last is not None
    assert (first.previous, first.previous_in_stream) == (last.following, last.following_in_stream) == (None, None)


@pytest.mark.parametrize("which", [0, 99, uuid4()])
async def test_there_need_be_no_event(store: EventStore, which: int | UUID) -> None:
    assert await read_event(store.database, which) is None


@pytest.mark.usefixtures("events")
async def test_a_scavenged_event_has_no_content_and_is_nobodys_neighbour(store: EventStore) -> None:
    await store.set_stream_metadata("order-1", StreamMetadata(max_count=1))
    await store.scavenge()
    detail, next_one = await read_event(store.database, 5), await read_event(store.database, 6)
    assert detail is not None
    assert next_one is not None
    assert (detail.event, detail.position, next_one.previous) == (None, 5, 4)


# -- a timeline


@pytest.mark.usefixtures("events")
async def test_a_timeline_has_the_newest_events_in_order(store: EventStore) -> None:
    line = await read_timeline(store.database, "order-0", limit=3)
    assert line is not None
    assert [(one.version, one.position, one.type) for one in line.points] == [(2, 4, "T1"), (3, 7, "T0"), (4, 10, "T1")]
    assert (line.types, line.more, line.stream.version) == ({"T1": 2, "T0": 1}, True, 4)


async def test_a_timeline_knows_when_what_was_imported_happened(store: EventStore) -> None:
    then = datetime(2019, 1, 31, tzinfo=UTC)
    await store.append("old", [NewEvent("Opened", {}, created_at=then)])
    line = await read_timeline(store.database, "old")
    assert line is not None
    assert (line.points[0].created_at, line.points[0].recorded_at > then) == (then, True)


@pytest.mark.usefixtures("events")
async def test_a_timeline_shows_what_readers_of_the_stream_see(store: EventStore) -> None:
    await store.set_stream_metadata("order-0", StreamMetadata(truncate_before=3))
    line = await read_timeline(store.database, "order-0")
    assert line is not None
    assert ([one.version for one in line.points], line.more) == ([3, 4], False)
    assert await read_timeline(store.database, "none") is None
