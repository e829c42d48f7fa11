"""Handlers of several events: together while they succeed, one by one to find a culprit."""

from __future__ import annotations

import asyncio

import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy
from eventstore.errors import ConfigurationError
from tests.subscriptions.journal import Journal, log_of, settled
from tests.subscriptions.test_run import fill, running

POLICY = FailurePolicy(attempts=2, delay=0.01)


async def test_events_come_in_lists_of_at_most_the_size_and_in_order(store: EventStore) -> None:
    sizes, positions = list[int](), list[int]()

    @store.handler("s", All(), batch_size=8)
    async def handler(events: list[Event], delivery: Delivery) -> None:
        sizes.append(len(events))
        positions.extend(event.position for event in events)

    await fill(store, 30)
    async with running(store):
        await settled(store, "s", 30)
    assert max(sizes) == 8
    assert positions == list(range(1, 31))


async def test_a_batch_that_fails_comes_one_by_one_and_only_the_culprit_is_parked(store: EventStore) -> None:
    journal, sizes = Journal(), list[int]()

    @store.handler("s", All(), batch_size=10, policy=POLICY)
    async def handler(events: list[Event], delivery: Delivery) -> None:
        sizes.append(len(events))
        if any(event.position == 3 for event in events):
            raise ValueError
        for event in events:
            await journal.note(event, delivery)

    await fill(store, 10, streams=10)
    async with running(store):
        await settled(store, "s", 10)
    assert sizes[0] == 10
    assert set(sizes[1:]) == {1}
    assert [(one.position, one.attempts) for one in await store.subscriptions.parked("s")] == [(3, 2)]
    assert journal.problems([event for event in await log_of(store) if event.position != 3]) == []


async def test_later_events_of_a_culprits_key_queue_behind_it(store: EventStore) -> None:
    journal, ill = Journal(), True

    @store.handler("s", All(), batch_size=5, policy=POLICY)
    async def handler(events: list[Event], delivery: Delivery) -> None:
        if ill and any(event.stream == "s0" for event in events):
            raise ValueError
        for event in events:
            await journal.note(event, delivery)

    await fill(store, 40, streams=4)
    async with running(store):
        await settled(store, "s", 40)
        assert {event.stream for event in journal.events} == {"s1", "s2", "s3"}
        ill = False
        assert await store.subscriptions.replay_parked("s") == 10
        await asyncio.wait_for(journal.has(40), 30)
    assert journal.problems(await log_of(store)) == []


async def test_an_event_of_a_batch_cannot_be_settled_by_hand_in_its_replay_either(store: EventStore) -> None:
    refused, ill = list[Exception](), True

    @store.handler("s", All(), batch_size=5, policy=FailurePolicy(attempts=1))
    async def handler(events: list[Event], delivery: Delivery) -> None:
        if ill:
            raise ValueError
        with pytest.raises(ConfigurationError, match="batch") as caught:
            delivery.ack()
        refused.append(caught.value)

    await fill(store, 1)
    async with running(store):
        await settled(store, "s", 1)
        ill, replayed = False, store._pools.moments.next("replayed")
        await store.subscriptions.replay_parked("s")
        await asyncio.wait_for(replayed, 30)
    assert len(refused) == 1


@pytest.mark.parametrize("size", [0, -1, 1.5, True, 10_001])
async def test_a_size_that_is_none_is_refused(store: EventStore, size: int) -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        store.handler("s", batch_size=size)
