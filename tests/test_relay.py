"""New events as PubSub messages of this node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventstore import EventStore, NewEvent, Settings
from eventstore.errors import BroadcastError, InvalidMessage
from eventstore.events import Event
from eventstore.pubsub import Mailbox
from eventstore.relay import topics_of
from tests.conftest import QUICK


@asynccontextmanager
async def another(db: str, name: str = "two", **settings: Any) -> AsyncIterator[EventStore]:
    changed = {item: getattr(QUICK, item) for item in QUICK.__slots__} | settings
    async with EventStore(db, settings=Settings(**changed), node_name=name) as store:
        yield store


async def positions(mailbox: Mailbox[Any], count: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(10):
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
        assert await positions(messages, 4) == expected


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
        await store.pubsub.broadcast("events", ("events", [event]))


async def test_messages_of_applications_reach_other_nodes(store: EventStore, db: str) -> None:
    async with another(db) as two, two.pubsub.subscription("chat") as messages, asyncio.timeout(10):
        await store.pubsub.broadcast("chat", {"text": "hello"})
        assert await messages.get() == {"text": "hello"}


async def test_the_relay_ends_with_its_last_subscriber_and_begins_anew(store: EventStore) -> None:
    ended = store._relay.moments.next("ended")
    async with store.pubsub.subscription("events"):
        assert not ended.done()
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


def event(position: int, stream: str | None, type: str) -> Event:
    return Event(None, type, None, {}, (), stream, 1, position, 0, None, None)  # type: ignore[arg-type]


def test_only_topics_somebody_wants_are_put_together() -> None:
    events = [event(1, "s", "A"), event(2, None, "B"), event(3, "s", "B")]
    found = topics_of(events, {"stream:s", "type:B", "stream:None"}.__contains__)
    assert {topic: [one.position for one in some] for topic, some in found.items()} == {
        "stream:s": [1, 3],
        "type:B": [2, 3],
    }
