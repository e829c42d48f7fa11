"""New events as PubSub messages of this node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore, NewEvent, Settings
from eventstore.errors import BroadcastError, ConfigurationError, EventStoreError, InvalidMessage, PubSubClosed
from eventstore.events import Event
from eventstore.pubsub import CONNECTION, Envelope, Mailbox, hub
from eventstore.relay import topics_of
from tests.conftest import QUICK


@asynccontextmanager
async def another(db: str, name: str = "two", **settings: Any) -> AsyncIterator[EventStore]:
    changed = {item: getattr(QUICK, item) for item in QUICK.__slots__} | settings
    async with EventStore(db, settings=Settings(**changed), node_name=name) as store:
        await heard(store)
        yield store


async def heard(store: EventStore) -> None:
    """Wait until messages of other nodes arrive: opening a store does so for a second at most."""
    if store._signals.listener is not None:
        await store._signals.listener.ready(30)


async def positions(mailbox: Mailbox[Any], count: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            kind, events = await mailbox.get()
            assert kind == "events"
            found += [event.position for event in events]
    return found


@pytest.mark.parametrize("topic", ["events", "stream:order-1", "type:Placed"])
async def test_new_events_arrive_on_their_topics(store: EventStore, topic: str) -> None:
    async with store.pubsub.subscription(topic) as messages:
        placed = await store.append("order-1", [NewEvent("Placed"), NewEvent("Placed")])
        assert await positions(messages, 2) == [placed.first_position, placed.position]


async def test_topics_tell_events_apart(store: EventStore) -> None:
    async with store.pubsub.subscription("stream:a", "type:B") as messages:
        wanted = [await store.append("a", [NewEvent("A")]), await store.append("b", [NewEvent("B")])]
        await store.append("b", [NewEvent("A")])
        both = await store.append("a", [NewEvent("B")])
        expected = [*(one.position for one in wanted), both.position, both.position]
        assert sorted(await positions(messages, 4)) == expected  # a page brings those of a topic together


async def test_every_node_relays_to_its_own_subscribers_once(store: EventStore, db: str) -> None:
    async with (
        another(db) as two,
        store.pubsub.subscription("events") as here,
        two.pubsub.subscription("events") as there,
    ):
        done = [await store.append("a", [NewEvent("A")]) for _ in range(20)]
        done += [await two.append("a", [NewEvent("A")]) for _ in range(20)]
        expected = [one.position for one in done]
        assert await positions(here, 40) == expected
        assert await positions(there, 40) == expected
        assert not len(here)
        assert not len(there)


async def test_events_cannot_be_broadcast_to_other_nodes(store: EventStore) -> None:
    await store.append("a", [NewEvent("A")])
    (event,) = [event async for event in store.read("a")]
    with pytest.raises(InvalidMessage):
        await store.pubsub.broadcast("elsewhere", ("events", [event]))


async def test_messages_of_applications_reach_other_nodes(store: EventStore, db: str) -> None:
    async with another(db) as two, two.pubsub.subscription("chat") as messages, asyncio.timeout(30):
        await store.pubsub.broadcast("chat", {"text": "hello"})
        assert await messages.get() == {"text": "hello"}


async def test_the_relay_ends_with_its_last_subscriber_and_begins_anew(store: EventStore) -> None:
    ended = store._relay.moments.next("ended")
    async with store.pubsub.subscription("events"):
        assert not ended.done()
    async with asyncio.timeout(30):
        await ended
    await store.append("a", [NewEvent("A")])
    async with store.pubsub.subscription("events") as messages:
        later = await store.append("a", [NewEvent("A")])
        assert await positions(messages, 1) == [later.position]


async def test_a_store_that_does_not_listen_says_so_instead_of_broadcasting_to_nobody(db: str) -> None:
    async with another(db, listen=False) as store, store.pubsub.subscription("events", "chat") as messages:
        with pytest.raises(BroadcastError, match="listen"):
            await store.pubsub.broadcast("chat", "hello")
        await store.pubsub.local_broadcast("chat", "hello")
        assert await messages.get() == "hello"
        done = await store.append("a", [NewEvent("A")])
        assert await positions(messages, 1) == [done.position]


async def test_one_who_gives_up_waiting_disturbs_nobody_else(store: EventStore) -> None:
    going = asyncio.Event()
    position = store._relay._position

    async def slowly() -> int:
        await going.wait()
        return await position()

    store._relay._position = slowly
    impatient = asyncio.create_task(store.pubsub.subscription("events").__aenter__())
    patient = store.pubsub.subscription("events")
    entering = asyncio.create_task(patient.__aenter__())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    going.set()
    await entering
    async with store.pubsub.subscription("events") as later:
        done = await store.append("a", [NewEvent("A")])
        assert await positions(patient, 1) == await positions(later, 1) == [done.position]
    patient.close()


async def test_closing_while_the_relay_begins_says_so(db: str) -> None:
    async with another(db) as store:
        store._relay._position = asyncio.Event().wait  # type: ignore[assignment]
        ready = store.pubsub.subscribe("events", kept := Mailbox())
        assert ready is not None
    with pytest.raises(PubSubClosed):
        await ready
    del kept


async def test_a_last_subscriber_that_leaves_ends_the_wait_of_others_in_peace(store: EventStore) -> None:
    store._relay._position = asyncio.Event().wait  # type: ignore[assignment]
    ready = store.pubsub.subscribe("events", mailbox := Mailbox())
    mailbox.close()
    async with asyncio.timeout(30):
        await ready  # type: ignore[misc]


async def test_the_relay_goes_on_after_an_error_it_does_not_know(store: EventStore, sql: asyncpg.Connection) -> None:
    async with store.pubsub.subscription("events") as messages:
        await sql.execute("alter function eventstore.read_events_v1 rename to hidden")
        with suppress(EventStoreError):
            await store.append("a", [NewEvent("A")])
        await sql.execute("alter function eventstore.hidden rename to read_events_v1")
        done = await store.append("a", [NewEvent("A")])
        assert (await positions(messages, 2))[-1] == done.position


async def test_a_full_mailbox_with_the_rule_to_block_stops_nobody_elses_events(store: EventStore) -> None:
    stalled: Mailbox[Any] = Mailbox(1, "block")
    async with store.pubsub.subscription("events") as messages:
        store.pubsub.subscribe("events", stalled)
        for _ in range(2):
            await store.append("a", [NewEvent("A")])
            assert len(await positions(messages, 1)) == 1  # or both might come together
    assert stalled.dropped == 1


@pytest.mark.parametrize("topic", ["events", "stream:a", "type:A", CONNECTION])
async def test_nothing_of_these_topics_leaves_its_node_or_comes_from_another(store: EventStore, topic: str) -> None:
    with pytest.raises(ConfigurationError, match="stay on their node"):
        await store.pubsub.broadcast(topic, ("events", []))
    with pytest.raises(ConfigurationError, match="stay on their node"):
        await store.pubsub.direct_broadcast("two", topic, ("events", []))
    async with store.pubsub.subscription(topic) as messages:
        forged = Envelope("all", "two", "origin", topic, '["events"]')
        hub._Inbox(store.pubsub)(forged)
        assert not len(messages)
    assert store.pubsub.stats().rejected == 1


def event(position: int, stream: str | None, type: str) -> Event:
    return Event(None, type, None, {}, (), stream, 1, position, 0, None, None)  # type: ignore[arg-type]


def test_only_topics_somebody_wants_are_put_together() -> None:
    events = [event(1, "s", "A"), event(2, None, "B"), event(3, "s", "B")]
    found = topics_of(events, {"stream:s", "type:B", "stream:None"}.__contains__)
    assert {topic: [one.position for one in some] for topic, some in found.items()} == {
        "stream:s": [1, 3],
        "type:B": [2, 3],
    }
