from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    DatabaseUnavailable,
    DuplicateEventId,
    EventStore,
    InvalidEvent,
    NewEvent,
    StreamAppend,
    WrongExpectedVersion,
)
from eventstore.errors import ConfigurationError, OutcomeUnknown


def events(*types: str) -> list[NewEvent]:
    return [NewEvent(type=kind, data={"type": kind}) for kind in types]


async def test_an_append_tells_where_its_events_stand(store: EventStore) -> None:
    result = await store.append("order-1", events("A", "B"), expected=NO_STREAM)
    assert (result.stream, result.first_version, result.version, result.idempotent) == ("order-1", 1, 2, False)
    assert 0 < result.first_position < result.position == await store.head()


async def test_an_event_comes_back_as_it_was(store: EventStore) -> None:
    created = datetime(2020, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    new = NewEvent(
        type='T"\\é',
        data={"n": [2**80, -0.0, 1e16, None, "\U0001f600"]},
        metadata={"by": "me"},
        tags=['a"b', "c\\d", "e,f", "{}", "é", "NULL", " "],
        created_at=created,
    )
    await store.append("s", [new])
    (event,) = [event async for event in store.read("s")]
    assert (event.id, event.type, event.data, event.metadata) == (new.id, new.type, new.data, new.metadata)
    assert (event.tags, event.created_at, event.stream, event.version) == (new.tags, created, "s", 1)
    assert abs((datetime.now(UTC) - event.recorded_at).total_seconds()) < 60


@pytest.mark.parametrize(("expected", "actual"), [(NO_STREAM, 2), (1, 2), (3, 2)])
async def test_another_version_than_expected_is_refused(store: EventStore, expected: int, actual: int) -> None:
    await store.append("s", events("A", "B"))
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append("s", events("C"), expected=expected)
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", expected, actual)


async def test_what_is_expected_of_a_missing_stream(store: EventStore) -> None:
    for expected in (STREAM_EXISTS, 1):
        with pytest.raises(WrongExpectedVersion):
            await store.append("s", events("A"), expected=expected)
    assert [one async for one in store.streams()] == []
    assert (await store.append("s", events("A"), expected=ANY)).version == 1
    assert (await store.append("s", events("B"), expected=STREAM_EXISTS)).version == 2
    assert (await store.append("s", events("C"), expected=2)).version == 3


async def test_repeating_an_append_returns_its_first_result(store: EventStore) -> None:
    batch = events("A", "B")
    first = await store.append("s", batch, expected=NO_STREAM)
    await store.append("s", events("C"))
    again = await store.append("s", batch, expected=NO_STREAM)
    assert again.idempotent
    assert (again.first_version, again.version) == (first.first_version, first.version)
    assert (again.first_position, again.position) == (first.first_position, first.position)
    assert len([event async for event in store.read("s")]) == 3


async def test_an_id_with_other_content_is_refused(store: EventStore) -> None:
    first = NewEvent(type="A", data=1, tags=["t"])
    await store.append("s", [first])
    for other in (
        NewEvent(id=first.id, type="B", data=1, tags=["t"]),
        NewEvent(id=first.id, type="A", data=2, tags=["t"]),
        NewEvent(id=first.id, type="A", data=1, tags=["u"]),
        NewEvent(id=first.id, type="A", data=1, tags=["t"], metadata={"x": 1}),
    ):
        with pytest.raises(DuplicateEventId, match=str(first.id)):
            await store.append("s", [other])
    with pytest.raises(DuplicateEventId):
        await store.append("another stream", [first])


async def test_a_part_or_another_order_of_stored_events_is_refused(store: EventStore) -> None:
    a, b, c = events("A", "B", "C")
    await store.append("s", [a, b])
    for batch in ([b, a], [a, b, c], [c, a]):
        with pytest.raises(DuplicateEventId):
            await store.append("s", batch)
    assert len([event async for event in store.read("s")]) == 2


async def test_created_at_does_not_count_as_content(store: EventStore) -> None:
    first = NewEvent(type="A")
    await store.append("s", [first])
    again = NewEvent(type="A", id=first.id, created_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert (await store.append("s", [again])).idempotent


async def test_the_same_id_twice_at_the_same_time_in_two_streams_is_stored_once(store: EventStore) -> None:
    event = NewEvent(type="A")
    results = await asyncio.gather(*(store.append(f"s{n}", [event]) for n in range(8)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(r, DuplicateEventId) for r in results if isinstance(r, BaseException))


@pytest.mark.parametrize(
    ("stream", "batch", "expected"),
    [
        ("", events("A"), ANY),
        ("x" * 513, events("A"), ANY),
        ("a\0b", events("A"), ANY),
        ("s", [], ANY),
        ("s", [{"type": "A"}], ANY),
        ("s", NewEvent(type="A"), ANY),
        ("s", events("A"), -3),
        ("s", events("A"), True),
        ("s", events("A") * 2, ANY),
        ("s", events(*["A"] * 1001), ANY),
    ],
)
async def test_a_bad_append_is_refused_before_sql(store: EventStore, stream: Any, batch: Any, expected: int) -> None:
    with pytest.raises(InvalidEvent):
        await store.append(stream, batch, expected=expected)
    assert await store.head() == 0


async def test_versions_have_no_gaps_under_concurrent_writers(store: EventStore) -> None:
    outcomes = await asyncio.gather(*(store.append("s", events("A", "B")) for _ in range(40)))
    versions = [event.version async for event in store.read("s")]
    assert versions == list(range(1, 81))
    assert sorted(outcome.version or 0 for outcome in outcomes) == list(range(2, 81, 2))


async def test_exactly_one_of_many_with_the_same_expected_version_wins(store: EventStore) -> None:
    results = await asyncio.gather(
        *(store.append("s", events("A"), expected=NO_STREAM) for _ in range(20)), return_exceptions=True
    )
    losers = [result for result in results if isinstance(result, BaseException)]
    assert len(losers) == 19
    assert all(isinstance(loser, WrongExpectedVersion) for loser in losers)


async def test_an_append_in_the_callers_transaction_is_seen_after_its_commit(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        result = await store.append("s", events("A"), connection=sql)
        assert [event async for event in store.read_all()] == []
        assert await store.head() < result.position
    await store.wait_for(result.position, timeout=60)
    assert [event.position async for event in store.read_all()] == [result.position]


async def test_an_append_is_undone_with_the_callers_transaction(store: EventStore, sql: asyncpg.Connection) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await store.append("s", events("A"), connection=sql)
    await transaction.rollback()
    assert [event async for event in store.read("s")] == []
    assert await store.head() == 1


ONE = "select from append_one_v1('a', -1, gen_random_uuid(), 'A', '{}', '{}', null, now())"
BATCH = """
    select from append_batch_v1(
        array['a', 'b'], array[-1, -1], array[1, 2], array[gen_random_uuid(), gen_random_uuid()], array['A', 'B'],
        array['{}', '{}']::json[], null, null, array[now(), now()], array[$1, null]::jsonb[])
"""
SEVERAL = """
    select from append_events_v1(
        array['a', 'b'], array[-1, -1], array[1, 2], array[gen_random_uuid(), gen_random_uuid()], array['A', 'B'],
        array['{}', '{}']::json[], null, null, array[now(), now()], p_condition => $1)
"""
ITEMS = [{"tags": ["n"]}, {"types": ["N"]}, {"stream": "n"}, {"tags": ["n", "m"]}, {"types": ["N"], "tags": ["n"]}]
CONDITION = json.dumps({"items": ITEMS, "after": 0})


@pytest.mark.parametrize(
    "call", [(ONE,), (BATCH, None), (BATCH, CONDITION), (SEVERAL, None), (SEVERAL, CONDITION)],
    ids=["one", "batch", "batch with a condition", "several", "several with a condition"],
)  # fmt: skip
async def test_an_append_scans_no_log_that_has_grown_since_its_plans_were_made(
    store: EventStore, sql: asyncpg.Connection, call: tuple[Any, ...]
) -> None:
    await sql.execute("set search_path = eventstore")
    await store.append("x", [NewEvent("A", tags=["x"])])
    await sql.execute("analyze events, streams, event_tags")
    for _ in range(10):  # the server keeps a plan from the sixth on
        await sql.fetch(*call)
    await store.append_many([StreamAppend(f"s{n}", [NewEvent("A", tags=[f"t{n}"])]) for n in range(1000)])
    async with sql.transaction():
        await sql.fetch(*call)
        read = "select sum(seq_tup_read) from pg_stat_xact_user_tables where relname ~ '^(event|stream)'"
        assert await sql.fetchval(read) == 0


async def test_a_conflict_leaves_the_callers_transaction_usable(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", events("A"))
    await sql.execute("create table notes (note text)")
    async with sql.transaction():
        await sql.execute("insert into notes values ('before')")
        with pytest.raises(WrongExpectedVersion):
            await store.append("s", events("B"), expected=NO_STREAM, connection=sql)
        await store.append("s", events("B"), expected=1, connection=sql)
        await sql.execute("insert into notes values ('after')")
    assert await sql.fetchval("select count(*) from notes") == 2
    assert [event.type async for event in store.read("s")] == ["A", "B"]


async def test_a_connection_without_a_transaction_is_refused(store: EventStore, sql: asyncpg.Connection) -> None:
    for connection in (sql, "a string"):
        with pytest.raises(ConfigurationError):
            await store.append("s", events("A"), connection=connection)  # type: ignore[arg-type]


async def test_known_events_are_left_out_one_by_one(store: EventStore) -> None:
    a, b, c = events("A", "B", "C")
    assert await store.append_known(["s", "t"], [a, b]) == 2
    assert await store.append_known(["s", "t", "s"], [a, b, c]) == 1
    assert await store.append_known(["s", "t", "s"], [a, b, c]) == 0
    assert [(e.stream, e.type, e.version) async for e in store.read_all()] == [
        ("s", "A", 1),
        ("t", "B", 1),
        ("s", "C", 2),
    ]


async def test_a_known_event_in_another_stream_stops_the_whole_batch(store: EventStore) -> None:
    a, b = events("A", "B")
    await store.append_known(["s"], [a])
    with pytest.raises(DuplicateEventId) as caught:
        await store.append_known(["t", "t"], [b, a])
    assert caught.value.ids == (a.id,)
    assert [event.type async for event in store.read_all()] == ["A"]


async def test_positions_follow_the_order_given_across_streams(store: EventStore) -> None:
    batch = [NewEvent(type=str(n)) for n in range(200)]
    await store.append_known([f"s{n % 7}" for n in range(200)], batch)
    stored = [event async for event in store.read_all()]
    assert [event.type for event in stored] == [str(n) for n in range(200)]
    for name in range(7):
        assert [e.version for e in stored if e.stream == f"s{name}"] == list(range(1, len(range(name, 200, 7)) + 1))


async def test_an_unopened_store_says_how_to_open_it(db: str) -> None:
    with pytest.raises(ConfigurationError, match="async with"):
        await EventStore(db).append("s", [NewEvent(type="A", id=uuid4())])


async def test_an_append_that_says_nothing_happened_is_right(store: EventStore, sql: asyncpg.Connection) -> None:
    """Backends die under load: whatever is not of unknown outcome is stored if acknowledged, and only then."""
    outcomes: dict[UUID, BaseException | None] = {}

    async def write(stream: str) -> None:
        for _ in range(20):
            event = NewEvent(type="A")
            try:
                await store.append(stream, [event])
                outcomes[event.id] = None
            except DatabaseUnavailable as error:
                outcomes[event.id] = error

    writers = asyncio.gather(*(write(f"s{n}") for n in range(4)))
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eventstore'"
    while not writers.done():
        before = len(outcomes)
        await sql.execute(kill)
        while len(outcomes) < before + 3 and not writers.done():
            await asyncio.sleep(0.001)
    await writers
    stored = {row["id"] for row in await sql.fetch("select id from eventstore.events")}
    known = {one: error for one, error in outcomes.items() if not isinstance(error, OutcomeUnknown)}
    assert {one for one, error in known.items() if error is None} == {one for one in known if one in stored}


async def test_cancelling_an_append_again_and_again_leaves_the_callers_transaction_usable(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    rng = random.Random(7)
    for n in range(100):
        async with sql.transaction():
            task = asyncio.create_task(store.append(f"s{n}", [NewEvent(type="A")], connection=sql))
            for _ in range(3):
                await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await sql.fetchval("select 1")
