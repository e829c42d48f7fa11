"""Everything that happens to subscriptions and nodes is told on the topics of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent, StreamMetadata
from eventstore.subscriptions import inlet
from eventstore.subscriptions.emitter import Emitter
from eventstore.subscriptions.ledger import Ledger
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import fill, running


class Told:
    """What was told since, by kind."""

    def __init__(self, messages: Any) -> None:
        self._messages, self.kinds = messages, list[str]()

    async def of(self, kind: str) -> dict[str, Any]:
        """Wait until *kind* is told, and return what with."""
        async with asyncio.timeout(30):
            while True:
                _, found, payload = await self._messages.get()
                self.kinds.append(found)
                if found == kind:
                    return dict(payload)


@asynccontextmanager
async def told(store: EventStore, name: str = "s") -> AsyncIterator[Told]:
    topics = store.lifecycle.subscription_topic(name), store.lifecycle.nodes_topic()
    async with store.pubsub.subscription(*topics) as messages:
        yield Told(messages)


async def test_what_operators_do_is_told(store: EventStore) -> None:
    await fill(store, 3)
    async with told(store) as tells:
        await store.subscribe("s", All())
        await tells.of("subscription_created")
        await store.subscriptions.pause("s")
        await tells.of("subscription_paused")
        await store.subscriptions.resume("s")
        await tells.of("subscription_resumed")
        await store.subscriptions.ack("s", 3)
        await store.subscriptions.rewind("s", 1)
        assert (await tells.of("subscription_rewound"))["position"] == 1
        await store.subscriptions.resize("s", 4)
        assert (await tells.of("subscription_resized"))["pool_size"] == 4
        await store.unsubscribe("s")
        assert (await tells.of("subscription_deleted"))["subscription"] == "s"


async def test_nodes_that_join_and_leave_are_told(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("s", All())
    store.handler("s")(Journal().note)
    async with told(store) as tells:
        async with running(store):
            first = await tells.of("node_joined")
            await sql.execute("delete from eventstore.nodes")
            assert (await tells.of("node_left"))["incarnation"] == first["incarnation"]
            second = await tells.of("node_joined")
        assert (await tells.of("node_left"))["incarnation"] == second["incarnation"] != first["incarnation"]


async def test_the_way_of_a_partition_is_told(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.subscribe("s", All())
    store.handler("s")(Journal().note)
    async with told(store) as tells, running(store):
        assert (await tells.of("partition_claimed"))["epoch"] == 1
        await tells.of("subscription_caught_up")
        await store.subscriptions.rewind("s", 0)
        assert (await tells.of("partition_lost"))["epoch"] == 1
        await tells.of("partition_claimed")
        await store.subscriptions.stop("s")
        await tells.of("partition_released")


async def test_what_a_round_finds_given_back_before_the_answer_is_there_is_not_told_as_lost(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Ledger.release

    async def answered_late(ledger: Ledger, *args: Any, **named: Any) -> Any:
        answer = await release(ledger, *args, **named)
        for _ in range(2):  # the first may have asked before
            done = store._pools.moments.next("round")
            store._pools.lease.news.set()
            await done
        return answer

    monkeypatch.setattr(Ledger, "release", answered_late)
    await store.subscribe("s", All())
    store.handler("s")(Journal().note)
    async with told(store) as tells, running(store):
        await tells.of("subscription_caught_up")
        await store.subscriptions.pause("s")
        await tells.of("partition_released")
    assert store.counts.partitions_lost == 0


@pytest.mark.parametrize("leaves_first", [False, True])
async def test_a_node_that_leaves_while_a_partition_is_given_back_tells_that_once_and_of_no_loss(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, leaves_first: bool
) -> None:
    release, leave, given_back, leaving = Ledger.release, Ledger.leave, asyncio.Event(), asyncio.Event()

    async def answered_late(ledger: Ledger, *args: Any, **named: Any) -> Any:
        answer = None if leaves_first else await release(ledger, *args, **named)
        given_back.set()
        await leaving.wait()
        return await release(ledger, *args, **named) if leaves_first else answer

    async def left_meanwhile(ledger: Ledger, *args: Any) -> None:
        if leaves_first:
            await leave(ledger, *args)
        leaving.set()
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name().startswith("release")])
        if not leaves_first:
            await leave(ledger, *args)

    monkeypatch.setattr(Ledger, "release", answered_late)
    monkeypatch.setattr(Ledger, "leave", left_meanwhile)
    store.handler("s", All())(Journal().note)
    async with running(store):
        await store._pools.moments.next("live")
        await store.subscriptions.pause("s")
        await given_back.wait()
    assert (store.counts.partitions_released, store.counts.partitions_lost) == (1, 0)


async def test_an_emitter_that_starts_sleeps_and_goes_on_is_told(db: str) -> None:
    async with EventStore(db, settings=replace(QUICK, hibernate_after=0.05)) as store:
        journal = Journal()
        store.handler("s", All())(journal.note)
        async with told(store) as tells, running(store):
            await tells.of("subscription_caught_up")
            await fill(store, 1)
            assert (await tells.of("emitter_started"))["partition"] == 0
            await tells.of("emitter_suspended")
            await fill(store, 1)
            await tells.of("emitter_resumed")
            assert await journal.has(2) == [1, 2]


async def test_what_a_scavenging_removed_is_told_and_what_it_only_counts_is_not(store: EventStore) -> None:
    await fill(store, 3, streams=1)
    await store.set_stream_metadata("s0", StreamMetadata(max_count=1))
    async with store.pubsub.subscription(store.lifecycle.log_topic()) as messages:
        assert (await store.scavenge(dry_run=True)).events == 2
        await store.scavenge()
        assert (await Told(messages).of("scavenged"))["events"] == 2
        await store.scavenge()
        assert (await Told(messages).of("scavenged"))["events"] == 0


async def test_a_key_is_told_as_its_stream_or_the_id_of_its_event(store: EventStore) -> None:
    ill = True

    @store.handler("s", All(), policy=FailurePolicy(attempts=1))
    async def handler(event: Event, delivery: Delivery) -> None:
        if ill:
            raise ValueError

    one = NewEvent(type="A")
    async with told(store) as tells, running(store):
        await store.append("s:e", [NewEvent(type="A")])
        assert (await tells.of("event_parked"))["key"] == "s:e"
        await store.append(None, [one])
        assert (await tells.of("event_parked"))["key"] == str(one.id)
        ill = False
        await store.subscriptions.replay_parked("s", key=str(one.id))
        assert (await tells.of("event_replayed"))["key"] == str(one.id)
        await store.subscriptions.discard_parked("s", key="s:e")
        assert (await tells.of("event_discarded"))["key"] == "s:e"


async def test_a_crash_is_told(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(emitter: Emitter, event: Event) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Emitter, "_settle", crash)
    store.handler("s", All())(Journal().note)
    await fill(store, 1)
    async with told(store) as tells, running(store):
        assert (await tells.of("emitter_crashed"))["error"] == "ZeroDivisionError"


async def test_what_is_parked_replayed_and_discarded_is_told(store: EventStore) -> None:
    ill = True

    @store.handler("s", All(), policy=FailurePolicy(attempts=1))
    async def handler(event: Event, delivery: Delivery) -> None:
        if ill:
            raise ValueError("ill")

    await store.append_known(["a", "b"], [NewEvent(type="A") for _ in range(2)])
    async with told(store) as tells, running(store):
        parked = await tells.of("event_parked")
        assert (parked["position"], parked["error"], parked["message"]) == (1, "ValueError", "ill")
        await settled(store, "s", 2)
        ill = False
        await store.subscriptions.replay_parked("s", position=1)
        assert (await tells.of("event_replayed"))["position"] == 1
        await store.subscriptions.discard_parked("s", position=2)
        assert (await tells.of("event_discarded"))["position"] == 2


@pytest.mark.parametrize(("then", "kind"), [("skip", "event_skipped"), ("halt", "partition_halted")])
async def test_what_else_follows_a_failure_is_told(store: EventStore, then: Any, kind: str) -> None:
    @store.handler("s", All(), policy=FailurePolicy(attempts=1, then=then))
    async def handler(event: Event, delivery: Delivery) -> None:
        raise ValueError("ill")

    await fill(store, 1)
    async with told(store) as tells, running(store):
        assert (await tells.of(kind))["error"] == "ValueError"
        if then == "halt":
            assert (await tells.of("subscription_halted"))["error"] == "ValueError"


async def test_an_emitter_that_lags_behind_the_feed_is_told(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlet, "MOST", 5)
    journal, go = Journal(), asyncio.Event()

    @store.handler("s", All())
    async def handler(event: Event, delivery: Delivery) -> None:
        await go.wait()
        await journal.note(event, delivery)

    async with told(store) as tells, running(store):
        await tells.of("subscription_caught_up")
        await fill(store, 20)
        await tells.of("subscription_lagging")
        go.set()
        await tells.of("subscription_caught_up")
        assert await journal.has(20) == list(range(1, 21))
