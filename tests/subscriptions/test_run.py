from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import (
    All,
    DatabaseUnavailable,
    Delivery,
    Event,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    SubscriptionNotFound,
)
from eventstore.errors import AlreadyStarted, ConfigurationError
from eventstore.subscriptions.model import Claimed
from tests.conftest import QUICK


class Inbox:
    """A handler that records, and lets a test wait until it has had so many."""

    def __init__(self, fail: int = 0) -> None:
        self.events: list[Event] = []
        self.deliveries: list[Delivery] = []
        self._fail, self._arrived = fail, asyncio.Condition()

    async def __call__(self, event: Event, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._fail:
            self._fail -= 1
            raise RuntimeError("not yet")
        self.events.append(event)
        async with self._arrived:
            self._arrived.notify_all()

    async def has(self, count: int) -> list[int]:
        async with asyncio.timeout(30), self._arrived:
            await self._arrived.wait_for(lambda: len(self.events) >= count)
        return [event.position for event in self.events]

    @property
    def by_stream(self) -> dict[str | None, list[int | None]]:
        found = defaultdict(list)
        for event in self.events:
            found[event.stream].append(event.version)
        return dict(found)


def handle(store: EventStore, name: str, inbox: Inbox) -> None:
    async def handler(event: Event, delivery: Delivery) -> None:
        await inbox(event, delivery)

    store.handler(name)(handler)


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[None]:
    task = asyncio.create_task(store.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def fill(store: EventStore, count: int, streams: int = 7) -> None:
    await store.append_known(
        [f"s{n % streams}" for n in range(count)], [NewEvent(type="AB"[n % 2]) for n in range(count)]
    )


async def test_history_and_then_live_events_are_delivered_in_order(store: EventStore) -> None:
    inbox = Inbox()
    await fill(store, 30)
    await store.subscribe("all", All())
    handle(store, "all", inbox)
    async with running(store):
        await inbox.has(30)
        await fill(store, 10)
        assert await inbox.has(40) == list(range(1, 41))


async def test_a_handler_can_declare_its_subscription(store: EventStore) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    @store.handler("declared", EventType("B"), pool_size=2)
    async def declared(event: Event, delivery: Delivery) -> None:
        seen.append(event.type)
        done.set()

    await fill(store, 2)
    async with running(store):
        await asyncio.wait_for(done.wait(), 30)
    assert seen == ["B"]
    assert (await store.subscriptions.get("declared")).pool_size == 2


@pytest.mark.parametrize("pool_size", [1, 3, 8])
async def test_order_holds_per_stream_at_every_pool_size(store: EventStore, pool_size: int) -> None:
    inbox = Inbox()
    await fill(store, 200, streams=11)
    await store.subscribe("s", All(), pool_size=pool_size)
    handle(store, "s", inbox)
    async with running(store):
        await inbox.has(200)
        await fill(store, 200, streams=11)
        await inbox.has(400)
    assert len(inbox.events) == 400
    assert all(versions == sorted(set(versions)) for versions in inbox.by_stream.values())
    assert {delivery.partition for delivery in inbox.deliveries} <= set(range(pool_size))


async def test_a_restart_goes_on_after_the_checkpoint(db: str) -> None:
    first, second = Inbox(), Inbox()
    for inbox in (first, second):
        async with EventStore(db, settings=QUICK) as store:
            await store.subscribe("s", All())
            await fill(store, 10)
            handle(store, "s", inbox)
            async with running(store):
                await inbox.has(10)
    assert [event.position for event in first.events] == list(range(1, 11))
    assert [event.position for event in second.events] == list(range(11, 21))


async def test_the_checkpoint_moves_over_events_that_do_not_match(store: EventStore) -> None:
    inbox = Inbox()
    await fill(store, 9)
    await store.subscribe("s", EventType("B"))
    handle(store, "s", inbox)
    async with running(store):
        await inbox.has(4)
    assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 9


async def test_a_handler_that_raises_gets_the_same_event_again_before_later_ones_of_its_stream(
    store: EventStore,
) -> None:
    inbox = Inbox(fail=3)
    await store.subscribe("s", All(), policy=FailurePolicy(delay=0.01))
    handle(store, "s", inbox)
    await fill(store, 3, streams=1)
    async with running(store):
        assert await inbox.has(3) == [1, 2, 3]
    assert [delivery.attempt for delivery in inbox.deliveries] == [1, 2, 3, 4, 1, 1]


async def test_an_event_that_was_not_handled_is_delivered_again_after_a_restart(db: str) -> None:
    inbox = Inbox()
    async with EventStore(db, settings=QUICK) as store:
        await store.subscribe("s", All())
        await fill(store, 3)

        @store.handler("s")
        async def stuck(event: Event, delivery: Delivery) -> None:
            if event.position == 2:
                store._pools.moments.reach("stuck")
                await asyncio.Event().wait()

        reached = store._pools.moments.next("stuck")
        async with running(store):
            await asyncio.wait_for(reached, 30)
    async with EventStore(db, settings=QUICK) as store:
        handle(store, "s", inbox)
        async with running(store):
            assert await inbox.has(2) == [2, 3]


async def test_two_nodes_share_out_partitions_and_never_run_one_together(db: str) -> None:
    inbox, terms = Inbox(), defaultdict[tuple[int, int], set[str]](set)
    async with (
        EventStore(db, settings=QUICK, node_name="1") as one,
        EventStore(db, settings=QUICK, node_name="2") as two,
    ):
        await one.subscribe("s", All(), pool_size=6)
        for store in (one, two):

            @store.handler("s")
            async def handler(event: Event, delivery: Delivery, node: str = store.node_name) -> None:
                terms[delivery.partition, delivery.epoch].add(node)
                await inbox(event, delivery)

        async with running(one), running(two), asyncio.timeout(30):
            await fill(one, 100, streams=30)
            await inbox.has(100)
            owners: list[str | None] = []
            while sorted(map(str, owners)) != ["1", "1", "1", "2", "2", "2"]:  # the first to come may have had them all
                owners = [partition.owner for partition in (await one.subscriptions.get("s")).partitions]
            await fill(one, 100, streams=30)
            await inbox.has(200)
    assert len(inbox.events) == 200
    assert all(len(nodes) == 1 for nodes in terms.values())
    epochs = [[one.epoch for one in inbox.deliveries if one.partition == number] for number in range(6)]
    assert epochs == [sorted(each) for each in epochs]
    assert all(versions == sorted(set(versions)) for versions in inbox.by_stream.values())


async def test_a_survivor_takes_over_when_a_lease_runs_out(store: EventStore, sql: asyncpg.Connection) -> None:
    inbox = Inbox()
    await store.subscribe("s", All(), pool_size=2)
    dead = await sql.fetchval("select gen_random_uuid()")
    await store._ledger.register(dead, "dead", 60)
    assert len((await store._ledger.claim(dead, ["s"])).claims) == 2
    handle(store, "s", inbox)
    await fill(store, 10)
    await sql.execute("update eventstore.nodes set lease_until = now() + interval '0.3 s'")
    async with running(store):
        await inbox.has(10)
    assert {p.epoch for p in (await store.subscriptions.get("s")).partitions} == {2}


async def test_a_node_whose_lease_was_taken_stops_and_begins_anew(store: EventStore, sql: asyncpg.Connection) -> None:
    inbox = Inbox()
    await store.subscribe("s", All())
    handle(store, "s", inbox)
    async with running(store):
        await fill(store, 1)
        await inbox.has(1)
        lost = store._pools.moments.next("lost")
        await sql.execute("delete from eventstore.nodes")
        await asyncio.wait_for(lost, 30)
        await asyncio.wait_for(store._pools.moments.next("claimed"), 30)
        await fill(store, 1)
        await inbox.has(2)
    assert inbox.deliveries[-1].epoch == 2


async def test_a_lease_ends_on_time_also_while_the_connection_it_was_renewed_on_is_given_back(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, given_back = asyncio.Event(), asyncio.Event()

    async def silent(*_: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await given_back.wait()

    async with EventStore(db, settings=replace(QUICK, lease_ttl=3.0)) as store:
        handle(store, "s", Inbox())
        await store.subscribe("s", All())
        claimed = store._pools.moments.next("claimed")
        async with running(store):
            await asyncio.wait_for(claimed, 30)
            lost = store._pools.moments.next("lost")
            with monkeypatch.context() as patch:
                patch.setattr(store._pools.ledger, "renew", silent)
                assert (await asyncio.wait_for(lost, 30)).name == "s"
                assert store._pools.emitters == []
            assert asked.is_set()
            claimed = store._pools.moments.next("claimed")
            given_back.set()
            assert (await asyncio.wait_for(claimed, 30)).epoch == 2


async def test_deleting_a_subscription_stops_its_emitters(store: EventStore) -> None:
    await store.subscribe("s", All())
    handle(store, "s", Inbox())
    claimed, lost = store._pools.moments.next("claimed"), store._pools.moments.next("lost")
    async with running(store):
        await asyncio.wait_for(claimed, 30)
        await store.unsubscribe("s")
        assert (await asyncio.wait_for(lost, 30)).name == "s"
        assert store._pools.emitters == []


async def test_a_checkpoint_ahead_of_the_log_halts_its_partition(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("s", All())
    await sql.execute("update eventstore.checkpoints set position = 99")
    handle(store, "s", Inbox())
    halted = store._pools.moments.next("halted")
    async with running(store):
        assert (await asyncio.wait_for(halted, 30)).name == "s"
        assert "99" in str(store._pools.halted["s", 0])


async def test_losing_every_connection_loses_no_event(store: EventStore, sql: asyncpg.Connection) -> None:
    inbox = Inbox()
    await store.subscribe("s", All(), pool_size=3)
    handle(store, "s", inbox)
    async with running(store):
        for n in range(1, 6):
            await fill(store, 20)
            await inbox.has(20 * n)
            await sql.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name like 'eventstore%'"
            )
            await reachable(store)
        await fill(store, 20)
        await inbox.has(120)
    assert {event.position for event in inbox.events} == {event.position async for event in store.read_all()}


async def reachable(store: EventStore) -> None:
    while True:
        try:
            await store.head()
            return
        except DatabaseUnavailable:
            await asyncio.sleep(0)


async def test_sigterm_finishes_the_event_in_hand_and_settles_it(store: EventStore) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    await store.subscribe("s", All())
    await fill(store, 5)

    @store.handler("s")
    async def slow(event: Event, delivery: Delivery) -> None:
        entered.set()
        await release.wait()

    run = asyncio.create_task(store.run())
    await asyncio.wait_for(entered.wait(), 30)
    draining = store._pools.moments.next("draining")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(draining, 30)
    release.set()
    await asyncio.wait_for(run, 30)
    stored = (await store.subscriptions.get("s")).partitions[0]
    assert (stored.checkpoint, stored.owner) == (1, None)


async def test_what_cannot_run_is_refused(store: EventStore) -> None:
    handle(store, "nothing", Inbox())
    with pytest.raises(SubscriptionNotFound):
        await store.run()
    with pytest.raises(AlreadyStarted):
        handle(store, "nothing", Inbox())
    with pytest.raises(ConfigurationError, match="event, delivery"):

        @store.handler("one argument")
        async def short(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="async"):
        store.handler("sync")(lambda event, delivery: None)  # type: ignore[arg-type,return-value]


async def test_running_twice_is_refused(store: EventStore) -> None:
    await store.subscribe("s", All())
    handle(store, "s", Inbox())
    claimed = store._pools.moments.next("claimed")
    async with running(store):
        await asyncio.wait_for(claimed, 30)
        with pytest.raises(AlreadyStarted):
            await store.run()


async def test_a_claim_whose_reply_was_lost_is_made_again(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, ledger = Inbox(), store._pools.ledger
    claim = ledger.claim
    await store.subscribe("s", All())
    await fill(store, 1)
    handle(store, "s", inbox)

    async def lost(*args: Any) -> Claimed:
        monkeypatch.setattr(ledger, "claim", claim)
        await claim(*args)
        raise DatabaseUnavailable("the reply was lost")

    monkeypatch.setattr(ledger, "claim", lost)
    async with running(store):
        await inbox.has(1)
    assert inbox.deliveries[0].epoch == 2


async def test_a_handler_that_raises_a_cancellation_of_its_own_is_tried_again(store: EventStore) -> None:
    inbox, cancelled = Inbox(), False

    @store.handler("s", All())
    async def handler(event: Event, delivery: Delivery) -> None:
        nonlocal cancelled
        if not cancelled:
            cancelled = True
            raise asyncio.CancelledError
        await inbox(event, delivery)

    await fill(store, 1)
    async with running(store):
        await inbox.has(1)
    assert inbox.deliveries[0].attempt == 2


@pytest.mark.parametrize("ending", ["swallows", "transforms"])
async def test_a_partition_taken_away_never_runs_twice_however_its_handler_ends(
    store: EventStore, sql: asyncpg.Connection, ending: str
) -> None:
    epochs: list[int] = []
    entered = asyncio.Event()

    @store.handler("s", All())
    async def handler(event: Event, delivery: Delivery) -> None:
        epochs.append(delivery.epoch)
        entered.set()
        if delivery.epoch > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)  # its successor could claim in this time
            if ending == "transforms":
                raise RuntimeError("of another kind") from None

    await fill(store, 5)
    async with running(store):
        await asyncio.wait_for(entered.wait(), 30)
        task = store._pools.emitters[0].task
        assert task is not None
        await sql.execute("delete from eventstore.nodes")
        await asyncio.wait([task], timeout=30)
        while len(epochs) < 6:
            await asyncio.sleep(0.01)
        assert not store._pools.halted
    assert epochs == [1, 2, 2, 2, 2, 2]


async def test_leaving_the_block_at_any_moment_ends_run(db: str) -> None:
    for steps in range(12):
        async with EventStore(db, settings=QUICK) as store:
            handle(store, "s", Inbox())
            await store.subscribe("s", All())
            run = asyncio.create_task(store.run())
            for _ in range(steps):
                await asyncio.sleep(0)
        await asyncio.wait_for(run, 60)


async def test_a_second_run_leaves_the_first_its_sigterm(store: EventStore) -> None:
    handle(store, "s", Inbox())
    await store.subscribe("s", All())
    before = signal.getsignal(signal.SIGTERM)
    claimed = store._pools.moments.next("claimed")
    run = asyncio.create_task(store.run())
    await asyncio.wait_for(claimed, 30)
    with pytest.raises(AlreadyStarted):
        await store.run()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(run, 30)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_store_can_be_opened_in_one_event_loop_after_another(db: str) -> None:
    store = EventStore(db, settings=QUICK)

    async def use() -> None:
        async with store:
            async with store.listen() as events:
                await store.append("s", [NewEvent(type="A")])
                async with asyncio.timeout(30):
                    assert (await anext(events)).type == "A"
            if "s" not in store._handlers:
                store.handler("s", All())(nothing)
            claimed = store._pools.moments.next("claimed")
            async with running(store):
                await asyncio.wait_for(claimed, 30)

    async def nothing(event: Event, delivery: Delivery) -> None:
        return None

    for _ in range(2):
        asyncio.run(use())


async def test_appends_that_wait_for_a_lock_do_not_cost_the_lease(db: str, sql: asyncpg.Connection) -> None:
    inbox = Inbox()
    async with EventStore(db, settings=replace(QUICK, connections=1)) as store:  # of more, appends leave one free
        handle(store, "s", inbox)
        await store.subscribe("s", EventType("B"))
        async with running(store):
            async with sql.transaction():
                await store.append("busy", [NewEvent(type="A")], connection=sql)
                waiting = [asyncio.create_task(store.append("busy", [NewEvent(type="B")])) for _ in range(6)]
                async with asyncio.timeout(30):
                    while not await sql.fetchval("select count(*) from pg_locks where not granted"):
                        await asyncio.sleep(0.01)
                for _ in range(4):
                    renewed = store._pools.moments.next("renewed")
                    store._pools.look()
                    await asyncio.wait_for(renewed, 30)
            await asyncio.gather(*waiting)
            await inbox.has(6)
    assert {delivery.epoch for delivery in inbox.deliveries} == {1}
