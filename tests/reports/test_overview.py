from __future__ import annotations

import json
from dataclasses import asdict, replace

import asyncpg
import pytest

from eventstore import All, EventStore, NewEvent
from eventstore.reports import overview
from eventstore.reports.overview import Overview, read_nodes, read_overview
from tests.reports.conftest import DEAD, NODE, aged, halt, park, place, queries


async def append(store: EventStore, count: int) -> None:
    await store.append("s", [NewEvent(type="A") for _ in range(count)])


async def test_a_fresh_log_has_nothing_to_show(store: EventStore) -> None:
    seen = await read_overview(store.database)
    assert (seen.log.horizon, seen.log.events, seen.log.per_second, seen.log.held_for) == (0, None, None, 0.0)
    assert (seen.subscriptions, seen.waiting, seen.parked, seen.failures) == ({}, [], 0, [])
    assert (seen.nodes, seen.nodes_alive, seen.nodes_total) == ([], 0, 0)


async def test_the_rate_counts_events_and_not_positions(store: EventStore, sql: asyncpg.Connection) -> None:
    first = await read_overview(store.database)
    await append(store, 3)
    await sql.execute("select setval('eventstore.event_positions', 1000)")
    await append(store, 4)
    then = await read_overview(store.database, first)
    assert (then.log.events, then.log.last_position, then.log.at_least) == (7, 1004, False)
    assert then.log.seconds == (then.at - first.at).total_seconds()
    assert then.log.per_second == pytest.approx(7 / then.log.seconds)
    assert (await read_overview(store.database, then)).log.events == 0


async def test_of_very_many_events_it_is_told_that_they_are_at_least_so_many(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "COUNTED", 5)
    first = await read_overview(store.database)
    await append(store, 5)
    second = await read_overview(store.database, first)
    await append(store, 6)
    third = await read_overview(store.database, second)
    assert [(one.log.events, one.log.at_least) for one in (second, third)] == [(5, False), (5, True)]


async def test_what_is_not_visible_yet_is_counted_once_it_is(store: EventStore, sql: asyncpg.Connection) -> None:
    first = await read_overview(store.database)
    async with sql.transaction():
        await sql.execute("select eventstore.append_events('t', '[{\"type\": \"A\"}]', -1)")
        await append(store, 2)
        held = await read_overview(store.database, first)
    assert (held.log.events, held.log.horizon, held.log.last_position) == (0, 0, 3)
    assert (await read_overview(store.database, held)).log.events == 3


async def test_a_horizon_that_falls_back_counts_nothing_twice(store: EventStore) -> None:
    first = await read_overview(store.database)
    await append(store, 3)
    ahead = replace(first, log=replace(first.log, counted_to=2))
    assert (await read_overview(store.database, ahead)).log.events == 1


async def test_after_a_restore_counting_begins_anew(store: EventStore) -> None:
    seen = await read_overview(store.database)
    later = replace(seen, log=replace(seen.log, counted_to=1_000))
    anew = await read_overview(store.database, later)
    assert (anew.log.events, anew.log.per_second, anew.log.counted_to) == (None, None, 0)


