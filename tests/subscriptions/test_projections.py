"""Exactly once: rows and checkpoint are one transaction, whatever is killed, raised or swallowed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import All, Event, EventStore, FailurePolicy, NewEvent
from eventstore.subscriptions.projecting import ProjectingEmitter
from tests.conftest import QUICK
from tests.subscriptions.journal import settled
from tests.subscriptions.test_run import fill, running

POLICY = FailurePolicy(attempts=2, delay=0.01)
ROW = "insert into seen (position, stream) values ($1, $2)"


@pytest.fixture
async def rows(sql: asyncpg.Connection) -> Callable[[], Any]:
    """A table that a second projection of an event leaves a second row in."""
    await sql.execute("create table seen (position bigint, stream text)")

    async def positions() -> list[int]:
        return [row["position"] for row in await sql.fetch("select position from seen order by position")]

    return positions


async def write(events: list[Event], tx: asyncpg.Connection) -> None:
    await tx.executemany(ROW, [(event.position, event.stream) for event in events])


async def test_rows_are_the_fold_of_the_log_after_random_kills(
    store: EventStore, sql: asyncpg.Connection, rows: Any
) -> None:
    chance = random.Random(7)

    @store.projection("s", All(), pool_size=3, batch_size=4, policy=FailurePolicy(attempts=None, delay=0.01))
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        for event in events:
            await tx.execute(ROW, event.position, event.stream)
            if chance.random() < 0.05:
                await sql.execute("select pg_terminate_backend($1)", tx.get_server_pid())

    await fill(store, 200, streams=11)
    async with running(store):
        await settled(store, "s", 200)
    assert await rows() == list(range(1, 201))


async def test_a_kill_during_the_commit_doubles_nothing(
    store: EventStore, sql: asyncpg.Connection, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, commit = random.Random(3), asyncpg.transaction.Transaction.commit

    async def killed(transaction: Any) -> None:
        pid, before = transaction._connection.get_server_pid(), chance.random() < 0.5
        fatal = transaction._connection.get_settings().application_name == "eventstore" and chance.random() < 0.3
        if not fatal:
            return await commit(transaction)
        if not before:
            with suppress(Exception):
                await commit(transaction)
        await sql.execute("select pg_terminate_backend($1)", pid)
        raise asyncpg.ConnectionDoesNotExistError("planted")

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", killed)
    store.projection("s", All(), batch_size=3)(write)
    await fill(store, 30)
    async with running(store):
        await settled(store, "s", 30)
    assert await rows() == list(range(1, 31))


async def test_a_checkpoint_outside_the_transaction_is_caught(
    store: EventStore, sql: asyncpg.Connection, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = False

    async def planted(emitter: ProjectingEmitter, events: Any, position: int, failed: Any, attempt: int) -> Any:
        async def settle_after(connection: Any) -> bool:
            return True

        outcome = await emitter._transaction(events, attempt, settle_after)
        nonlocal killed
        if not killed:
            killed = True
            await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")
        await emitter._host.ledger.settle_one(emitter.claim, position, failed)
        return outcome

    monkeypatch.setattr(ProjectingEmitter, "_committed", planted)
    store.projection("s", All())(write)
    await fill(store, 3)
    async with running(store):
        lost = store._pools.moments.next("lost")
        await asyncio.wait_for(store._pools.moments.next("handled"), 30)
        store._pools.lease.news.set()
        await asyncio.wait_for(lost, 30)
        await settled(store, "s", 3)
    assert Counter(await rows()) == {1: 2, 2: 2, 3: 2}


async def test_failed_sql_parks_the_event_and_leaves_nothing_of_it(store: EventStore, rows: Any) -> None:
    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        await write(events, tx)
        if any(event.position == 2 for event in events):
            await tx.execute("select 1 / 0")

    await store.append_known(["a", "b", "b", "c"], [NewEvent(type="A") for _ in range(4)])
    async with running(store):
        await settled(store, "s", 4)
    found = await store.subscriptions.parked("s")
    assert [(one.position, one.attempts, one.error) for one in found] == [(2, 2, "DivisionByZeroError"), (3, 0, None)]
    assert await rows() == [1, 4]


async def test_a_swallowed_sql_error_fails_the_event(store: EventStore, rows: Any) -> None:
    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        await write(events, tx)
        if any(event.position == 2 for event in events):
            with suppress(asyncpg.PostgresError):
                await tx.execute("select 1 / 0")

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    assert [one.position for one in await store.subscriptions.parked("s")] == [2]
    assert await rows() == [1, 3]


@pytest.mark.parametrize("ended", ["commit", "rollback"])
async def test_a_projection_that_ends_its_transaction_has_failed_by_name(
    store: EventStore, rows: Any, ended: str
) -> None:
    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        if any(event.position == 2 for event in events):
            return void(await tx.execute(ended))
        await write(events, tx)

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.position, parked.attempts, parked.error) == (2, 2, "EventStoreError")
    assert "ended its transaction itself" in str(parked.message)
    assert await rows() == [1, 3]


def void(_: object) -> None: ...


async def test_a_projection_that_leaves_a_query_running_has_failed_by_name(store: EventStore, rows: Any) -> None:
    left: list[asyncio.Task[Any]] = []

    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        await write(events, tx)
        if any(event.position == 2 for event in events):
            left.append(asyncio.create_task(tx.execute("select pg_sleep(60)")))
            await asyncio.sleep(0)

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.position, parked.attempts, parked.error) == (2, 2, "EventStoreError")
    assert "left something running" in str(parked.message)
    assert await rows() == [1, 3]
    await asyncio.gather(*left, return_exceptions=True)


async def test_a_constraint_that_fails_at_the_commit_fails_the_event(
    store: EventStore, sql: asyncpg.Connection, rows: Any
) -> None:
    await sql.execute("create table known (position bigint primary key); insert into known values (1), (3)")
    await sql.execute("alter table seen add foreign key (position) references known deferrable initially deferred")
    store.projection("s", All(), policy=POLICY)(write)
    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.position, parked.attempts) == (2, 2)
    assert "foreign key" in str(parked.message)
    assert await rows() == [1, 3]


async def test_a_replay_is_a_transaction_of_its_own(store: EventStore, rows: Any) -> None:
    ill, attempts = True, list[int]()

    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Any) -> None:
        await write(events, tx)
        if ill and any(event.stream == "s0" for event in events):
            raise ValueError
        if events[0].stream == "s0":
            attempts.append(delivery.attempt)

    await fill(store, 9, streams=3)
    async with running(store):
        await settled(store, "s", 9)
        assert await rows() == [2, 3, 5, 6, 8, 9]
        ill = False
        assert await store.subscriptions.replay_parked("s") == 3
        async with asyncio.timeout(30):
            while await store.subscriptions.parked("s"):
                await asyncio.sleep(0.01)
    assert await rows() == list(range(1, 10))
    assert attempts == [3, 1, 1]


async def test_a_replay_that_fails_leaves_no_row_and_keeps_its_place(store: EventStore, rows: Any) -> None:
    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        await write(events, tx)
        if any(event.position == 1 for event in events):
            raise ValueError

    await fill(store, 2, streams=1)
    async with running(store):
        await settled(store, "s", 2)
        # No moment is waited for: that of the second event may still be to come, after it has been stored.
        assert [(one.position, one.attempts) for one in await store.subscriptions.parked("s")] == [(1, 2), (2, 0)]
        await store.subscriptions.replay_parked("s")
        async with asyncio.timeout(30):
            while [one.attempts for one in await store.subscriptions.parked("s")] != [3, 0]:
                await asyncio.sleep(0.01)
    assert [one.position for one in await store.subscriptions.parked("s")] == [1, 2]
    assert await rows() == []


async def test_nothing_overtakes_an_event_that_is_tried_again(store: EventStore, rows: Any) -> None:
    order: list[int] = []

    @store.projection("s", All(), batch_size=1, policy=FailurePolicy(attempts=3, delay=0.01))
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Any) -> None:
        order.append(events[0].position)
        if events[0].position == 1 and delivery.attempt < 3:
            raise ValueError

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    assert order == [1, 1, 1, 2, 3]


async def test_a_stale_owner_writes_nothing(store: EventStore, sql: asyncpg.Connection, rows: Any) -> None:
    epochs: list[int] = []

    @store.projection("s", All())
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Any) -> None:
        epochs.append(delivery.epoch)
        await write(events, tx)
        if delivery.epoch == 1:
            await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
    assert epochs == [1, 3]
    assert await rows() == [1, 2, 3]


async def test_a_stale_owner_without_the_fence_is_caught(
    store: EventStore, sql: asyncpg.Connection, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = store._pools.ledger
    settle_one = ledger.settle_one

    async def unfenced(*args: Any, **named: Any) -> bool:
        return await settle_one(*args, **named) or True

    monkeypatch.setattr(ledger, "settle_one", unfenced)

    @store.projection("s", All())
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Any) -> None:
        await write(events, tx)
        if delivery.epoch == 1:
            await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")
            store._pools.lease.news.set()

    await fill(store, 1)
    async with running(store):
        await settled(store, "s", 1)
    assert await rows() == [1, 1]


async def test_a_projection_that_freezes_is_cut_after_its_lease_and_counts_as_failed(
    store: EventStore, rows: Any
) -> None:
    @store.projection("s", All(), policy=POLICY)
    async def project(events: list[Event], tx: asyncpg.Connection) -> None:
        await write(events, tx)
        if any(event.position == 2 for event in events):
            with suppress(asyncpg.InterfaceError):
                while not tx.is_closed():
                    await asyncio.sleep(0.01)

    claimed = store._pools.moments.next("claimed")
    async with running(store):
        await asyncio.wait_for(claimed, 30)  # for longer than its transactions may last
        store._pools.settings = replace(store.settings, lease_ttl=0.5)
        await fill(store, 3)
        await settled(store, "s", 3)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.position, parked.attempts) == (2, 2)
    assert "lease" in str(parked.message)
    assert await rows() == [1, 3]


async def test_a_pool_of_projections_takes_each_event_once_over_two_nodes(db: str, rows: Any) -> None:
    async with EventStore(db, settings=QUICK) as one, EventStore(db, settings=QUICK) as two:
        for store in (one, two):
            store.projection("s", All(), pool_size=4, batch_size=5)(write)
        await fill(one, 100, streams=20)
        async with running(one):
            async with running(two):
                await asyncio.wait_for(two._pools.moments.next("claimed"), 30)
                await fill(one, 100, streams=20)
            await settled(one, "s", 200)
    assert await rows() == list(range(1, 201))
