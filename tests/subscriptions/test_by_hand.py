"""Settling by hand: later, refused, parked, never, too late."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent
from eventstore.errors import ConfigurationError, LeaseLost
from eventstore.subscriptions.delivery import Outcome
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, log_of, settled
from tests.subscriptions.test_parking import taken_away
from tests.subscriptions.test_run import fill, running

POLICY = FailurePolicy(attempts=2, delay=0.01)


def manual(store: EventStore, journal: Journal, policy: FailurePolicy = POLICY) -> None:
    store.handler("s", All(), ack="manual", policy=policy)(journal.note)


async def test_returning_settles_nothing(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 3, streams=3)
    async with running(store):
        await journal.has(3)
        journal.deliveries[1].ack()
        journal.deliveries[0].ack()
        await settled(store, "s", 2)
        assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 2


async def test_the_next_event_of_a_key_waits_for_the_word(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await store.append_known(["a", "a", "b"], [NewEvent(type="A") for _ in range(3)])
    async with running(store):
        assert await journal.has(2) == [1, 3]
        journal.deliveries[0].ack()
        assert await journal.has(3) == [1, 3, 2]


async def test_a_nack_can_say_when_the_next_attempt_is(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal, FailurePolicy(delay=1000.0, delay_max=1000.0))
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        journal.deliveries[0].nack("later", delay=0.01)
        await journal.has(2)
    assert journal.attempts == [1, 2]


async def test_the_last_nack_is_followed_by_what_the_policy_says(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 1)
    async with running(store):
        for n in range(2):
            await journal.has(n + 1)
            journal.deliveries[n].nack("no")
        await settled(store, "s", 1)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.error, parked.message, parked.attempts) == ("Nacked", "no", 2)


async def test_park_asks_no_policy(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await store.append_known(["a", "a"], [NewEvent(type="A") for _ in range(2)])
    async with running(store):
        await journal.has(1)
        journal.deliveries[0].park("enough")
        await settled(store, "s", 2)
    found = await store.subscriptions.parked("s")
    assert [(one.position, one.attempts, one.message) for one in found] == [(1, 1, "enough"), (2, 0, None)]


async def test_what_is_never_settled_counts_as_failed_after_the_timeout(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal, FailurePolicy(attempts=2, delay=0.01, timeout=0.05))
    await fill(store, 1)
    async with running(store):
        await settled(store, "s", 1)
    (parked,) = await store.subscriptions.parked("s")
    assert journal.attempts == [1, 2]
    assert parked.message == "not settled within 0.05 s"


class Standing:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        until = self.now + seconds
        while not event.is_set() and self.now < until:
            await asyncio.sleep(0.001)
        return event.is_set()


async def test_the_timeout_of_a_delivery_does_not_end_the_next_one(store: EventStore) -> None:
    journal, clock = Journal(), Standing()
    manual(store, journal, FailurePolicy(attempts=5, timeout=50))
    store._pools.clock = clock
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        failed = store._pools.moments.next("failed")
        journal.deliveries[0].nack(delay=20)
        await asyncio.wait_for(failed, 30)
        clock.now = 20
        await journal.has(2)
        clock.now = 60  # the first delivery's time is over, that of the second is not
        async with asyncio.timeout(30):
            while store._pools.of("s")[0]._retries[0][0] <= clock.now:
                await asyncio.sleep(0.001)
        journal.deliveries[1].ack()
        await settled(store, "s", 1)
    assert journal.attempts == [1, 2]
    assert journal.deliveries[0].outcome != journal.deliveries[1].outcome


async def test_only_the_first_word_counts(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        journal.deliveries[0].ack()
        journal.deliveries[0].park()
        await settled(store, "s", 1)
    assert await store.subscriptions.parked("s") == []


async def test_a_word_after_the_partition_was_lost_is_refused(store: EventStore, sql: asyncpg.Connection) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        await taken_away(store, sql)
        for word in (journal.deliveries[0].ack, journal.deliveries[0].nack, journal.deliveries[0].park):
            journal.deliveries[0].outcome = None
            with pytest.raises(LeaseLost):
                word()
        await journal.has(2)
    assert journal.epochs == [1, 3]


async def test_an_early_ack_counts_whatever_the_handler_does_afterwards(store: EventStore) -> None:
    deliveries: list[Delivery] = []

    @store.handler("s", All(), policy=POLICY)
    async def handler(event: Event, delivery: Delivery) -> None:
        deliveries.append(delivery)
        delivery.ack()
        raise ValueError

    await fill(store, 2)
    async with running(store):
        await settled(store, "s", 2)
    assert len(deliveries) == 2
    assert await store.subscriptions.parked("s", state=None) == []


async def test_an_early_ack_counts_when_the_handler_is_cancelled_at_the_stop(db: str) -> None:
    acked = asyncio.Event()
    async with EventStore(db, settings=QUICK) as store:

        @store.handler("s", All())
        async def handler(event: Event, delivery: Delivery) -> None:
            delivery.ack()
            acked.set()
            await asyncio.Event().wait()

        await fill(store, 1)
        async with running(store):
            await asyncio.wait_for(acked.wait(), 30)
        assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 1


async def test_a_clean_stop_settles_what_was_acknowledged_just_before(db: str) -> None:
    async with EventStore(db, settings=QUICK) as store:
        journal = Journal()
        manual(store, journal)
        await fill(store, 2, streams=2)
        async with running(store):
            await journal.has(2)
            store._pools.of("s")[0].stop()
            for delivery in journal.deliveries:
                delivery.ack()
        assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 2


async def test_what_is_open_when_a_node_stops_is_delivered_again(db: str) -> None:
    journal = Journal()
    for _ in range(2):
        async with EventStore(db, settings=QUICK) as store:
            manual(store, journal)
            if not journal.events:
                await fill(store, 1)
            async with running(store):
                await journal.has(len(journal.events) + 1)
    assert journal.positions == [1, 1]


async def test_a_batch_cannot_be_settled_by_hand(store: EventStore) -> None:
    refused: list[Exception] = []

    @store.handler("s", All(), batch_size=10)
    async def handler(events: list[Event], delivery: Delivery) -> None:
        try:
            delivery.ack()
        except ConfigurationError as error:
            refused.append(error)

    await fill(store, 3)
    async with running(store):
        await settled(store, "s", 3)
        await fill(store, 1)
        await settled(store, "s", 4)
    assert len(refused) == 2
    with pytest.raises(ConfigurationError, match="batch"):
        store.handler("t", batch_size=2, ack="manual")


async def test_a_replayed_event_is_settled_by_hand_as_well(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        journal.deliveries[0].park()
        await settled(store, "s", 1)
        await store.subscriptions.replay_parked("s")
        await journal.has(2)
        replayed = store._pools.moments.next("replayed")
        journal.deliveries[1].ack()
        await asyncio.wait_for(replayed, 30)
    assert journal.attempts == [1, 2]
    assert await store.subscriptions.parked("s") == []


async def test_a_word_about_a_replay_that_comes_after_the_partition_was_lost_is_told(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 1)
    async with running(store):
        await journal.has(1)
        journal.deliveries[0].park()
        await settled(store, "s", 1)
        await store.subscriptions.replay_parked("s")
        await journal.has(2)
        await taken_away(store, sql)
        with pytest.raises(LeaseLost):
            journal.deliveries[1].ack()
        await journal.has(3)
        replayed = store._pools.moments.next("replayed")
        journal.deliveries[2].ack()
        await asyncio.wait_for(replayed, 30)
    assert await store.subscriptions.parked("s") == []


async def test_words_in_any_order_lose_and_double_nothing(store: EventStore) -> None:
    journal = Journal()
    manual(store, journal)
    await fill(store, 60, streams=9)
    done: set[int] = set()
    async with running(store):
        while len(done) < 60:
            await journal.has(len(done) + 1)
            for n in sorted(set(range(len(journal.deliveries))) - done, key=lambda n: -n * 7 % 11):
                done.add(n)
                journal.deliveries[n].ack()
        await settled(store, "s", 60)
    assert journal.problems(await log_of(store)) == []


async def test_a_word_about_an_attempt_that_failed_says_nothing_about_the_next(store: EventStore) -> None:
    deliveries: list[Delivery] = []
    second = asyncio.Event()

    @store.handler("s", All(), ack="manual", policy=FailurePolicy(attempts=3, delay=0.01))
    async def handler(event: Event, delivery: Delivery) -> None:
        deliveries.append(delivery)
        if len(deliveries) == 1:
            raise ValueError
        second.set()

    position = (await store.append("s", [NewEvent("A")])).position
    async with store.running():
        await asyncio.wait_for(second.wait(), 30)
        deliveries[0].park()
        assert (await store.subscriptions.lag("s"))[0].behind == 1
        deliveries[1].ack()
        await store.subscriptions.wait_for("s", position, timeout=30)
    assert await store.subscriptions.parked("s", state=None) == []


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), -1, 10**400, "3"])
async def test_a_pause_that_is_none_is_refused(delay: float) -> None:
    with pytest.raises(ConfigurationError, match="delay"):
        Delivery("s", 0, 1, 1).nack(delay=delay)


@pytest.mark.parametrize("asked", [float("nan"), 10**400, "soon", None])
async def test_an_error_that_asks_for_no_pause_gets_that_of_the_policy(asked: object) -> None:
    error = ValueError()
    error.retry_after = asked  # type: ignore[attr-defined]
    assert Outcome(error).pause(2.5) == 2.5