async def test_who_holds_the_horizon_is_named_with_the_age_of_the_oldest(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("select eventstore.append_events('t', '[{\"type\": \"A\"}]', -1)")
        seen = await read_overview(store.database)
        lasts = await sql.fetchval("select extract(epoch from clock_timestamp() - now())::float8")
    assert seen.log.holder is not None
    assert (seen.log.holder.pid, seen.log.holder.place) == (sql.get_server_pid(), 0)
    assert seen.log.held_for is not None
    assert 0 < seen.log.held_for <= lasts


async def states(store: EventStore) -> Overview:
    return await read_overview(store.database, late=60)


@pytest.mark.usefixtures("events", "nodes")
async def test_every_subscription_has_one_status(store: EventStore, sql: asyncpg.Connection) -> None:
    for name in ("well", "paused", "halted", "free", "dead", "late", "young"):
        await store.subscribe(name, All())
        await place(sql, name, 10)
    await aged(sql, 5, 120)
    await store.subscriptions.pause("paused")
    await halt(sql, "paused")
    await halt(sql, "halted")
    await place(sql, "free", 10, None)
    await place(sql, "dead", 10, DEAD)
    await place(sql, "late", 4)
    await place(sql, "young", 5)
    seen = await states(store)
    assert seen.subscriptions == {"active": 2, "paused": 1, "halted": 1, "unowned": 2, "behind": 1}
    assert seen.subscriptions_total == 7
    assert [(one.name, one.status, one.behind) for one in seen.waiting] == [
        ("late", "behind", 6),
        ("young", "active", 5),
    ]
    assert seen.waiting[0].seconds >= 120 > seen.waiting[1].seconds


@pytest.mark.usefixtures("events", "nodes")
async def test_a_partition_that_nobody_uses_any_more_does_not_count(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("one", All(), pool_size=2)
    await store.subscriptions.resize("one", 1)
    await place(sql, "one", 10)
    assert (await states(store)).subscriptions == {"active": 1}


@pytest.mark.usefixtures("events", "nodes")
async def test_the_worst_five_are_shown_and_paused_ones_left_out(store: EventStore, sql: asyncpg.Connection) -> None:
    for number in range(7):
        await store.subscribe(f"s{number}", All())
        await place(sql, f"s{number}", number)
    await store.subscriptions.pause("s0")
    seen = await states(store)
    assert [(one.name, one.behind) for one in seen.waiting] == [(f"s{n}", 10 - n) for n in range(1, 6)]


@pytest.mark.usefixtures("events", "nodes")
async def test_parked_events_are_counted_and_the_latest_failures_told(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    for name in ("a", "b", "c"):
        await store.subscribe(name, All(), pool_size=2)
    await park(sql, "a", 1, ago=30)
    await park(sql, "a", 2, ago=10)
    await park(sql, "b", 1, ago=20)
    await park(sql, "b", 2, state="skipped")
    await halt(sql, "c", "x" * 1000)
    seen = await states(store)
    assert (seen.parked, seen.parked_subscriptions) == (3, 2)
    assert [(one.kind, one.subscription, one.partition, one.position, one.count) for one in seen.failures] == [
        ("halted", "c", 0, None, 2), ("parked", "a", 1, 2, 2), ("parked", "b", 1, 1, 1)
    ]  # fmt: skip
    assert [(one.error, one.message) for one in seen.failures[:2]] == [("ValueError", "x" * 500), ("KeyError", "gone")]


@pytest.mark.usefixtures("events")
async def test_one_that_fails_all_the_time_hides_no_other_failure(store: EventStore, sql: asyncpg.Connection) -> None:
    for name in ("halted", "loud", "quiet"):
        await store.subscribe(name, All(), pool_size=2)
    await halt(sql, "halted")
    await sql.execute("update eventstore.checkpoints set halted = halted || '{\"position\": 7}' where partition = 1")
    await park(sql, "quiet", 1, ago=100)
    for position in range(1, 11):
        await park(sql, "loud", position)
    await sql.execute("update eventstore.parked set error = 'Other' where position = 3")
    found = [(one.subscription, one.position, one.error, one.count) for one in (await states(store)).failures]
    assert sorted(found, key=str) == sorted(
        [("halted", None, "ValueError", 2), ("loud", 10, "KeyError", 9), ("loud", 3, "Other", 1),
         ("quiet", 1, "KeyError", 1)], key=str)  # fmt: skip


@pytest.mark.usefixtures("events", "nodes")
async def test_nodes_are_counted_with_what_they_own(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("a", All(), pool_size=3)
    await place(sql, "a", 0, NODE, 0)
    await place(sql, "a", 0, NODE, 2)
    nodes, alive, total = await read_nodes(store.database, limit=1)
    assert (alive, total) == (1, 2)
    assert [(one.name, one.alive, one.partitions) for one in nodes] == [("ada", True, 2)]
    assert [one.name for one in (await read_overview(store.database)).nodes] == ["ada", "bob"]


async def test_it_takes_three_queries_and_a_fourth_while_the_horizon_is_held(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    assert await queries(store.database, read_overview(store.database)) == 3
    async with sql.transaction():
        await sql.execute("select eventstore.append_events('t', '[{\"type\": \"A\"}]', -1)")
        assert await queries(store.database, read_overview(store.database)) == 4


async def test_a_role_with_execute_alone_sees_all_but_how_long_it_is_held(
    store: EventStore, sql: asyncpg.Connection, db: str
) -> None:
    await sql.execute(
        "drop role if exists looker; create role looker login; grant usage on schema eventstore to looker;"
        "grant execute on all functions in schema eventstore to looker"
    )
    try:
        async with EventStore(db.replace("//postgres@", "//looker@")) as other:
            async with sql.transaction():
                await sql.execute("select eventstore.append_events('t', '[{\"type\": \"A\"}]', -1)")
                seen = await read_overview(other.database)
        assert seen.log.holder is not None
        assert (seen.log.holder.pid, seen.log.held_for) == (sql.get_server_pid(), None)
    finally:
        await sql.execute("drop owned by looker; drop role looker")


@pytest.mark.usefixtures("nodes")
async def test_it_becomes_json(store: EventStore) -> None:
    assert json.loads(json.dumps(asdict(await read_overview(store.database)), default=str))["nodes_alive"] == 1
