"""The life of a stream: limits, deleting, tombstones, and scavenging what limits hide."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    All,
    AppendCondition,
    DuplicateEventId,
    EventStore,
    EventType,
    InvalidEvent,
    NewEvent,
    Settings,
    StreamAppend,
    StreamDeleted,
    StreamMetadata,
    Tags,
    WrongExpectedVersion,
)
from eventstore.errors import ConfigurationError, PayloadTooLarge
from eventstore.log.streams import Scavenged
from tests.subscriptions.test_run import Inbox, handle, running

NOW = datetime(2026, 1, 1, tzinfo=UTC)

EXPIRED = StreamMetadata(max_age=1e-6)


def events(count: int) -> list[NewEvent]:
    return [NewEvent("T", {"n": n}, metadata={"m": n}, tags=["all", f"t{n}"]) for n in range(1, count + 1)]


async def versions(store: EventStore, stream: str = "s", **bounds: Any) -> list[int | None]:
    return [event.version async for event in store.read(stream, **bounds)]


async def stubs(sql: asyncpg.Connection, stream: str = "s") -> list[int]:
    rows = await sql.fetch(
        "select version from eventstore.events where stream = $1 and data is null order by 1", stream
    )
    return [row["version"] for row in rows]


async def recorded(sql: asyncpg.Connection, stream: str, times: list[datetime]) -> None:
    """Say when the events of a stream were recorded; only here, where triggers can be put out of force."""
    await sql.execute("set session_replication_role = replica")
    for version, time in enumerate(times, 1):
        statement = "update eventstore.events set recorded_at = $3 where stream = $1 and version = $2"
        await sql.execute(statement, stream, version, time)
    await sql.execute("set session_replication_role = default")


async def aged(store: EventStore, sql: asyncpg.Connection) -> None:
    """Ten events, a day apart, the last of them a day old."""
    await store.append("s", events(10))
    now = await sql.fetchval("select now()")
    await recorded(sql, "s", [now - timedelta(days=11 - n) for n in range(1, 11)])


# -- what a stream is


async def test_an_unknown_stream_has_no_info(store: EventStore) -> None:
    assert await store.stream_info("s") is None


async def test_info_tells_version_state_and_what_readers_see(store: EventStore) -> None:
    await store.append("s", events(5))
    info = await store.stream_info("s")
    assert info is not None
    assert (info.name, info.version, info.state, info.first_version, info.events) == ("s", 5, "live", 1, 5)
    assert info.metadata == StreamMetadata()
    assert abs((datetime.now(UTC) - info.created_at).total_seconds()) < 60


async def test_metadata_is_replaced_as_a_whole_and_comes_back_equal(store: EventStore) -> None:
    first = StreamMetadata(max_age=3600, max_count=5, truncate_before=2, custom={"n": [2**80, None, "é"]})
    await store.set_stream_metadata("s", first)
    info = await store.stream_info("s")
    assert info is not None
    assert info.metadata == first
    await store.set_stream_metadata("s", replace(info.metadata, max_count=None))
    changed = await store.stream_info("s")
    assert changed is not None
    assert changed.metadata == replace(first, max_count=None)


async def test_a_stream_can_have_limits_before_it_has_events(store: EventStore) -> None:
    await store.set_stream_metadata("s", StreamMetadata(max_count=2))
    info = await store.stream_info("s")
    assert info is not None
    assert (info.version, info.state, info.first_version, info.events) == (0, "live", None, 0)
    assert (await store.append("s", events(3), expected=NO_STREAM)).version == 3
    assert await versions(store) == [2, 3]


@pytest.mark.parametrize(
    "values",
    [
        {"max_age": 0},
        {"max_age": -1.0},
        {"max_age": math.inf},
        {"max_age": math.nan},
        {"max_age": True},
        {"max_age": timedelta(days=1)},
        {"max_count": 0},
        {"max_count": 1.0},
        {"max_count": 1 << 63},
        {"truncate_before": 0},
        {"truncate_before": "2"},
    ],
)
def test_a_limit_that_is_none_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        StreamMetadata(**values)


@pytest.mark.parametrize("custom", [[], None, {"a": math.nan}, {"a": (1,)}, {1: 2}, {"a": "\0"}])
def test_custom_metadata_follows_the_rules_of_events(custom: Any) -> None:
    with pytest.raises(InvalidEvent, match="custom"):
        StreamMetadata(custom=custom)
    with pytest.raises(PayloadTooLarge):
        StreamMetadata(custom={"a": "x" * (1 << 20)})


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ("''", "ES003"),
        ("repeat('x', 513)", "ES003"),
        ("null", "ES003"),
        ("'s', 0", "ES006"),
        ("'s', 'infinity'", "ES006"),
        ("'s', 'NaN'", "ES006"),
        ("'s', p_max_count => 0", "ES006"),
        ("'s', p_truncate_before => -1", "ES006"),
        ("'s', p_custom => '[]'", "ES003"),
        ("'s', p_custom => null", "ES003"),
        ("""'s', p_custom => '{"a": "\\u0000"}'""", "ES003"),
        ("""'s', p_custom => json_build_object('a', repeat('x', 1048576))""", "ES004"),
    ],
)
async def test_sql_refuses_the_metadata_that_python_refuses(
    sql: asyncpg.Connection, arguments: str, state: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute(f"select eventstore.set_stream_metadata_v1({arguments})")
    assert caught.value.sqlstate == state
    assert await sql.fetchval("select count(*) from eventstore.streams") == 0


async def test_what_is_no_metadata_is_refused(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="StreamMetadata"):
        await store.set_stream_metadata("s", {"max_count": 5})  # type: ignore[arg-type]


async def test_streams_are_listed_by_name_and_deleted_ones_on_request(db: str) -> None:
    async with EventStore(db, settings=Settings(page_size=2)) as store:
        for name in ("a", "b", "c", "d", "\U0010ffff"):
            await store.append(name, events(1))
        await store.delete_stream("b")
        await store.tombstone_stream("e")
        await store.set_stream_metadata("f", StreamMetadata(max_count=1))
        assert [info.name async for info in store.streams()] == ["a", "c", "d", "\U0010ffff"]
        every = [(info.name, info.state) async for info in store.streams(include_deleted=True)]
        assert every[1:2] + every[4:6] == [("b", "deleted"), ("e", "tombstoned"), ("f", "live")]
        assert [info.name async for info in store.streams("\U0010ffff")] == ["\U0010ffff"]


# -- limits


@pytest.mark.parametrize(
    ("limits", "seen"),
    [
        (StreamMetadata(truncate_before=4), [4, 5, 6, 7, 8, 9, 10]),
        (StreamMetadata(truncate_before=11), []),
        (StreamMetadata(truncate_before=99), []),
        (StreamMetadata(max_count=3), [8, 9, 10]),
        (StreamMetadata(max_count=99), list(range(1, 11))),
        (StreamMetadata(max_age=86_400 * 4.5), [7, 8, 9, 10]),
        (StreamMetadata(max_age=1), []),
        (StreamMetadata(max_age=1e300), list(range(1, 11))),
        (StreamMetadata(max_age=86_400 * 4.5, max_count=5, truncate_before=2), [7, 8, 9, 10]),
        (StreamMetadata(max_age=86_400 * 4.5, max_count=2, truncate_before=2), [9, 10]),
        (StreamMetadata(max_age=86_400 * 4.5, max_count=5, truncate_before=10), [10]),
    ],
)
async def test_limits_apply_to_readers_at_once_in_both_directions(
    store: EventStore, sql: asyncpg.Connection, limits: StreamMetadata, seen: list[int]
) -> None:
    await aged(store, sql)
    await store.set_stream_metadata("s", limits)
    info = await store.stream_info("s")
    assert await versions(store) == seen
    assert await versions(store, backwards=True, before=10, limit=2) == [v for v in seen[::-1] if v < 10][:2]
    assert await versions(store, after=8, limit=1) == [v for v in seen if v > 8][:1]
    assert [row["version"] for row in await sql.fetch("select version from eventstore.read_stream('s')")] == seen
    assert info is not None
    assert (info.first_version, info.events) == (seen[0] if seen else None, len(seen))


async def test_the_log_shows_what_limits_hide_until_it_is_scavenged(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.set_stream_metadata("s", StreamMetadata(max_count=1))
    assert [event.version async for event in store.read_all()] == [1, 2, 3]


async def test_limits_taken_away_show_again_what_is_not_scavenged(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.set_stream_metadata("s", StreamMetadata(max_count=1))
    await store.set_stream_metadata("s", StreamMetadata())
    assert await versions(store) == [1, 2, 3]


async def test_the_age_of_events_counts_back_from_a_moment_given(store: EventStore, sql: asyncpg.Connection) -> None:
    await aged(store, sql)
    await store.set_stream_metadata("s", StreamMetadata(max_age=86_400 * 4.5))
    earlier = "select version from eventstore.read_stream_v1('s', p_now => now() - interval '2 days')"
    assert [row["version"] for row in await sql.fetch(earlier)] == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("backwards", [False, True])
async def test_reading_a_limited_stream_touches_no_hidden_event(
    store: EventStore, sql: asyncpg.Connection, backwards: bool
) -> None:
    """Also after scavenging and without limits: the range of the key begins behind the stubs."""
    await store.append_known(["s"] * 2000, [NewEvent("T") for _ in range(2000)])
    await store.set_stream_metadata("s", StreamMetadata(max_count=3, max_age=3600))
    read = "select count(*) from eventstore.read_stream_v1('s', p_backwards => $1)"
    assert await fetched(sql, read, backwards) < 40
    await store.scavenge()
    await store.set_stream_metadata("s", StreamMetadata())
    assert await fetched(sql, read, backwards) < 40
    assert await sql.fetchval(read, backwards) == 3


async def fetched(sql: asyncpg.Connection, query: str, *args: Any) -> int:
    """How many rows of `events` a query took from the table."""
    # Rows that an index finds are counted there.
    count = """select sum(pg_stat_get_xact_tuples_fetched(c.oid))
                    + sum(pg_stat_get_xact_tuples_returned(c.oid)) filter (where c.relkind = 'r')
                 from pg_class c
                where c.oid = 'eventstore.events'::regclass
                   or c.oid in (select indexrelid from pg_index where indrelid = 'eventstore.events'::regclass)"""
    async with sql.transaction():
        before = await sql.fetchval(count)
        await sql.fetch(query, *args)
        return int(await sql.fetchval(count) - before)


# -- deleting and tombstones


async def test_a_deleted_stream_is_empty_to_readers_and_no_stream_to_writers(store: EventStore) -> None:
    await store.append("s", events(3))
    assert await store.delete_stream("s")
    info = await store.stream_info("s")
    assert info is not None
    assert (info.state, info.version, info.first_version, info.events) == ("deleted", 3, None, 0)
    assert (await versions(store), await versions(store, backwards=True)) == ([], [])
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append("s", events(1), expected=STREAM_EXISTS)
    assert caught.value.actual == 0


@pytest.mark.parametrize("expected", [ANY, NO_STREAM])
async def test_an_append_revives_a_deleted_stream_and_its_versions_go_on(store: EventStore, expected: int) -> None:
    await store.append("s", events(3))
    await store.delete_stream("s")
    assert (await store.append("s", events(2), expected=expected)).first_version == 4
    assert await versions(store) == [4, 5]
    assert await versions(store, backwards=True, limit=5) == [5, 4]
    info = await store.stream_info("s")
    assert info is not None
    assert (info.state, info.metadata.truncate_before, info.events) == ("live", 4, 2)


async def test_a_decision_on_events_that_were_deleted_since_is_refused(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.delete_stream("s")
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append("s", events(1), expected=3)
    assert caught.value.actual == 0


async def test_other_metadata_does_not_bring_deleted_events_back(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.delete_stream("s")
    await store.append("s", events(1))
    for limits in (StreamMetadata(max_count=100), StreamMetadata(truncate_before=1)):
        await store.set_stream_metadata("s", limits)
        assert await versions(store) == [4]


async def test_deleting_keeps_limits_and_custom_metadata(store: EventStore) -> None:
    limits = StreamMetadata(max_age=60, max_count=5, truncate_before=99, custom={"by": "me"})
    await store.append("s", events(3))
    await store.set_stream_metadata("s", limits)
    await store.delete_stream("s")
    info = await store.stream_info("s")
    assert info is not None
    assert info.metadata == limits


async def test_deleting_what_is_not_there_or_deleted_changes_nothing(store: EventStore) -> None:
    assert not await store.delete_stream("s")
    assert not await store.delete_stream("s", expected=NO_STREAM)
    assert await store.stream_info("s") is None
    await store.append("s", events(2))
    assert [await store.delete_stream("s", expected=2) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("expected", [NO_STREAM, 1, 3])
async def test_a_stream_at_another_version_is_neither_deleted_nor_closed(store: EventStore, expected: int) -> None:
    await store.append("s", events(2))
    for end in (store.delete_stream, store.tombstone_stream):
        with pytest.raises(WrongExpectedVersion) as caught:
            await end("s", expected=expected)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", expected, 2)
    assert await versions(store) == [1, 2]


@pytest.mark.parametrize("expected", [STREAM_EXISTS, 1])
async def test_what_deleting_expects_of_a_missing_stream(store: EventStore, expected: int) -> None:
    for end in (store.delete_stream, store.tombstone_stream):
        with pytest.raises(WrongExpectedVersion):
            await end("s", expected=expected)
    assert await store.stream_info("s") is None


@pytest.mark.parametrize(("name", "expected"), [("", ANY), ("x" * 513, ANY), ("s", -3), ("s", True), ("s", None)])
async def test_a_bad_name_or_version_is_refused(store: EventStore, name: str, expected: Any) -> None:
    for end in (store.delete_stream, store.tombstone_stream):
        with pytest.raises(InvalidEvent):
            await end(name, expected=expected)


@pytest.mark.parametrize(
    "call", ["delete_stream_v1('', -1)", "delete_stream_v1('s', -3)", "tombstone_stream_v1('s', null)"]
)
async def test_sql_refuses_a_bad_name_or_version(sql: asyncpg.Connection, call: str) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute(f"select eventstore.{call}")
    assert caught.value.sqlstate == "ES003"


@pytest.mark.parametrize("known", [True, False])
async def test_a_tombstone_closes_a_stream_for_good(store: EventStore, known: bool) -> None:
    if known:
        await store.append("s", events(2))
    assert await store.tombstone_stream("s")
    assert not await store.tombstone_stream("s", expected=77)
    info = await store.stream_info("s")
    assert info is not None
    assert (info.state, info.first_version, await versions(store)) == ("tombstoned", None, [])
    for change in (store.delete_stream("s"), store.set_stream_metadata("s", StreamMetadata())):
        with pytest.raises(StreamDeleted):
            await change


async def append_alone(store: EventStore, _: asyncpg.Connection) -> None:
    await store.append("s", events(1))


async def append_beside_others(store: EventStore, _: asyncpg.Connection) -> None:
    await store.append_many([StreamAppend("other", events(1)), StreamAppend("s", events(1))])


async def append_on_a_condition(store: EventStore, _: asyncpg.Connection) -> None:
    await store.append("s", events(1), condition=AppendCondition(Tags("none"), after=0))


async def append_in_a_transaction(store: EventStore, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await store.append("s", events(1), connection=sql)


async def append_at_once(store: EventStore, _: asyncpg.Connection) -> None:
    outcomes = await asyncio.gather(*(store.append("s", events(1)) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, StreamDeleted) for one in outcomes)
    raise StreamDeleted("s")


@pytest.mark.parametrize(
    "append", [append_alone, append_beside_others, append_on_a_condition, append_in_a_transaction, append_at_once]
)
async def test_a_tombstone_refuses_every_append(
    store: EventStore,
    sql: asyncpg.Connection,
    append: Callable[[EventStore, asyncpg.Connection], Awaitable[None]],
) -> None:
    await store.append("s", events(1))
    await store.tombstone_stream("s")
    head = await store.head()
    with pytest.raises(StreamDeleted):
        await append(store, sql)
    assert await store.head() == head
    assert await store.stream_info("other") is None


async def test_a_deletion_waits_for_the_append_that_holds_the_stream_and_covers_it(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    await store.append("s", events(1))
    transaction = sql.transaction()
    await transaction.start()
    await store.append("s", events(1), connection=sql)
    deleting = asyncio.create_task(store.delete_stream("s"))
    await waiting_for_a_lock(sql)
    await transaction.commit()
    assert await deleting
    info = await store.stream_info("s")
    assert info is not None
    assert (info.version, info.state, await versions(store)) == (2, "deleted", [])


async def test_a_deletion_compares_its_version_after_it_has_waited(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", events(1))
    transaction = sql.transaction()
    await transaction.start()
    await store.append("s", events(1), connection=sql)
    deleting = asyncio.create_task(store.delete_stream("s", expected=1))
    await waiting_for_a_lock(sql)
    await transaction.commit()
    with pytest.raises(WrongExpectedVersion):
        await deleting
    assert await versions(store) == [1, 2]


async def waiting_for_a_lock(sql: asyncpg.Connection) -> None:
    async with asyncio.timeout(30):
        while not await sql.fetchval("select exists (select from pg_locks where not granted)"):
            await asyncio.sleep(0.005)


# -- scavenging


@pytest.fixture
async def hidden(store: EventStore) -> list[NewEvent]:
    """Ten events of stream s, seven of them hidden; and others that have no limits."""
    batch = events(10)
    await store.append("before", events(2))
    await store.append("s", batch)
    await store.append("t", events(2))
    await store.append(None, [NewEvent("T")])
    await store.set_stream_metadata("s", StreamMetadata(max_count=3))
    return batch


CONTENT = "select to_jsonb(e) - 'data' - 'metadata' - 'tags' from eventstore.events e order by position"


async def test_scavenging_leaves_stubs_of_what_limits_hid(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    before, head = await sql.fetch(CONTENT), await store.head()
    done = await store.scavenge()
    assert (done.streams, done.events) == (1, 7)
    assert done.bytes > 0
    assert await stubs(sql) == [1, 2, 3, 4, 5, 6, 7]
    left = await sql.fetch("select distinct data::text, metadata::text, tags from eventstore.events where data is null")
    assert [tuple(row) for row in left] == [(None, "{}", [])]
    assert (await sql.fetch(CONTENT), await store.head()) == (before, head)
    await store.wait_for(head, timeout=60)


async def test_scavenging_touches_no_other_event_and_no_other_tag(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    await store.scavenge()
    assert (await stubs(sql, "before"), await stubs(sql, "t")) == ([], [])
    assert await versions(store) == [8, 9, 10]
    assert [event.data["n"] async for event in store.read("t")] == [1, 2]
    tags = await sql.fetch(
        "select array_agg(t.tag order by array_position(e.tags, t.tag)) = e.tags as same from eventstore.events e"
        " left join eventstore.event_tags t using (position) where e.tags <> '{}' group by e.position"
    )
    assert [row["same"] for row in tags] == [True] * 7
    assert await sql.fetchval("select count(*) from eventstore.event_tags") == 14


async def test_readers_of_the_log_see_no_stubs(store: EventStore, hidden: list[NewEvent]) -> None:
    await store.scavenge()
    for selector in (All(), EventType("T") & Tags("all")):
        seen = [event.version async for event in store.read_all(selector) if event.stream == "s"]
        assert seen == [8, 9, 10]
    backwards = [event.version async for event in store.read_all(backwards=True) if event.stream == "s"]
    assert backwards == [10, 9, 8]


async def test_ids_of_scavenged_events_stay_taken(store: EventStore, hidden: list[NewEvent]) -> None:
    await store.scavenge()
    with pytest.raises(DuplicateEventId):
        await store.append("s", [NewEvent("Another", id=hidden[0].id)])
    with pytest.raises(DuplicateEventId):
        await store.append("elsewhere", [hidden[0]])
    assert (await store.append("s", hidden[9:])).idempotent


async def test_a_late_repetition_of_a_scavenged_append_returns_its_first_result(
    store: EventStore, hidden: list[NewEvent]
) -> None:
    await store.scavenge()
    result = await store.append("s", hidden)
    assert (result.first_version, result.version, result.idempotent) == (1, 10, True)


async def test_a_scavenged_stream_goes_on_with_its_versions(store: EventStore, hidden: list[NewEvent]) -> None:
    await store.scavenge()
    assert (await store.append("s", events(2), expected=10)).version == 12
    assert await versions(store) == [10, 11, 12]
    assert (await store.scavenge()).events == 2


async def test_deleted_and_tombstoned_streams_are_scavenged_too(store: EventStore, sql: asyncpg.Connection) -> None:
    for name in ("deleted", "revived", "tombstoned"):
        await store.append(name, events(3))
    await store.delete_stream("deleted")
    await store.delete_stream("revived")
    await store.append("revived", events(1))
    await store.tombstone_stream("tombstoned")
    assert (await store.scavenge()).events == 9
    assert await stubs(sql, "revived") == await stubs(sql, "tombstoned") == await stubs(sql, "deleted") == [1, 2, 3]
    assert await versions(store, "revived") == [4]


async def test_a_dry_run_counts_and_removes_nothing(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    counted = await store.scavenge(dry_run=True, batch=2)
    assert (await stubs(sql), await scavenged_to(sql)) == ([], 0)
    assert counted == await store.scavenge()


async def scavenged_to(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("select scavenged_to from eventstore.streams where name = 's'"))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
async def test_batches_of_any_size_do_all_of_it(store: EventStore, sql: asyncpg.Connection, batch: int) -> None:
    for name in "abcde":
        await store.append(name, events(4))
        await store.set_stream_metadata(name, StreamMetadata(max_count=2))
    done: list[Scavenged] = []
    total = await store.scavenge(batch=batch, on_batch=done.append)
    assert (total.streams, total.events) == (5, 10)
    assert total == Scavenged(*(sum(getattr(one, name) for one in done) for name in ("streams", "events", "bytes")))
    assert max(one.events for one in done) <= batch
    assert await sql.fetchval("select count(*) from eventstore.streams where scavenged_to = 2") == 5


async def test_an_interrupted_scavenging_goes_on_where_it_was(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    def interrupt(_: Scavenged) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await store.scavenge(batch=3, on_batch=interrupt)
    assert (await stubs(sql), await scavenged_to(sql)) == ([1, 2, 3], 3)
    assert (await store.scavenge(batch=3)).events == 4
    assert await stubs(sql) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_second_scavenging_walks_over_nothing_again(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    await store.scavenge()
    assert (await store.scavenge()) == Scavenged(streams=1)
    assert await fetched(sql, "select * from eventstore.scavenge_v1()") == 0


async def test_a_batch_that_was_not_remembered_is_found_again_and_never_seen(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    """As after a crash between the two transactions, with limits taken away since."""
    await sql.fetch("select * from eventstore.scavenge_v1(p_batch => 3)")
    await store.set_stream_metadata("s", StreamMetadata())
    assert (await versions(store), await scavenged_to(sql)) == ([4, 5, 6, 7, 8, 9, 10], 0)
    info = await store.stream_info("s")
    assert info is not None
    assert (info.first_version, info.events) == (4, 7)
    await store.set_stream_metadata("s", StreamMetadata(max_count=3))
    assert (await store.scavenge()).events == 4


async def test_only_stubs_count_as_scavenged(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    await sql.execute("select eventstore.mark_scavenged_v1(array['s', 'nobody'], array[5, 5])")
    assert await scavenged_to(sql) == 0


async def test_scavenging_never_runs_ahead_of_the_clock(store: EventStore, sql: asyncpg.Connection) -> None:
    await aged(store, sql)
    await store.set_stream_metadata("s", StreamMetadata(max_age=86_400 * 4.5))
    now = datetime.now(UTC)
    assert (await store.scavenge(now=now - timedelta(days=2))).events == 4
    assert (await store.scavenge(now=now + timedelta(days=2))).events == 2
    assert await versions(store) == [7, 8, 9, 10]


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 100_001}, {"pause": -1}, {"now": datetime(2026, 1, 1)}])
async def test_options_of_scavenging_out_of_range_are_refused(store: EventStore, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        await store.scavenge(**options)


async def test_writers_readers_and_subscriptions_go_on_while_a_batch_is_open(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    inbox = Inbox()
    await store.subscribe("all", EventType("Late"))
    handle(store, "all", inbox)
    async with sql.transaction():
        assert len(await sql.fetch("select * from eventstore.scavenge_v1(p_batch => 4)")) == 1
        async with asyncio.timeout(60), running(store):
            for number in range(3):
                late = await store.append("s", [NewEvent("Late", tags=["all"])], expected=10 + number)
            both = [StreamAppend("s", [NewEvent("Late")]), StreamAppend("t", [NewEvent("Late")])]
            await store.append_many(both, condition=AppendCondition(Tags("none"), after=0))
            await store.set_stream_metadata("s", StreamMetadata(max_count=4))
            await store.wait_for(late.position)
            assert await versions(store) == [11, 12, 13, 14]
            assert len(await inbox.has(5)) == 5
    assert (await stubs(sql), (await store.scavenge()).events) == ([1, 2, 3, 4], 6)


async def test_a_batch_waits_for_no_writer_and_what_it_could_not_remember_is_harmless(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    async with sql.transaction():
        await store.append("s", events(1), connection=sql)
        async with asyncio.timeout(60):
            assert (await store.scavenge(batch=2)).events == 7
        assert await scavenged_to(sql) == 0
    assert (await store.scavenge()).events == 1
    assert await scavenged_to(sql) == 8


async def test_events_whose_limits_are_widened_while_a_batch_runs_are_left(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent], db: str
) -> None:
    other = await asyncpg.connect(db)
    await sql.execute("begin")  # holds the first event, so that the batch waits amid its update
    await sql.execute("select from eventstore.events where stream = 's' and version = 1 for update")
    batch = asyncio.create_task(other.fetch("select * from eventstore.scavenge_v1()"))
    await waiting_for_a_lock(sql)
    await store.set_stream_metadata("s", StreamMetadata(max_count=9))
    await sql.execute("rollback")
    assert [(row["upto"], row["done"], row["events"]) for row in await batch] == [(0, True, 0)]
    await other.close()
    assert (await stubs(sql), (await store.scavenge()).events) == ([], 1)


async def test_two_scavengings_at_once_remove_everything_once(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", events(200))
    await store.set_stream_metadata("s", StreamMetadata(max_count=50))
    done = await asyncio.gather(store.scavenge(batch=7), store.scavenge(batch=11))
    assert sum(one.events for one in done) == 150
    assert await stubs(sql) == list(range(1, 151))


async def test_a_role_without_the_right_is_told_who_has_it(sql: asyncpg.Connection, db: str) -> None:
    await sql.execute(
        "drop role if exists no_scavenger; create role no_scavenger login;"
        "grant usage on schema eventstore to no_scavenger;"
        "grant execute on all functions in schema eventstore to no_scavenger;"
        "revoke execute on function eventstore.scavenge_v1 from no_scavenger"
    )
    try:
        async with EventStore(db.replace("//postgres@", "//no_scavenger@")) as store:
            await store.append("s", events(3))
            await store.set_stream_metadata("s", StreamMetadata(max_count=1))
            with pytest.raises(ConfigurationError, match="connect as 'postgres'"):
                await store.scavenge()
        assert await stubs(sql) == []
    finally:
        await sql.execute("drop owned by no_scavenger; drop role no_scavenger")


# -- subscriptions


async def test_a_subscription_from_before_scavenging_gets_the_events_that_are_left(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    inbox = Inbox()
    await store.subscribe("all", EventType("T"))
    await store.scavenge()
    handle(store, "all", inbox)
    async with running(store):
        await inbox.has(8)
        await store.append("s", events(1))
        await inbox.has(9)
    assert inbox.by_stream == {"before": [1, 2], "s": [8, 9, 10, 11], "t": [1, 2], None: [None]}


async def test_a_subscription_behind_a_scavenged_range_goes_on_after_it(store: EventStore, db: str) -> None:
    first, second = Inbox(), Inbox()
    await store.append("s", events(4))
    await store.subscribe("all", All())
    handle(store, "all", first)
    async with running(store):
        await first.has(4)
    await store.append("s", events(6))
    await store.set_stream_metadata("s", StreamMetadata(truncate_before=9))
    assert (await store.scavenge()).events == 8
    async with EventStore(db, settings=store.settings) as later:
        handle(later, "all", second)
        async with running(later):
            await second.has(2)
            await later.append("s", events(1))
            assert len(await second.has(3)) == 3
    assert second.by_stream == {"s": [9, 10, 11]}


async def test_a_subscription_at_a_log_that_ends_in_stubs_goes_live(store: EventStore) -> None:
    inbox = Inbox()
    await store.append("s", events(3))
    await store.delete_stream("s")
    await store.scavenge()
    await store.subscribe("all", All())
    handle(store, "all", inbox)
    async with running(store):
        await store.append("s", events(1))
        await inbox.has(1)
    assert inbox.by_stream == {"s": [4]}


async def test_listening_from_now_begins_after_stubs(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.delete_stream("s")
    await store.scavenge()
    async with store.listen() as live:
        await store.append("s", events(1))
        assert (await anext(live)).version == 4


# -- the log stays append-only


STUB = "data = null, metadata = '{}', tags = '{}'"


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        (f"update eventstore.events set {STUB} where stream = 's' and version = 7", False),
        (f"update eventstore.events set {STUB} where stream = 's' and version = 8", True),
        (f"update eventstore.events set {STUB} where stream = 't'", True),
        (f"update eventstore.events set {STUB} where stream is null", True),
        (f"update eventstore.events set {STUB}, type = 'U' where stream = 's' and version = 7", True),
        (f"update eventstore.events set {STUB}, hash = 'x' where stream = 's' and version = 7", True),
        (f"update eventstore.events set {STUB}, recorded_at = now() where stream = 's' and version = 7", True),
        ("update eventstore.events set data = '{}' where stream = 's' and version = 7", True),
        ("update eventstore.events set data = null where stream = 's' and version = 7", True),
        ("update eventstore.events set data = null, metadata = '{}' where stream = 's' and version = 7", True),
        ("update eventstore.events set data = data where stream = 's' and version = 7", True),
        (f"update eventstore.events set {STUB} where stream = 's' and version = 1", True),
        ("update eventstore.events set data = '{}' where stream = 's' and version = 1", True),
        ("delete from eventstore.events where stream = 's' and version = 7", True),
        ("delete from eventstore.events where stream = 's' and version = 1", True),
        ("truncate eventstore.events", True),
        ("update eventstore.event_tags set tag = 'x' where tag = 't7'", True),
        ("delete from eventstore.event_tags where tag = 't7'", True),
        ("truncate eventstore.event_tags", True),
    ],
)
async def test_the_owner_too_may_only_turn_hidden_events_into_stubs(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent], statement: str, refused: bool
) -> None:
    await sql.fetch("select * from eventstore.scavenge_v1(p_batch => 3)")
    if not refused:
        await sql.execute(statement)
        return
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute(statement)
    assert caught.value.sqlstate == "ES009"


async def test_tags_of_a_stub_may_be_deleted(
    store: EventStore, sql: asyncpg.Connection, hidden: list[NewEvent]
) -> None:
    await sql.execute(f"update eventstore.events set {STUB} where stream = 's' and version = 7")
    assert await sql.execute("delete from eventstore.event_tags where position = 9") == "DELETE 2"


# -- a model


class Model:
    """What readers of a stream see, in plain Python; scavenging removes it."""

    def __init__(self, times: list[datetime], limits: StreamMetadata, deleted: int) -> None:
        self.times, self.limits, self.deleted = times, limits, deleted

    def sees(self, version: int) -> bool:
        age = (NOW - self.times[version - 1]).total_seconds()
        return (
            version > self.deleted
            and version >= (self.limits.truncate_before or 0)
            and version > len(self.times) - (self.limits.max_count or math.inf)
            and age <= (self.limits.max_age or math.inf)
        )

    def read(self, after: int, before: int | None, limit: int | None, backwards: bool) -> list[int]:
        every = range(1, len(self.times) + 1)
        found = [v for v in every if after < v < (math.inf if before is None else before) and self.sees(v)]
        return (found[::-1] if backwards else found)[:limit]


ages = st.lists(st.integers(0, 5), max_size=12).map(lambda found: sorted(found, reverse=True))
limited = st.builds(
    StreamMetadata,
    max_age=st.none() | st.integers(1, 5),
    max_count=st.none() | st.integers(1, 14),
    truncate_before=st.none() | st.integers(1, 13),
)
bound = st.integers(0, 15)
bounds = st.lists(
    st.fixed_dictionaries(
        {"after": bound, "before": st.none() | bound, "limit": st.none() | bound, "backwards": st.booleans()}
    ),
    max_size=4,
).map(lambda found: [{"after": 0, "before": None, "limit": None, "backwards": False}, *found])


@pytest.fixture
async def paged(db: str) -> AsyncIterator[EventStore]:
    async with EventStore(db, settings=Settings(page_size=3)) as store:
        yield store


async def test_reading_with_limits_equals_a_plain_model_before_and_after_scavenging(db: str) -> None:
    numbers = iter(range(10_000))

    async def check(found: list[int], deleted: int, limits: StreamMetadata, batch: int, asked: list[Any]) -> None:
        name, times = f"s{next(numbers)}", [NOW - timedelta(seconds=age) for age in found]
        model = Model(times, limits, min(deleted, len(times)))
        await given_stream(store, sql, name, model)
        await agrees(sql, name, model, asked)
        await store.scavenge(batch=batch, now=NOW)
        await agrees(sql, name, model, asked)
        assert await stubs(sql, name) == [v for v in range(1, len(times) + 1) if not model.sees(v)]

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(ages, st.just(0) | st.integers(1, 5), limited, st.integers(1, 6), bounds)
    def agree(found: list[int], deleted: int, limits: StreamMetadata, batch: int, asked: list[Any]) -> None:
        asyncio.run_coroutine_threadsafe(check(found, deleted, limits, batch, asked), loop).result()

    loop = asyncio.get_running_loop()
    async with EventStore(db, settings=Settings(listen=False, page_size=3)) as store:
        sql = await asyncpg.connect(db)
        await asyncio.to_thread(agree)
        await sql.close()


async def given_stream(store: EventStore, sql: asyncpg.Connection, name: str, model: Model) -> None:
    """Store the model's events, deleting the stream after as many of them as it says."""
    await store.append("neighbour", events(1))
    for number in range(len(model.times)):
        await store.append(name, events(1))
        if number + 1 == model.deleted:
            await store.delete_stream(name)
    await recorded(sql, name, model.times)
    await store.set_stream_metadata(name, model.limits)


