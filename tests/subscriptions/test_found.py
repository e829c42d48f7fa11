"""What simulations found, said in the words of an application."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import asyncpg

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent, StreamAppend
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Failed, key_of
from tests.subscriptions.journal import Journal, settled


def events(count: int) -> list[NewEvent]:
    return [NewEvent("Happened") for _ in range(count)]


async def claimed(ledger: Ledger, name: str) -> tuple[UUID, list]:
    await ledger.register(node := uuid4(), "an earlier owner", 60)
    return node, (await ledger.claim(node, [name])).claims


async def test_a_replay_waits_for_what_an_earlier_owner_handled_and_did_not_settle(store: EventStore) -> None:
    """It parked the second event before the checkpoint passed the first, which therefore comes again."""
    await store.append("a", events(2))
    second = [event async for event in store.read_all()][-1]
    await store.subscribe("s", All())
    node, (claim,) = await claimed(store._ledger, "s")
    await store._ledger.settle_one(claim, None, [Failed(2, second.bucket, key_of(second), attempts=1)])
    await store._ledger.leave(node)
    await store.subscriptions.replay_parked("s")
    journal = Journal()
    store.handler("s")(journal.note)
    async with store.running():
        assert await journal.has(2) == [1, 2]


async def test_an_event_that_fails_its_replay_alone_holds_back_no_later_one(store: EventStore) -> None:
    """The later one came during the replay, and waits for its end only."""
    journal, held, go = Journal(), asyncio.Event(), asyncio.Event()

    @store.handler("s", All(), policy=FailurePolicy(attempts=1, then="park_event"))
    async def handle(event: Event, delivery: Delivery) -> None:
        if event.position == 1:
            if delivery.attempt > 1:
                held.set()
                await go.wait()
            raise ValueError("no")
        await journal.note(event, delivery)

    async with store.running():
        parked = store._pools.moments.next("parked")
        await store.append("a", events(1))
        await parked
        await store.subscriptions.replay_parked("s")
        await held.wait()
        await store.append("a", events(1))
        go.set()
        assert await journal.has(1) == [2]


async def test_a_node_is_reminded_of_what_it_owns_and_could_not_free(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    """The reply to its claim was lost, somebody had the row locked, and a resize waits for it."""
    ledger = store._ledger
    await store.subscribe("s", All())
    node, _ = await claimed(ledger, "s")
    assert not await ledger.resize("s", 2)
    async with sql.transaction():
        await sql.execute("select from eventstore.checkpoints for update")
        assert (await ledger.claim(node, ["s"])).missing == 1
    assert [claim.partition for claim in (await ledger.claim(node, ["s"])).claims] == [0, 1]


async def test_what_queues_behind_a_parked_event_is_parked_with_the_one_that_fails_beside_it(store: EventStore) -> None:
    """In one batch of a projection: an event of a closed key, and one that is parked now."""

    @store.projection("s", All(), batch_size=10, policy=FailurePolicy(attempts=1))
    async def project(_batch: list[Event], _tx: object) -> None:
        raise ValueError("no")

    await store.append("a", events(1))
    async with store.running():
        await settled(store, "s", 1)
        await store.append_many([StreamAppend("a", events(1)), StreamAppend("b", events(1))])
        await settled(store, "s", 3)
        assert [one.position for one in await store.subscriptions.parked("s")] == [1, 2, 3]


async def test_an_emitter_that_ends_late_does_not_take_its_successor_from_the_feed(store: EventStore) -> None:
    """The reply to a release came after the node had claimed the partition again."""
    journal = Journal()
    store.handler("s", All())(journal.note)
    live = store._pools.moments.next("live")
    async with store.running():
        await live
        (first,) = store._pools.emitters
        live = store._pools.moments.next("live")
        await store.subscriptions.rewind("s", 0)
        await live
        first.close()
        await store.append("a", events(1))
        assert await journal.has(1) == [1]
