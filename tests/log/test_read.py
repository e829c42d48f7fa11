from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from eventstore import All, EventPayload, EventStore, EventType, NewEvent, Settings, Stream, Tags
from eventstore.errors import ConfigurationError, InvalidEvent


async def fill(store: EventStore, count: int = 25) -> None:
    batch = [NewEvent(type="AB"[n % 2], data={"n": n}, tags=[f"t{n % 3}"]) for n in range(count)]
    await store.append_known([f"s{n % 2}" for n in range(count)], batch)


@pytest.fixture
async def small_pages(db: str):  # type: ignore[no-untyped-def]
    async with EventStore(db, settings=Settings(page_size=4, scan_window=3)) as store:
        await fill(store)
        yield store


async def test_a_stream_is_read_in_both_directions_between_exclusive_bounds(small_pages: EventStore) -> None:
    forward = [event.version async for event in small_pages.read("s0", after=2, before=9)]
    assert forward == [3, 4, 5, 6, 7, 8]
    backward = [event.version async for event in small_pages.read("s0", after=2, before=9, backwards=True)]
    assert backward == forward[::-1]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 4, 5, 100])
async def test_a_limit_counts_events_in_either_direction(small_pages: EventStore, limit: int, backwards: bool) -> None:
    by_version = [e.version async for e in small_pages.read("s0", limit=limit, backwards=backwards)]
    by_position = [e.position async for e in small_pages.read_all(limit=limit, backwards=backwards)]
    every = list(range(1, 14))[::-1] if backwards else list(range(1, 14))
    assert by_version == every[:limit]
    assert len(by_position) == min(limit, 25)
    assert by_position == sorted(by_position, reverse=backwards)


async def test_an_unknown_stream_is_empty(store: EventStore) -> None:
    assert [event async for event in store.read("nothing")] == []


@pytest.mark.parametrize("backwards", [False, True])
async def test_sparse_matches_are_found_across_windows(small_pages: EventStore, backwards: bool) -> None:
    found = [
        e.data["n"] async for e in small_pages.read_all(EventPayload({"n": {"$in": [1, 20]}}), backwards=backwards)
    ]
    assert found == ([20, 1] if backwards else [1, 20])


@pytest.mark.parametrize("backwards", [False, True])
async def test_bounds_of_a_selective_reading_are_exclusive(small_pages: EventStore, backwards: bool) -> None:
    reading = small_pages.read_all(EventType("A"), after=3, before=12, backwards=backwards)
    found = [event.position async for event in reading]
    assert sorted(found) == [5, 7, 9, 11]
    assert found == sorted(found, reverse=backwards)


async def test_selectors_combine(small_pages: EventStore) -> None:
    found = [e.data["n"] async for e in small_pages.read_all((Stream("s0") & Tags("t1")) | EventPayload({"n": 3}))]
    assert found == [n for n in range(25) if (n % 2 == 0 and n % 3 == 1) or n == 3]


async def test_a_reading_ends_at_the_horizon_of_its_start(small_pages: EventStore) -> None:
    reading = small_pages.read_all(All())
    seen = []
    async for event in reading:
        if not seen:
            await small_pages.append("late", [NewEvent(type="Late")])
        seen.append(event.position)
    assert len(seen) == 25
    assert reading.horizon == seen[-1]


async def test_times_go_by_the_database_and_since_is_inclusive(store: EventStore) -> None:
    await store.append("s", [NewEvent(type="Old", created_at=datetime(2001, 1, 1, tzinfo=UTC))])
    (old,) = [event async for event in store.read_all()]
    since = [e async for e in store.read_all(since=old.recorded_at)]
    until = [e async for e in store.read_all(until=old.recorded_at)]
    later = [e async for e in store.read_all(since=old.recorded_at + timedelta(microseconds=1))]
    assert (since, until, later) == ([old], [], [])


async def test_streams_are_listed_by_prefix_in_pages(small_pages: EventStore) -> None:
    await small_pages.append("order-%", [NewEvent(type="A")])
    assert [name async for name, _, _ in small_pages.streams()] == ["order-%", "s0", "s1"]
    assert [(n, v) async for n, v, _ in small_pages.streams("s")] == [("s0", 13), ("s1", 12)]
    assert [name async for name, _, _ in small_pages.streams("order-_")] == []


@pytest.mark.parametrize("bounds", [{"after": -1}, {"limit": -1}, {"after": True}, {"before": "x"}, {"after": 1 << 63}])
async def test_bad_bounds_are_refused(store: EventStore, bounds: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        store.read_all(**bounds)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        [event async for event in store.read("s", **bounds)]  # type: ignore[arg-type]


async def test_a_bad_stream_name_is_refused_when_reading(store: EventStore) -> None:
    with pytest.raises(InvalidEvent):
        [event async for event in store.read("")]


async def test_a_reading_without_a_time_zone_is_refused(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        store.read_all(since=datetime(2026, 1, 1))
