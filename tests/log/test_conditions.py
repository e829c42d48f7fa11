"""Append conditions: what breaks them, what they wait for, and that no event slips past them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    All,
    AppendCondition,
    AppendConditionFailed,
    EventPattern,
    EventPayload,
    EventStore,
    EventType,
    InvalidEvent,
    InvalidSelector,
    NewEvent,
    Selector,
    Stream,
    StreamAppend,
    StreamDeleted,
    Tags,
    WrongExpectedVersion,
)
from eventstore.errors import ConfigurationError, TransactionConflict
from tests.conftest import QUICK
from tests.hunt.racing import (
    FULL,
    batch,
    connection,
    locked,
    stored_ids,
    stores,
    tagged,
    times,
    unsound,
    waiting_for_locks,
)

SELECTORS: list[Selector] = [
    Tags("x"),
    Tags("x", "y"),
    Tags("x", "missing", match="any"),
    EventType("A"),
    EventType("A", "missing"),
    Stream("s"),
    All(),
    EventType("A") & Tags("x"),
    EventType("A") & Stream("s"),
    Stream("s") & Tags("y", "x"),
    Tags("missing") | Stream("s"),
    (EventType("A") | EventType("B")) & (Tags("x") | Tags("missing")),
]
"""Each of them matches `MATCHED`."""

OTHERS: list[Selector] = [
    Tags("z"),
    Tags("x", "z"),
    Tags("z", "zz", match="any"),
    EventType("B"),
    Stream("t"),
    EventType("B") & Tags("x"),
    EventType("A") & Stream("t"),
    Stream("s") & Stream("t"),
    EventType("A") & EventType("B"),
    Tags("z") | (EventType("B") & Tags("x")),
]
"""None of them does."""


def matched() -> list[NewEvent]:
    return [NewEvent("A", tags=["x", "y"])]


async def test_a_condition_is_broken_by_the_first_event_that_matches_it(store: EventStore) -> None:
    await store.append("s", matched())
    first = await store.append("s", matched())
    await store.append("s", matched())
    for selector in SELECTORS:
        with pytest.raises(AppendConditionFailed) as caught:
            await store.append("t", tagged("new"), condition=AppendCondition(selector, after=1))
        assert caught.value.position == first.position == 2, selector
        known = await store.head()
        result = await store.append("t", tagged("new"), condition=AppendCondition(selector, after=known))
        assert result.position == known + 1, selector


async def test_a_condition_is_not_broken_by_what_it_does_not_match(store: EventStore) -> None:
    await store.append("s", matched())
    for nth, selector in enumerate(OTHERS, 2):
        assert (await store.append(None, tagged("new"), condition=AppendCondition(selector))).position == nth, selector


@pytest.mark.parametrize("form", ["append", "batch"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_matching_event_in_flight_below_a_committed_one_is_waited_for(
    store: EventStore, db: str, sql: asyncpg.Connection, form: str, end: str
) -> None:
    for selector in SELECTORS:
        before = await store.head()
        async with connection(db) as slow:
            await slow.execute("begin")
            if form == "append":
                await store.append("s", matched(), connection=slow)
            else:
                await batch(slow, StreamAppend("s", matched()))
            assert (await store.append("other", [NewEvent("Other")])).position == before + 2
            reading = store.read_all(selector, after=before)
            assert [event async for event in reading] == []
            condition = AppendCondition(selector, after=reading.horizon)
            waiting = asyncio.create_task(store.append(None, [NewEvent("C")], condition=condition))
            await waiting_for_locks(sql)
            assert not waiting.done()
            await slow.execute(end)
        if end == "commit" or selector == All():
            with pytest.raises(AppendConditionFailed) as caught:
                await waiting
            assert caught.value.position == before + (1 if end == "commit" else 2), selector
        else:
            assert (await waiting).position == before + 3, selector


async def test_a_condition_that_waits_longer_than_lock_timeout_is_refused_as_a_conflict(
    db: str, sql: asyncpg.Connection
) -> None:
    name = await sql.fetchval("select quote_ident(current_database())")
    await sql.execute(f"alter database {name} set lock_timeout = '100ms'")
    async with stores(db, 1) as (store,), connection(db) as slow:
        await slow.execute("begin")
        await store.append("s", matched(), connection=slow)
        with pytest.raises(TransactionConflict, match="lock timeout"):
            await store.append(None, tagged("x"), condition=AppendCondition(Tags("x")))
        await slow.execute("rollback")
        await store.append(None, tagged("x"), condition=AppendCondition(Tags("x")))
    assert len(await stored_ids(sql)) == 1


@pytest.mark.hunt
@pytest.mark.skipif(not FULL, reason="waits for five seconds")
async def test_waiting_for_a_condition_ends_by_itself_and_leaves_the_sessions_lock_timeout_alone(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    async with connection(db) as slow:
        await slow.execute("begin")
        await store.append(None, tagged("x"), connection=slow)
        async with asyncio.timeout(20):
            with pytest.raises(TransactionConflict):
                await store.append(None, tagged("x"), condition=AppendCondition(Tags("x")))
    async with sql.transaction():
        await store.append(None, tagged("x"), condition=AppendCondition(Tags("x"), 1), connection=sql)
        assert await sql.fetchval("show lock_timeout") == "0"


async def test_an_append_waits_for_a_condition_that_it_would_break(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    async with connection(db) as holder:
        await holder.execute("begin")
        held = await store.append(None, tagged("y"), condition=AppendCondition(Tags("x")), connection=holder)
        waiting = asyncio.create_task(store.append("s", tagged("x")))
        await waiting_for_locks(sql)
        unrelated = await store.append("t", tagged("z"))
        await holder.execute("commit")
        assert held.position < unrelated.position < (await waiting).position


async def test_two_conditions_of_one_batch_that_meet_never_both_win(store: EventStore, sql: asyncpg.Connection) -> None:
    for first, second in [
        (Tags("x"), Tags("x")),
        (All(), Tags("y")),
        (EventType("T"), All()),
        (Stream("a"), Tags("x")),
    ]:
        after = await store.head()
        parts = [StreamAppend("a", tagged("x")), StreamAppend("b", tagged("x", "y"))]
        conditions = {0: AppendCondition(first, after), 1: AppendCondition(second, after)}
        async with sql.transaction():
            rows = await batch(sql, *parts, conditions=conditions)
        assert [row["outcome"] for row in rows] == ["appended", "busy"], (first, second)


async def test_of_many_concurrent_conditional_appends_exactly_one_wins(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    for selector in (Tags("x"), All(), EventType("T"), Stream("s5"), Tags("x") & EventType("T")):
        condition = AppendCondition(selector, await store.head())
        appends = [
            store.append("s5" if isinstance(selector, Stream) else f"s{n}", tagged("x"), condition=condition)
            for n in range(20)
        ]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        losers = [one for one in outcomes if isinstance(one, BaseException)]
        assert [type(one) for one in losers] == [AppendConditionFailed] * 19, selector
    assert await unsound(sql) == []


async def test_conditional_appends_that_do_not_meet_all_win(store: EventStore) -> None:
    appends = [store.append(f"s{n}", tagged(f"t{n}"), condition=AppendCondition(Tags(f"t{n}"))) for n in range(60)]
    assert {result.version for result in await asyncio.gather(*appends)} == {1}


async def test_an_expected_version_and_a_condition_must_both_hold(store: EventStore) -> None:
    await store.append("s", tagged("x"))
    for expected, after, error in [(0, 1, WrongExpectedVersion), (1, 0, AppendConditionFailed)]:
        with pytest.raises(error):
            await store.append("s", tagged("y"), expected=expected, condition=AppendCondition(Tags("x"), after))
    assert (await store.append("s", tagged("y"), expected=1, condition=AppendCondition(Tags("x"), 1))).version == 2


async def test_a_condition_holds_for_all_streams_of_an_append_or_for_none(store: EventStore) -> None:
    await store.append(None, tagged("x"))
    parts = [StreamAppend("a", tagged()), StreamAppend(None, tagged()), StreamAppend("b", tagged(), 0)]
    with pytest.raises(AppendConditionFailed):
        await store.append_many(parts, condition=AppendCondition(Tags("x")))
    assert await store.head() == 1
    results = await store.append_many(parts, condition=AppendCondition(Tags("x"), 1))
    assert [(result.stream, result.version, result.position) for result in results] == [
        ("a", 1, 2),
        (None, None, 3),
        ("b", 1, 4),
    ]


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_a_condition_under_a_stricter_isolation_is_refused_by_name(
    store: EventStore, sql: asyncpg.Connection, level: Any
) -> None:
    async with sql.transaction(isolation=level):
        with pytest.raises(TransactionConflict, match="READ COMMITTED"):
            await store.append(None, tagged("x"), condition=AppendCondition(Tags("x")), connection=sql)
        assert (await store.append(None, tagged("x"), connection=sql)).position == 1


async def test_a_condition_that_no_event_can_meet_never_breaks(store: EventStore) -> None:
    await store.append("s", matched())
    for selector in (Stream("s") & Stream("t"), EventType("A") & EventType("B")):
        assert AppendCondition(selector).encoded is None
        await store.append("s", matched(), condition=AppendCondition(selector))


def test_more_than_a_hundred_alternatives_are_refused() -> None:
    hundred = Tags(*(f"t{n}" for n in range(100)), match="any")
    AppendCondition(hundred)
    AppendCondition(hundred | Tags("t7"))
    for too_many in (
        Tags(*(f"t{n}" for n in range(101)), match="any"),
        hundred | Tags("another"),
        hundred & Tags("a", "b", match="any"),
        hundred & hundred & hundred,
    ):
        with pytest.raises(InvalidSelector, match="at most 100"):
            AppendCondition(too_many)


async def test_a_hundred_alternatives_are_judged(store: EventStore) -> None:
    hundred = Tags(*(f"t{n}" for n in range(100)), match="any")
    assert (await store.append(None, tagged("t99"), condition=AppendCondition(hundred))).position == 1
    with pytest.raises(AppendConditionFailed):
        await store.append(None, tagged("t99"), condition=AppendCondition(hundred))


@pytest.mark.parametrize("selector", [EventPayload({"a": 1}), EventPattern("s-*"), Tags("x") | EventPattern("s-*")])
def test_a_selector_without_an_index_is_refused_by_name(selector: Selector) -> None:
    with pytest.raises(InvalidSelector, match="EventPa"):
        AppendCondition(selector)


@pytest.mark.parametrize("after", [-1, 1 << 63, 1.0, True, None])
def test_what_is_no_position_is_refused(after: Any) -> None:
    with pytest.raises(InvalidSelector, match="after"):
        AppendCondition(Tags("x"), after)


async def test_what_is_no_condition_is_refused(store: EventStore) -> None:
    with pytest.raises(InvalidEvent, match="AppendCondition"):
        await store.append("s", tagged("x"), condition=Tags("x"))  # type: ignore[arg-type]


async def test_repeating_a_conditional_append_returns_its_first_result(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    events, condition = tagged("x"), AppendCondition(Tags("x"))
    for stream in ("s", None):
        events, condition = tagged("x"), AppendCondition(Tags("x"), await store.head())
        first = await store.append(stream, events, condition=condition)
        assert not first.idempotent
        again = await store.append(stream, events, condition=condition)
        async with sql.transaction():
            lent = await store.append(stream, events, condition=condition, connection=sql)
        assert again == lent
        assert (again.idempotent, again.position, again.version) == (True, first.position, first.version)
    with pytest.raises(AppendConditionFailed):
        await store.append("s", tagged("x"), condition=condition)


async def test_a_closed_stream_is_named_before_its_condition(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", tagged("x"))
    await sql.execute("update eventstore.streams set state = 'tombstoned'")
    with pytest.raises(StreamDeleted):
        await store.append("s", tagged("x"), condition=AppendCondition(Tags("x")))


async def test_a_condition_in_a_transaction_sees_what_the_transaction_wrote(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        mine = await store.append(None, tagged("x"), connection=sql)
        with pytest.raises(AppendConditionFailed) as caught:
            await store.append(None, tagged("y"), condition=AppendCondition(Tags("x")), connection=sql)
        assert caught.value.position == mine.position
        await store.append(None, tagged("y"), condition=AppendCondition(Tags("z")), connection=sql)
    assert len(await stored_ids(sql)) == 2


async def test_a_condition_whose_append_fails_otherwise_holds_nothing(store: EventStore, db: str) -> None:
    async with connection(db) as lent:
        await lent.execute("begin")
        with pytest.raises(WrongExpectedVersion):
            await store.append("s", tagged("x"), expected=7, condition=AppendCondition(All()), connection=lent)
        async with asyncio.timeout(4):
            await store.append("s", tagged("x"), condition=AppendCondition(All()))


async def test_a_condition_without_stripes_in_common_passes_a_locked_stream(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("slow", tagged())
    async with locked(db, "slow") as holder:
        waiting = asyncio.create_task(store.append("slow", tagged("x")))
        await waiting_for_locks(sql)
        async with asyncio.timeout(4):
            await store.append("free", tagged("y"), condition=AppendCondition(Tags("y")))
        await holder.execute("commit")
        await waiting


NO_CONDITIONS = [
    "5",
    '"x"',
    "[]",
    "null",
    "{}",
    '{"items": []}',
    '{"items": {}}',
    '{"items": [5]}',
    '{"items": [null]}',
    '{"items": [{"types": []}]}',
    '{"items": [{"tags": "x"}]}',
    '{"items": [{"tags": [1]}]}',
    '{"items": [{"tags": [""]}]}',
    '{"items": [{"stream": ""}]}',
    '{"items": [{"stream": 5}]}',
    '{"items": [{"kind": "x"}]}',
    '{"items": [{}], "after": -1}',
    '{"items": [{}], "after": 1.5}',
    '{"items": [{}], "after": "1"}',
    '{"items": [{}], "after": null}',
    '{"items": [{}], "after": 9223372036854775808}',
    '{"items": [{}], "before": 1}',
    '{"items": [' + ", ".join(["{}"] * 101) + "]}",
]


async def test_sql_refuses_what_is_no_condition(sql: asyncpg.Connection) -> None:
    for condition in NO_CONDITIONS:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await sql.fetch(APPEND, condition)
        assert caught.value.sqlstate == "ES005", condition


APPEND = """select * from eventstore.append_events('s', '[{"type": "A"}]', condition => $1)"""


async def test_sql_takes_every_whole_number_for_a_position(sql: asyncpg.Connection) -> None:
    await sql.execute("select setval('eventstore.event_positions', 9007199254740993)")
    for after in ("0", "0.0", "1e0", "9007199254740993", "9.0e2"):
        await sql.fetch(APPEND, f'{{"items": [{{"types": ["B"]}}], "after": {after}}}')


NAMES = st.sampled_from("abc")
LEAVES = st.one_of(
    st.lists(NAMES, min_size=1, max_size=2).map(lambda names: Tags(*names)),
    st.lists(NAMES, min_size=1, max_size=2).map(lambda names: Tags(*names, match="any")),
    st.lists(NAMES, min_size=1, max_size=2).map(lambda names: EventType(*names)),
    NAMES.map(Stream),
    st.just(All()),
)
ANY_SELECTOR = st.recursive(
    LEAVES,
    lambda inner: st.tuples(inner, inner).flatmap(lambda two: st.sampled_from([two[0] & two[1], two[0] | two[1]])),
)
SLOWLY = settings(
    max_examples=times(40, 3000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def some_log(store: EventStore) -> None:
    for stream in ("a", "b", "c", None):
        for kind in "abc":
            tags = [[], ["a"], ["b", "c"], ["a", "b", "c"]]
            await store.append(stream, [NewEvent(kind, tags=one) for one in tags])


@pytest.mark.hunt
def test_a_condition_breaks_by_the_first_event_that_its_selector_matches(db: str) -> None:
    with asyncio.Runner() as runner, opened(runner, db) as (store, lent, _):
        runner.run(some_log(store))
        log = runner.run(everything(store))

        @SLOWLY
        @given(ANY_SELECTOR, st.integers(0, 48))
        def agrees(selector: Selector, after: int) -> None:
            first = next((e.position for e in log if e.position > after and selector.matches(e)), None)
            assert runner.run(broken_by(store, lent, AppendCondition(selector, after))) == first

        agrees()


@pytest.mark.hunt
def test_whatever_matches_a_condition_cannot_be_in_flight_while_it_is_judged(db: str) -> None:
    with asyncio.Runner() as runner, opened(runner, db) as (store, lent, other):
        runner.run(some_log(store))
        log = runner.run(everything(store))

        @SLOWLY
        @given(ANY_SELECTOR, st.sampled_from(log), st.booleans())
        def meets(selector: Selector, event: Any, by_batch: bool) -> None:
            if selector.matches(event):
                new = StreamAppend(event.stream, [NewEvent(event.type, tags=event.tags)])
                assert runner.run(conflicts(store, lent, other, AppendCondition(selector, 48), new, by_batch))

        meets()


@contextmanager
def opened(runner: asyncio.Runner, db: str) -> Iterator[tuple[EventStore, asyncpg.Connection, asyncpg.Connection]]:
    store = EventStore(db, settings=QUICK)
    runner.run(store.__aenter__())
    lent, other = runner.run(connect(db)), runner.run(connect(db))
    try:
        yield store, lent, other
    finally:
        runner.run(store.__aexit__())
        runner.run(lent.close())
        runner.run(other.close())


async def connect(db: str) -> asyncpg.Connection:
    return await asyncpg.connect(db)


async def everything(store: EventStore) -> list[Any]:
    return [event async for event in store.read_all()]


async def broken_by(store: EventStore, lent: asyncpg.Connection, condition: AppendCondition) -> int | None:
    transaction = lent.transaction()
    await transaction.start()
    try:
        await store.append(None, [NewEvent("new")], condition=condition, connection=lent)
    except AppendConditionFailed as error:
        return error.position
    finally:
        await transaction.rollback()
    return None


async def conflicts(
    store: EventStore,
    lent: asyncpg.Connection,
    other: asyncpg.Connection,
    condition: AppendCondition,
    new: StreamAppend,
    by_batch: bool,
) -> bool:
    """Tell whether *condition* waits for *new*, and as a part of a batch is busy."""
    events, rolling = [NewEvent("new")], (lent.transaction(), other.transaction())
    for transaction in rolling:
        await transaction.start()
    try:
        await store.append_many([new], connection=lent)
        await other.execute("set local lock_timeout = '1ms'")
        if by_batch:
            (row,) = await batch(other, StreamAppend(None, events), conditions={0: condition})
            return row["outcome"] == "busy"
        with suppress(TransactionConflict):
            await store.append(None, events, condition=condition, connection=other)
            return False
        return True
    finally:
        for transaction in rolling:
            await transaction.rollback()


async def test_a_condition_beyond_the_end_of_the_log_is_refused(store: EventStore) -> None:
    await store.append("s", [NewEvent("A")])
    with pytest.raises(ConfigurationError, match="horizon"):
        await store.append(None, [NewEvent("A")], condition=AppendCondition(EventType("A"), after=2))
    assert await store.head() == 1


async def test_a_condition_of_several_tags_is_held_by_the_rarest(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", [NewEvent("A", tags=["all"]) for _ in range(20)] + [NewEvent("A", tags=["all", "one"])])
    assert await sql.fetchval("select eventstore.rarest_tag_v1('{all,one}')") == "one"
    assert await sql.fetchval("select eventstore.rarest_tag_v1('{one,all}')") == "one"