async def agrees(sql: asyncpg.Connection, name: str, model: Model, asked: list[dict[str, Any]]) -> None:
    query = "select version from eventstore.read_stream_v1($1, $2, $3, $4, $5, $6)"
    for one in asked:
        rows = await sql.fetch(query, name, one["after"], one["before"], one["backwards"], one["limit"], NOW)
        assert [row["version"] for row in rows] == model.read(**one)


async def test_a_page_ends_nowhere_but_at_the_last_event_that_readers_see(paged: EventStore) -> None:
    await paged.append("s", events(20))
    await paged.set_stream_metadata("s", StreamMetadata(max_count=10))
    await paged.scavenge(batch=4)
    assert await versions(paged) == list(range(11, 21))
    assert await versions(paged, backwards=True) == list(range(20, 10, -1))


async def test_a_condition_counts_no_scavenged_event(store: EventStore, hidden: list[NewEvent]) -> None:
    await store.scavenge()
    for item in (Tags("t7"), EventType("T") & Tags("t7")):
        await store.append("u", [NewEvent("U")], condition=AppendCondition(item, after=6))


async def test_a_limit_shorter_than_any_age_hides_everything(store: EventStore) -> None:
    await store.append("s", events(3))
    await store.set_stream_metadata("s", EXPIRED)
    assert (await versions(store), (await store.scavenge()).events) == ([], 3)
