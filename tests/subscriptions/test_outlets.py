"""Delivery without a handler: to mailboxes of this node, and to sinks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from eventstore import All, Delivery, Event, EventStore, NewEvent
from eventstore.pubsub import Mailbox
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import fill, running


async def received(mailbox: Any, count: int) -> list[int]:
    """Wait for so many events, and return the positions of all that came."""
    positions: list[int] = []
    async with asyncio.timeout(30):
        while len(positions) < count:
            kind, events = await mailbox.get()
            assert kind == "events"
            positions.extend(event.position for event in events)
    return positions


async def test_a_mailbox_gets_the_events_and_they_are_settled(store: EventStore) -> None:
    await store.subscribe("s", All())
    async with store.pubsub.subscription("subscription:s") as mailbox, running(store):
        await fill(store, 3)
        assert await received(mailbox, 3) == [1, 2, 3]
        await settled(store, "s", 3)


async def test_delivery_waits_without_a_mailbox_and_goes_on_with_the_next(store: EventStore) -> None:
    await store.subscribe("s", All())
    async with running(store):
        async with store.pubsub.subscription("subscription:s") as mailbox:
            await fill(store, 1)
            assert await received(mailbox, 1) == [1]
            await settled(store, "s", 1)
        await fill(store, 2)
        async with store.pubsub.subscription("subscription:s") as mailbox:
            assert await received(mailbox, 2) == [2, 3]


async def test_a_sink_that_is_changed_gets_what_comes_from_then_on(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a round had asked for the sinks just before, and claims with what it knew."""
    ledger, owned = store._pools.ledger, store._pools.ledger.owned
    await store.subscribe("s", All(), sink="pubsub:old")

    async def then_changed(node: Any) -> Any:
        monkeypatch.setattr(ledger, "owned", owned)
        assert await store.subscriptions.update("s", sink="pubsub:new")
        return await owned(node)

    async with store.pubsub.subscription("old", "new") as messages, running(store):
        await fill(store, 1)
        assert (await messages.get())[1]["position"] == 1
        await settled(store, "s", 1)
        monkeypatch.setattr(ledger, "owned", then_changed)
        store._pools.lease.news.set()
        await until_delivered_to(store, "pubsub:new")
        async with store.pubsub.subscription("new") as new:
            await fill(store, 1)
            assert (await asyncio.wait_for(new.get(), 30))[1]["position"] == 2


async def until_delivered_to(store: EventStore, sink: str) -> None:
    """Wait until the emitter of ``s`` runs with what is registered for *sink*."""
    async with asyncio.timeout(30):
        while True:
            opened = store._outlets._sinks.get("s")
            runs = [one.registration for one in store._pools.of("s")]
            if opened is not None and opened[0]["sink"] == sink and runs == [opened[1]]:
                return
            await store._pools.moments.next("round")


async def test_a_stop_does_not_wait_for_a_mailbox(store: EventStore) -> None:
    await store.subscribe("s", All())
    run = asyncio.create_task(store.run(drain_grace=1000.0))
    async with store.pubsub.subscription("subscription:s") as mailbox:
        await fill(store, 1)
        await received(mailbox, 1)
    await fill(store, 1)
    async with asyncio.timeout(30):
        while not any(one.in_hand for one in store._pools.of("s")):
            await asyncio.sleep(0.01)
        store._pools.drain()
        await run


async def test_a_node_with_a_handler_is_preferred(db: str) -> None:
    journal = Journal()
    async with EventStore(db, settings=QUICK) as one, EventStore(db, settings=QUICK) as two:
        await one.subscribe("s", All())
        two.handler("s")(journal.note)
        mailbox: Mailbox[Any] = Mailbox()
        waiting = one.pubsub.subscribe("subscription:s", mailbox)
        if waiting is not None:
            await waiting
        async with running(one):
            await fill(one, 1)
            assert await received(mailbox, 1) == [1]
            await settled(one, "s", 1)
            async with running(two):
                await asyncio.wait_for(two._pools.moments.next("claimed"), 30)
                await fill(one, 1)
                assert await journal.has(1) == [2]
            await fill(one, 1)
            assert await received(mailbox, 1) == [3]


async def test_a_topic_gets_the_events_of_its_sink(store: EventStore) -> None:
    await store.subscribe("s", All(), sink="pubsub:orders")
    async with store.pubsub.subscription("orders") as mailbox, running(store):
        await fill(store, 2)
        async with asyncio.timeout(30):
            found = [await mailbox.get() for _ in range(2)]
    assert [(kind, event["position"]) for kind, event in found] == [("event", 1), ("event", 2)]


async def test_standard_output_gets_the_events_of_its_sink(
    store: EventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    await store.subscribe("s", All(), sink="stdout")
    await fill(store, 2)
    async with running(store):
        await settled(store, "s", 2)
    assert [json.loads(line)["position"] for line in capsys.readouterr().out.splitlines()] == [1, 2]


async def test_a_sink_whose_secret_is_missing_is_logged_and_stops_no_other(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"secret_env": "NO_SUCH_SECRET"}
    await store.subscribe("a", All(), sink="http://127.0.0.1:9/", sink_options=options)
    await store.subscribe("b", All(), sink="pubsub:orders")
    await fill(store, 1)
    async with running(store):
        await settled(store, "b", 1)
    assert "this node cannot deliver 'a'" in caplog.text
    assert "NO_SUCH_SECRET" in caplog.text
    assert (await store.subscriptions.get("a")).partitions[0].checkpoint == 0


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 513])
async def test_a_topic_that_names_no_subscription_stops_nothing(store: EventStore, name: str) -> None:
    handled = asyncio.Event()

    @store.handler("s", All())
    async def handler(event: Event, delivery: Delivery) -> None:
        handled.set()

    async with Mailbox[Any](10, "drop_oldest") as mailbox:
        store.pubsub.subscribe(f"subscription:{name}", mailbox)
        await store.append("s", [NewEvent("A")])
        async with store.running():
            await asyncio.wait_for(handled.wait(), 30)
