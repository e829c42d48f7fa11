"""Pools under operators: pause, rewind, ack, resize, stop, share out; nothing is lost, doubled or inverted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventstore import (
    All,
    Delivery,
    Event,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    SubscriptionExists,
    SubscriptionNotFound,
)
from eventstore.errors import AlreadyStarted, CheckpointAheadOfLog, ConfigurationError
from eventstore.registry import Consumer
from eventstore.subscriptions.inlet import Inlet
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, log_of
from tests.subscriptions.test_run import fill, running


def noted(store: EventStore, name: str, journal: Journal) -> None:
    store.handler(name)(journal.note)


async def given_back(store: EventStore, read_on: Callable[[EventStore], Awaitable[object]]) -> None:
    """Append while a partition is given back, with an event in hand; everything has to come nevertheless."""
    journal, entered, release = Journal(), asyncio.Event(), asyncio.Event()
    await store.subscribe("s", All())
    await store.subscribe("other", All())
    noted(store, "other", Journal())

    @store.handler("s")
    async def slow(event: Event, delivery: Delivery) -> None:
        entered.set()
        await release.wait()
        await journal.note(event, delivery)

    async with running(store):
        await fill(store, 1)
        await asyncio.wait_for(entered.wait(), 30)
        await store.subscriptions.pause("s")
        while not store._pools.of("s")[0].stopping:
            await asyncio.wait_for(store._pools.moments.next("round"), 30)
        await fill(store, 3)
        await read_on(store)
        released = store._pools.moments.next("released")
        release.set()
        await asyncio.wait_for(released, 30)
        await store.subscriptions.resume("s")
        await journal.has(4)
    assert journal.problems(await log_of(store)) == []


async def test_what_comes_while_a_partition_is_given_back_is_not_taken_for_settled(store: EventStore) -> None:
    await given_back(store, lambda store: store.subscriptions.wait_for("other", 4))


@pytest.mark.parametrize(
    "lost", [lambda pools: pools.lease._end(), lambda pools: pools._put_back()], ids=["lease", "failover"]
)
async def test_what_is_lost_while_its_release_waits_for_a_connection_is_not_taken_for_settled(
    store: EventStore, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, lost: Callable[[Any], None]
) -> None:
    journal, entered, release = Journal(), asyncio.Event(), asyncio.Event()
    waits, connected, acquire = asyncio.Event(), asyncio.Event(), store._control.acquire
    releasing: list[asyncio.Task[Any]] = []

    @asynccontextmanager
    async def late() -> AsyncIterator[Any]:
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("release"):
            releasing.append(task)
            waits.set()
            await connected.wait()
        async with acquire() as connection:
            yield connection

    @store.handler("s", All())
    async def handle(event: Event, delivery: Delivery) -> None:
        entered.set()
        await release.wait()
        await journal.note(event, delivery)

    await fill(store, 9)
    async with running(store), asyncio.timeout(30):
        await entered.wait()
        await store.subscriptions.pause("s")
        while not store._pools.of("s")[0].stopping:
            await store._pools.moments.next("round")
        monkeypatch.setattr(store._control, "acquire", late)
        release.set()
        await waits.wait()
        lost(store._pools)
        connected.set()
        await asyncio.wait(releasing)
        if store._pools.lease.node is None:  # nor is it waited for by the node's next incarnation
            await sql.execute("delete from eventstore.nodes")
            store._pools.look()
        await store.subscriptions.resume("s")
        await store.subscriptions.wait_for("s", 9)
    assert set(journal.positions) == set(range(1, 10))


async def test_a_paused_subscription_delivers_nothing_until_it_is_resumed(store: EventStore) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)
    async with running(store):
        await fill(store, 2)
        await journal.has(2)
        released = store._pools.moments.next("released")
        assert await store.subscriptions.pause("s")
        await asyncio.wait_for(released, 30)
        await fill(store, 2)
        assert (await store.subscriptions.get("s")).partitions[0].owner is None
        assert journal.positions == [1, 2]
        await store.subscriptions.resume("s")
        assert await journal.has(4) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["position", "time", "event"])
async def test_a_rewind_delivers_again_what_comes_after(store: EventStore, kind: str) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)
    async with running(store):
        for _ in range(4):
            await fill(store, 1)
        await journal.has(4)
        log = await log_of(store)
        places: dict[str, int | datetime | Any] = {"position": 2, "time": log[1].recorded_at, "event": log[1].id}
        await store.subscriptions.wait_for("s", 4, timeout=30)
        rewound = await store.subscriptions.rewind("s", places[kind])
        assert (rewound.after, rewound.partitions) == (2, 1)
        assert await journal.has(6) == [1, 2, 3, 4, 3, 4]


async def test_an_ack_from_outside_makes_running_emitters_go_on_behind_it(store: EventStore) -> None:
    journal, entered = Journal(), asyncio.Event()
    await store.subscribe("s", All())

    @store.handler("s")
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.position < 4:
            entered.set()
            await asyncio.Event().wait()
        await journal.note(event, delivery)

    await fill(store, 5)
    async with running(store):
        await asyncio.wait_for(entered.wait(), 30)
        assert await store.subscriptions.ack("s", 3) == 1
        assert await journal.has(2) == [4, 5]


async def test_beyond_the_log_nothing_can_be_settled_or_rewound_to(store: EventStore) -> None:
    await store.subscribe("s", All())
    for refused in (store.subscriptions.ack("s", 1), store.subscriptions.rewind("s", 1)):
        with pytest.raises(CheckpointAheadOfLog):
            await refused
    with pytest.raises(ConfigurationError):
        await store.subscriptions.rewind("s", uuid4())


async def test_resizing_under_load_loses_doubles_and_inverts_nothing(store: EventStore) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)

    async def load() -> None:
        for _ in range(15):
            await fill(store, 40, streams=13)

    async with running(store):
        loading = asyncio.create_task(load())
        for n, size in enumerate((8, 3, 5), 1):
            await journal.has(100 * n)
            await store.subscriptions.resize("s", size, timeout=30)
        await loading
        await journal.has(600)
        assert (await store.subscriptions.get("s")).pool_size == 5
    assert journal.problems(await log_of(store)) == []


async def test_an_inlet_that_takes_what_it_left_for_read_is_caught(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(inlet: Inlet) -> None:
        inlet._feed.leave(inlet._handle)

    async def at_once(journal: Journal, count: int) -> list[int]:
        await store.subscriptions.wait_for("s", count, timeout=30)
        return journal.positions

    monkeypatch.setattr(Inlet, "leave", planted)
    monkeypatch.setattr(Journal, "has", at_once)
    with pytest.raises(AssertionError, match="was lost"):
        await given_back(store, lambda other: other.subscriptions.wait_for("other", 4))


async def test_a_policy_that_is_changed_under_load_loses_and_inverts_nothing(store: EventStore) -> None:
    journal, attempts = Journal(), list[int]()

    @store.handler("s", All(), pool_size=3, policy=FailurePolicy(attempts=None, delay=0.01, delay_max=0.02))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.stream == "bad":
            attempts.append(delivery.attempt)
            raise ValueError
        await journal.note(event, delivery)

    await store.append("bad", [NewEvent(type="A")])
    async with running(store):
        for n in range(1, 11):
            await fill(store, 20, streams=13)
            if n == 5:
                await journal.has(50)
                assert await store.subscriptions.update("s", policy=FailurePolicy(attempts=1))
        await store.subscriptions.wait_for("s", 201, timeout=30)
    assert [(one.position, one.attempts) for one in await store.subscriptions.parked("s")] == [(1, 1)]
    assert journal.problems((await log_of(store))[1:], repeats=True) == []


async def test_an_update_changes_what_is_named_and_says_whether_it_was_so(store: EventStore) -> None:
    update, policy = store.subscriptions.update, FailurePolicy(attempts=2)
    await store.subscribe("s", All(), policy=policy, sink="https://a", sink_options={"timeout": 5})

    async def options() -> Any:
        return (await store.subscriptions.get("s")).options

    assert not await update("s", policy=policy)
    assert not await update("s")
    assert await update("s", policy=None)
    assert await options() == {"sink": "https://a", "sink_options": {"timeout": 5}}
    assert await update("s", sink_options={"tags": True})
    assert await update("s", policy=policy)
    assert await options() == {"policy": {"attempts": 2}, "sink": "https://a", "sink_options": {"tags": True}}
    assert await update("s", sink="stdout")
    assert await update("s", sink=None)
    assert await options() == {"policy": {"attempts": 2}}


@pytest.mark.parametrize(
    "changes", [{"sink": "ftp://x"}, {"sink_options": {"timeout": 5}}, {"sink": "stdout", "sink_options": {"x": 1}}]
)
async def test_an_update_to_what_is_no_sink_is_refused(store: EventStore, changes: Any) -> None:
    await store.subscribe("s", All())
    with pytest.raises(ConfigurationError):
        await store.subscriptions.update("s", **changes)
    with pytest.raises(SubscriptionNotFound):
        await store.subscriptions.update("t", policy=None)
    assert (await store.subscriptions.get("s")).options == {}


async def test_what_is_declared_again_as_it_was_changed_is_the_same(store: EventStore) -> None:
    policy = FailurePolicy(attempts=2)
    await store.subscribe("s", All())
    await store.subscriptions.update("s", policy=policy, sink="stdout")
    await store.subscribe("s", All(), policy=policy, sink="stdout")
    with pytest.raises(SubscriptionExists) as caught:
        await store.subscribe("s", All())
    assert caught.value.fields == ("policy", "sink")


async def test_a_stopped_share_goes_to_another_node_and_stays_there(db: str) -> None:
    journal = Journal()
    async with (
        EventStore(db, settings=QUICK, node_name="one") as one,
        EventStore(db, settings=QUICK, node_name="two") as two,
    ):
        await one.subscribe("s", All(), pool_size=4)
        for store in (one, two):
            noted(store, "s", journal)
        async with running(one), running(two):
            await asyncio.wait_for(one._pools.moments.next("claimed"), 30)
            await one.subscriptions.stop("s")
            assert one._pools.of("s") == []
            await until_owned(one, {"two": 4})
            await fill(one, 20)
            await journal.has(20)
            one.subscriptions.start("s")
            with pytest.raises(AlreadyStarted):
                one.subscriptions.start("s")
            await until_owned(one, {"one": 2, "two": 2})
    assert journal.problems([]) == []


async def until_owned(store: EventStore, shares: dict[str, int]) -> None:
    """Wait until each node owns so many partitions of ``s``."""
    async with asyncio.timeout(30):
        while True:
            owners = [one.owner for one in (await store.subscriptions.get("s")).partitions]
            if {name: owners.count(name) for name in shares} == shares:
                return
            await asyncio.sleep(0.02)


async def test_a_node_that_joins_gets_its_share_step_by_step(db: str) -> None:
    journal, moved = Journal(), list[int]()
    async with (
        EventStore(db, settings=QUICK, node_name="one") as one,
        EventStore(db, settings=QUICK, node_name="two") as two,
    ):
        await one.subscribe("s", All(), pool_size=20)
        for store in (one, two):
            noted(store, "s", journal)
        async with running(one):
            await until_owned(one, {"one": 20})
            release = one._pools._release

            def counted(emitters: Any) -> None:
                moved.append(len(emitters))
                release(emitters)

            one._pools._release = counted  # type: ignore[method-assign]
            async with running(two):
                await fill(one, 100, streams=40)
                await until_owned(one, {"one": 10, "two": 10})
                await journal.has(100)
    assert max(moved) <= 2
    assert journal.problems([]) == []


async def test_the_health_check_wakes_sleepers_and_ends_orphans(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)
    async with running(store):
        await fill(store, 1)
        await journal.has(1)
        (emitter,) = store._pools.of("s")
        while emitter.task is not None:
            await asyncio.sleep(0.01)
        emitter.cut()  # and nobody wakes it
        store._feed.leave(emitter.handle)
        store._pools.registry.register_consumer(("orphan", 0), Consumer(journal.has))
        assert store._pools.check() == 2
        assert store._pools.registry.whereis(("orphan", 0)) is None
        await fill(store, 1)
        await journal.has(2)
        assert store._pools.check() == 0


async def test_a_cut_while_a_page_is_read_does_not_end_the_emitter(store: EventStore) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)
    await fill(store, 3)
    async with running(store):
        await asyncio.wait_for(store._pools.moments.next("claimed"), 30)
        (emitter,) = store._pools.of("s")
        async with asyncio.timeout(30):
            while emitter.inlet._ahead is None:
                await asyncio.sleep(0)
        emitter.cut()
        assert await journal.has(3) == [1, 2, 3]


async def test_current_is_fixed_when_the_subscription_is_made(store: EventStore) -> None:
    journal = Journal()
    await fill(store, 3)
    await store.subscribe("s", All(), after="current")
    await fill(store, 2)
    noted(store, "s", journal)
    async with running(store):
        assert await journal.has(2) == [4, 5]


async def test_waiting_covers_partitions_without_an_event(store: EventStore) -> None:
    await store.subscribe("s", EventType("A"), pool_size=8)
    noted(store, "s", Journal())
    waiting = asyncio.create_task(store.subscriptions.wait_for("s", 6, timeout=30))
    await asyncio.sleep(0)
    async with running(store):
        await fill(store, 5, streams=2)
        await store.append("quiet", [NewEvent(type="nobody wants it")])
        await waiting


async def test_waiting_for_what_never_comes_ends(store: EventStore) -> None:
    await store.subscribe("s", All())
    with pytest.raises(TimeoutError, match="'s' is not settled up to position 9"):
        await store.subscriptions.wait_for("s", 9, timeout=0.05)
    with pytest.raises(SubscriptionNotFound):
        await store.subscriptions.wait_for("t", 9)


async def test_a_subscription_that_is_made_anew_under_its_name_begins_anew(store: EventStore) -> None:
    journal = Journal()
    await store.subscribe("s", All())
    noted(store, "s", journal)
    async with running(store):
        await fill(store, 3)
        await journal.has(3)
        await store.unsubscribe("s")
        await store.subscribe("s", EventType("B"))
        await journal.has(4)
        await fill(store, 2)
        assert await journal.has(5) == [1, 2, 3, 2, 5]


async def test_one_that_is_made_anew_within_a_round_does_not_share_its_feed_with_the_old_one(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, ledger = Journal(), store._pools.ledger
    await store.subscribe("s", All())
    noted(store, "s", journal)
    owned = ledger.owned

    async def then_made_anew(node: Any) -> Any:
        found = await owned(node)
        monkeypatch.setattr(ledger, "owned", owned)
        await store.unsubscribe("s")
        await store.subscribe("s", All())
        return found

    async with running(store):
        await fill(store, 2)
        await journal.has(2)
        monkeypatch.setattr(ledger, "owned", then_made_anew)
        store._pools.lease.news.set()
        await journal.has(4)
        await fill(store, 1)
        await journal.has(5)
        await store.subscriptions.wait_for("s", 3, timeout=30)
    assert journal.positions == [1, 2, 1, 2, 3]


async def test_a_subscription_that_is_made_while_running_is_delivered(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All())(journal.note)
    store.handler("t", All())(Journal().note)
    async with running(store):
        await fill(store, 1)
        await journal.has(1)
        lost = store._pools.moments.next("lost")
        await store.unsubscribe("s")
        await asyncio.wait_for(lost, 30)  # until then the next event is delivered to the old one
        await fill(store, 1)
        await store.subscribe("s", All(), after=1)
        assert await journal.has(2) == [1, 2]


async def test_an_unfenced_settle_is_caught(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("s", All())
    noted(store, "s", Journal())
    await fill(store, 1)
    async with running(store):
        await store.subscriptions.wait_for("s", 1, timeout=30)
        (emitter,) = store._pools.of("s")
        stale = replace(emitter.claim, epoch=emitter.claim.epoch - 1)
        assert not await store._ledger.settle_one(stale, 99)
        assert await store._ledger.settle(stale.owner, [(stale, 99)]) == set()
        assert await store._ledger.release(stale.owner, [(stale, 99)]) == set()
        assert not await store._ledger.halt(stale, ValueError())
        await sql.execute("update eventstore.checkpoints set position = 99")  # what a stale one would do unfenced
        assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 99


@pytest.mark.parametrize("what", ["stop", "resize"])
async def test_a_handler_cannot_wait_for_its_own_end(store: EventStore, what: str) -> None:
    refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @store.handler("s", All())
    async def handler(event: Event, delivery: Delivery) -> None:
        try:
            await (store.subscriptions.stop("s") if what == "stop" else store.subscriptions.resize("s", 2))
        except ConfigurationError as error:
            refused.set_result(str(error))

    await store.append("s", [NewEvent("A")])
    async with store.running():
        assert "do it in another task" in await asyncio.wait_for(refused, 30)


async def test_a_run_that_cannot_start_says_so_before_the_block(store: EventStore) -> None:
    store.handler("nobody declared it")(nothing)
    with pytest.raises(SubscriptionNotFound):
        async with store.running():
            pytest.fail("there is nothing to run")


async def nothing(event: Event, delivery: Delivery) -> None:
    return None


async def test_a_claim_under_way_does_not_outlive_a_stop(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.handler("s", All(), pool_size=2)(nothing)
    claim, asked, answer = store._pools.ledger.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        claimed = await claim(*args)
        asked.set()
        await answer.wait()
        return claimed

    async with store.running():
        await store.subscriptions.stop("s")
        monkeypatch.setattr(store._pools.ledger, "claim", slow)
        store.subscriptions.start("s")
        await asyncio.wait_for(asked.wait(), 30)
        stopping = asyncio.create_task(store.subscriptions.stop("s"))
        await asyncio.sleep(0)
        answer.set()
        await asyncio.wait_for(stopping, 30)
        assert store._pools.of("s") == []


async def test_a_release_that_fails_in_any_way_is_told_as_a_loss_and_leaves_nobody_behind(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.handler("s", All())(nothing)
    release = store._pools.ledger.release

    async def full(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(store._pools.ledger, "release", release)
        raise asyncpg.DiskFullError("no space left on device")

    async with store.running():
        monkeypatch.setattr(store._pools.ledger, "release", full)
        lost = store._pools.moments.next("lost")
        await store.subscriptions.pause("s")
        await asyncio.wait_for(lost, 30)
        assert store.counts.partitions_released == 0
        await store.subscriptions.resume("s")
        result = await store.append("a", [NewEvent("A")])
        await store.subscriptions.wait_for("s", result.position, timeout=30)


async def test_positions_that_were_only_looked_at_are_void_once_a_connection_for_pages_ends(store: EventStore) -> None:
    store.handler("s", EventType("A"), after=0)(nothing)
    first = await store.append("a", [NewEvent("A")])
    await fill(store, 20)
    reached, go_on, join = asyncio.Event(), asyncio.Event(), store._feed.join

    async def held_up(*args: Any) -> None:
        reached.set()
        await go_on.wait()

    store._feed.join = held_up  # type: ignore[method-assign]
    async with store.running():
        await asyncio.wait_for(reached.wait(), 30)
        (emitter,) = store._pools.of("s")
        assert emitter.inlet.read > first.position
        emitter.inlet.read = 10**6  # as if the log had been longer before it crashed
        store._pools._pages_lost()
        assert emitter.inlet.read <= 21
        store._feed.join = join  # type: ignore[method-assign]
        go_on.set()
        await store.subscriptions.wait_for("s", 21, timeout=30)


async def test_who_is_cut_off_while_it_waits_for_the_feed_misses_nothing(store: EventStore) -> None:
    journal, waiting, join = Journal(), asyncio.Event(), store._feed.join
    store.handler("s", All())(journal.note)
    await fill(store, 20)

    async def watched(*args: Any) -> None:
        waiting.set()
        await join(*args)

    store._feed.join = watched  # type: ignore[method-assign]
    async with store._feed._paging, store.running():  # the feed is held, so that whoever joins waits
        await asyncio.wait_for(waiting.wait(), 30)
        store._pools._pages_lost()
        store._feed._paging.release()
        await journal.has(20)
        result = await store.append("a", [NewEvent("A")])
        await store.subscriptions.wait_for("s", result.position, timeout=30)
        await store._feed._paging.acquire()
    assert journal.positions == list(range(1, 22))
