from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventstore import All, Event, EventPattern, EventPayload, EventStore, EventType, NewEvent, Settings, Stream, Tags
from eventstore.errors import ConfigurationError, InvalidEvent
from eventstore.log.read import Page, Reading, Window
from eventstore.selectors import Selector


async def fill(store: EventStore, count: int = 25) -> None:
    batch = [NewEvent(type="AB"[n % 2], data={"n": n}, tags=[f"t{n % 3}", f"n{n % 5}"]) for n in range(count)]
    await store.append_known([f"s{n % 2}" for n in range(count)], batch)


@pytest.fixture
async def small_pages(db: str):  # type: ignore[no-untyped-def]
    async with EventStore(db, settings=Settings(page_size=4, scan_window=3, listen=False)) as store:
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
    assert [info.name async for info in small_pages.streams()] == ["order-%", "s0", "s1"]
    assert [(info.name, info.version) async for info in small_pages.streams("s")] == [("s0", 13), ("s1", 12)]
    assert [info async for info in small_pages.streams("order-_")] == []


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


# -- every kind of selector


KINDS = [
    All(),
    Stream("s1"),
    EventType("A"),
    EventType("A", "C"),
    Tags("t1"),
    Tags("t1", "n3"),
    Tags("t1", "n3", match="any"),
    EventPattern("s*"),
    EventPattern({"type": "B", "version": {"$gt": 4}}),
    EventPayload({"n": {"$gte": 7, "$lt": 20}}),
    Stream("s1") & EventType("B") & Tags("t2"),
    Tags("n3") | EventType("A") & Tags("t0") | Stream("s1"),
    (Tags("n3") | Tags("t1")) & EventPayload({"n": {"$lt": 9}}),
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("selector", KINDS, ids=str)
async def test_every_selector_finds_in_windows_what_it_matches_in_memory(
    small_pages: EventStore, selector: Selector, backwards: bool
) -> None:
    every = [event async for event in small_pages.read_all(backwards=backwards)]
    expected = [event for event in every if selector.matches(event)]
    assert expected
    assert [event async for event in small_pages.read_all(selector, backwards=backwards)] == expected
    between = [event for event in expected if 4 < event.position < 21][:6]
    reading = small_pages.read_all(selector, after=4, before=21, limit=6, backwards=backwards)
    assert [event async for event in reading] == between


# -- events


async def test_events_are_built_equal_frozen_and_of_their_own_class(small_pages: EventStore) -> None:
    (event,) = [one async for one in small_pages.read("s0", limit=1)]
    assert type(event) is Event
    assert event == replace(event) == pickle.loads(pickle.dumps(event))
    with pytest.raises(FrozenInstanceError):
        event.data = 1  # type: ignore[misc]


async def test_long_integers_in_one_event_of_a_page_stay_integers(store: EventStore) -> None:
    values: list[Any] = [1, 2**64, -(10**30), "9" * 40, 0.1234567890123456789]
    await store.append("s", [NewEvent("A", value, metadata={"n": 10**20}) for value in values])
    events = [event async for event in store.read("s")]
    assert [event.data for event in events] == values
    assert {event.metadata["n"] for event in events} == {10**20}


async def change(sql: asyncpg.Connection, statement: str) -> None:
    """Change stored events, which their triggers refuse otherwise."""
    await sql.execute(f"set session_replication_role = replica; {statement}; set session_replication_role = origin")


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("selector", KINDS, ids=str)
async def test_what_scavenging_left_of_an_event_is_no_event(
    small_pages: EventStore, sql: asyncpg.Connection, selector: Selector, backwards: bool
) -> None:
    every = [event async for event in small_pages.read_all(selector, backwards=backwards)]
    await change(sql, "update eventstore.events set data = null where position % 5 <> 0")
    left = [event async for event in small_pages.read_all(selector, backwards=backwards)]
    assert left == [event for event in every if event.position % 5 == 0]
    fed = await sql.fetch("select position from eventstore.read_feed()")
    assert [row["position"] for row in fed] == [5, 10, 15, 20, 25]


# -- windows


class Clock:
    """Each look takes as long as the next entry says."""

    def __init__(self, *seconds: float) -> None:
        self._looks = [time for one in seconds for time in (0.0, one)]

    def __call__(self) -> float:
        return self._looks.pop(0)


@pytest.mark.parametrize(
    ("seconds", "found", "sizes"),
    [
        ((0.01, 0.01), 0, [400, 1600]),
        ((0.1, 0.1), 0, [100, 100]),
        ((0.3, 0.3, 0.3, 0.3), 0, [25, 6, 6, 6]),
        ((0.01, 0.01), 5, [100, 100]),
        ((0.3, 0.01), 5, [25, 25]),
    ],
)
async def test_a_window_grows_while_it_is_quick_and_empty_and_shrinks_when_it_is_slow(
    seconds: tuple[float, ...], found: int, sizes: list[int]
) -> None:
    window, asked = Window(100, Clock(*seconds)), []

    async def page(size: int) -> Page:
        asked.append(size)
        return Page([None] * found, 0, 0, 0)  # type: ignore[list-item]

    for size in sizes:
        await window.read(page, limit=5)
        assert window.size == size
    assert asked == [100, *sizes[:-1]]


async def test_a_window_has_an_upper_limit() -> None:
    window = Window(Window.MOST // 2, Clock(0, 0))
    for _ in range(2):
        await window.read(lambda _: asyncio.sleep(0, Page([], 0, 0, 0)), limit=5)
    assert window.size == Window.MOST


class Calls:
    """Takes note of the calls of a store's SQL functions; `before` runs ahead of each."""

    def __init__(self, store: EventStore) -> None:
        self.made: list[tuple[Any, ...]] = []
        self._rows, store._database.rows = store._database.rows, self  # type: ignore[method-assign,assignment]

    async def __call__(self, function: str, *args: Any, **named: Any) -> list[asyncpg.Record]:
        self.made.append((function, *args))
        await self.before()
        return await self._rows(function, *args, **named)

    async def before(self) -> None:
        pass

    @property
    def windows(self) -> list[int]:
        return [call[8] for call in self.made if call[0] == "read_events_v1"]


async def test_a_slow_payload_is_looked_for_in_windows_that_stay_small(store: EventStore) -> None:
    await fill(store, 100)
    calls = Calls(store)
    looks = iter(range(1000))
    reading = Reading(
        store._database, EventPayload({"n": 99}), page_size=1, window=16, clock=lambda: float(next(looks))
    )
    assert [event.data async for event in reading] == [{"n": 99}]
    assert max(calls.windows) == 16
    assert len(calls.windows) > 50


async def test_positions_that_nothing_stands_at_cost_no_queries(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", [NewEvent("A")])
    await sql.execute("select setval('eventstore.event_positions', 1::bigint << 52)")
    await store.append("s", [NewEvent("A")])
    for backwards in (False, True):
        calls = Calls(store)
        assert len([e async for e in store.read_all(EventType("A"), backwards=backwards)]) == 2
        assert len(calls.windows) <= 3


async def test_read_feed_goes_on_until_it_has_what_was_asked_for(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", [NewEvent("A", n) for n in range(3)])
    await sql.execute("select setval('eventstore.event_positions', 100000)")
    await store.append("s", [NewEvent("A", n) for n in range(3)])
    query = """select array_agg(position) from eventstore.read_feed(max_count => $1,
        selector => '{"kind": "event_payload", "pattern": {"$gte": 1}}')"""
    assert await sql.fetchval(query, 3) == [2, 3, 100002]
    assert await sql.fetchval(query, None) == [2, 3, 100002, 100003]


# -- times


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kept", [1, 7])
async def test_times_are_exact_however_they_lie_across_positions(
    small_pages: EventStore, sql: asyncpg.Connection, backwards: bool, kept: int
) -> None:
    shuffled = f"timestamptz '2026-01-01Z' + position * {kept} % 25 * interval '1 second'"
    await change(sql, f"update eventstore.events set recorded_at = {shuffled}")
    every = [event async for event in small_pages.read_all(backwards=backwards)]
    for low, high in [(0, 25), (3, 4), (5, 21), (24, 30), (30, 40), (9, 2)]:
        since, until = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=one) for one in (low, high))
        expected = [event for event in every if since <= event.recorded_at < until]
        reading = small_pages.read_all(since=since, until=until, backwards=backwards)
        assert [event async for event in reading] == expected
        assert reading.horizon == 25
        later = [event async for event in small_pages.read_all(EventType("A"), since=since, backwards=backwards)]
        assert later == [event for event in every if event.recorded_at >= since and event.type == "A"]


async def test_an_append_in_flight_is_not_lost_between_times(store: EventStore, sql: asyncpg.Connection) -> None:
    (first, *_) = [await store.append("s", [NewEvent("A")]) for _ in range(3)]
    (since,) = [event.recorded_at async for event in store.read_all(after=first.position, limit=1)]
    async with sql.transaction():
        await sql.execute("select eventstore.append_events('t', '[{\"type\": \"Slow\"}]')")
        await store.append("s", [NewEvent("A")])
        reading = store.read_all(since=since)
        assert [event.position async for event in reading] == [2, 3]
    after = [event.type async for event in store.read_all(since=since, after=reading.horizon)]
    assert after == ["Slow", "A"]


# -- reading ahead, and giving up


async def test_who_takes_a_few_events_causes_one_query(small_pages: EventStore) -> None:
    calls = Calls(small_pages)
    async for _ in small_pages.read_all():
        break
    async for _ in small_pages.read("s0", limit=4):
        pass
    assert [call[0] for call in calls.made] == ["read_events_v1", "read_stream_v1"]


@pytest.mark.parametrize("whole", [True, False])
async def test_an_iteration_that_ends_early_ends_what_it_reads_ahead(small_pages: EventStore, whole: bool) -> None:
    calls, ended = Calls(small_pages), asyncio.Event()

    async def hang() -> None:
        if len(calls.made) == 3:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    calls.before = hang  # type: ignore[method-assign]
    events = aiter(small_pages.read_all() if whole else small_pages.read("s0"))
    for _ in range(5):
        await anext(events)
    assert len(calls.made) == 3
    await events.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()
    assert not [task for task in asyncio.all_tasks() if "_next" in repr(task.get_coro())]


async def test_what_fails_ahead_is_raised_after_the_events_before_it(small_pages: EventStore) -> None:
    calls = Calls(small_pages)

    async def fail() -> None:
        if len(calls.made) == 3:
            raise RuntimeError("planted")

    calls.before = fail  # type: ignore[method-assign]
    events = aiter(small_pages.read_all())
    seen = [(await anext(events)).position for _ in range(8)]
    with pytest.raises(RuntimeError, match="planted"):
        await anext(events)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_page_that_takes_too_long_times_out_and_the_store_goes_on(
    small_pages: EventStore, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("lock table eventstore.events in access exclusive mode")
        for events in (
            small_pages.read("s0", timeout=0.05),
            aiter(small_pages.read_all(timeout=0.05)),
            aiter(small_pages.read_all(since=datetime.now(UTC), timeout=0.05)),
        ):
            with pytest.raises(TimeoutError):
                await anext(events)
    assert len([event async for event in small_pages.read_all(timeout=30)]) == 25
    assert len([event async for event in small_pages.read("s0", timeout=30)]) == 13


async def test_the_time_the_caller_takes_counts_for_no_page(small_pages: EventStore) -> None:
    """It takes longer over each page than that may take; where a page itself takes so long, all may take longer."""
    timeout, seen = 0.2, False
    while not seen:
        assert timeout < 30
        with suppress(TimeoutError):
            async for _ in small_pages.read_all(timeout=timeout, limit=12):
                await asyncio.sleep(timeout / 3)
            seen = True
        timeout *= 2


@pytest.mark.parametrize("timeout", [0, -1, "1", True])
async def test_a_bad_timeout_is_refused(store: EventStore, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        store.read_all(timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout"):
        store.read("s", timeout=timeout)
