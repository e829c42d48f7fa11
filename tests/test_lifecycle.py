"""What happens to workflows and to a store, as PubSub messages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from eventstore.errors import AlreadyStarted, ConfigurationError, EventStoreError, InvalidEvent, PubSubClosed
from eventstore.lifecycle import (
    Kind,
    NoPubSub,
    StoreKind,
    StoreLifecycle,
    WorkflowKind,
    WorkflowLifecycle,
    server_for,
    stores,
)
from eventstore.lifecycle.families import Losses
from eventstore.mailbox import Mailbox
from eventstore.pubsub import Local, LocalHub, PubSub
from eventstore.pubsub.local import Alone
from tests.pubsub import nodes
from tests.pubsub.nodes import Cluster, received

PAGE = Path(__file__).parent.parent / "docs" / "lifecycle.md"
AT = 1_700_000_000.25
AT_ISO = datetime.fromtimestamp(AT, UTC).isoformat(timespec="microseconds")
TIME = "2026-01-01T00:00:00Z"
WORKFLOW = {
    "id": "w1",
    "module": "shop.Order",
    "name": "order",
    "status": "running",
    "queue": "default",
    "current_step": "pay",
    "started_at": TIME,
}
STEP = {
    "id": "s1",
    "workflow_id": "w1",
    "name": "pay",
    "type": "step",
    "status": "completed",
    "attempt": 1,
    "duration_ms": 12,
    "completed_at": TIME,
}
INPUT = {
    "id": "i1",
    "workflow_id": "w1",
    "input_name": "approval",
    "step_name": "approve",
    "type": "form",
    "status": "pending",
    "prompt": "Approve?",
    "timeout_at": None,
}
SCHEDULE = {"name": "nightly", "enabled": True}


@pytest.fixture(params=["local", "postgres"])
def unopened(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "postgres":
        return nodes.postgres_cluster(request.getfixturevalue("db"))
    hub = LocalHub()
    return Cluster(lambda node: Local(hub, node))


@pytest.fixture
async def cluster(unopened: Cluster) -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub, in this process and over Postgres in turn."""
    async with unopened.stack:
        yield unopened


@pytest.fixture
async def pubsub() -> AsyncIterator[PubSub]:
    """A node that is alone."""
    async with PubSub("alone") as opened:
        yield opened


class Failing(Local):
    """An adapter that cannot send."""

    async def broadcast(self, envelope: Any) -> None:
        raise OSError("the cable is cut")


class Stuck(Local):
    """An adapter that never finishes to send."""

    async def broadcast(self, envelope: Any) -> None:
        await asyncio.Event().wait()


def listening(to: WorkflowLifecycle | StoreLifecycle, *topics: str, **options: Any) -> Mailbox[Any]:
    mailbox: Mailbox[Any] = Mailbox(**options)
    for topic in topics:
        to.subscribe(topic, mailbox)
    return mailbox


def queued(mailbox: Mailbox[Any]) -> list[Any]:
    return mailbox.take_nowait(len(mailbox))


def kinds(messages: list[Any]) -> list[str]:
    return [kind for _, kind, _ in messages]


async def tell(lifecycle: WorkflowLifecycle, kind: Kind, payload: Any) -> None:
    await getattr(lifecycle, f"broadcast_{kind.partition('_')[0]}")(kind, payload)


# -- workflows: topics, messages, kinds


def test_the_topics_of_an_instance_bear_its_name() -> None:
    durable = WorkflowLifecycle("shop")
    assert durable.workflows_topic() == "durable:shop:workflows"
    assert durable.workflow_topic("w1") == "durable:shop:workflow:w1"
    assert durable.schedules_topic() == "durable:shop:schedules"
    assert durable.inputs_topic() == "durable:shop:inputs"


def test_there_are_fourteen_kinds_and_each_is_a_string() -> None:
    assert issubclass(Kind, StrEnum)
    assert Kind is WorkflowKind is WorkflowLifecycle.Kind
    assert set(Kind) == {
        *("workflow_started", "workflow_resumed", "workflow_waiting", "workflow_completed", "workflow_failed"),
        *("workflow_cancelled", "step_started", "step_completed", "step_failed", "step_waiting"),
        *("input_requested", "input_provided", "schedule_toggled", "schedule_triggered"),
    }


ROUTES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "workflow": (WORKFLOW, ["durable:shop:workflows", "durable:shop:workflow:w1"]),
    "step": (STEP, ["durable:shop:workflow:w1"]),
    "input": (INPUT, ["durable:shop:inputs", "durable:shop:workflow:w1"]),
    "schedule": (SCHEDULE, ["durable:shop:schedules"]),
}
TOPICS = sorted({topic for _, topics in ROUTES.values() for topic in topics})


@pytest.mark.parametrize("kind", Kind)
async def test_each_kind_goes_to_the_topics_of_its_family_and_no_others(kind: Kind, pubsub: PubSub) -> None:
    payload, topics = ROUTES[kind.partition("_")[0]]
    async with WorkflowLifecycle("shop", pubsub) as durable:
        mailboxes = {topic: listening(durable, topic) for topic in TOPICS}
        await tell(durable, kind, payload)
        heard = {topic: queued(mailbox) for topic, mailbox in mailboxes.items()}
    assert heard == {topic: [("durable_event", kind, payload)] if topic in topics else [] for topic in TOPICS}


async def test_a_message_reaches_every_node_as_the_tuple_that_was_sent(cluster: Cluster) -> None:
    a, b = [WorkflowLifecycle("shop", node) for node in await cluster.nodes("a", "b")]
    here, there = (listening(one, one.workflow_topic("w1")) for one in (a, b))
    await a.broadcast_step(Kind.STEP_COMPLETED, STEP)
    for mailbox in (here, there):
        assert await received(mailbox) == [("durable_event", "step_completed", STEP)]


async def test_the_kind_in_a_message_is_a_plain_string(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    mailbox = listening(durable, durable.schedules_topic())
    await durable.broadcast_schedule(Kind.SCHEDULE_TOGGLED, SCHEDULE)
    assert type(mailbox.get_nowait()[1]) is str


async def test_a_payload_may_be_a_registered_model(cluster: Cluster) -> None:
    class Workflow(BaseModel):
        model_config = ConfigDict(frozen=True)
        id: str
        status: str

    node_a, node_b = await cluster.nodes("a", "b")
    a, b = WorkflowLifecycle("shop", node_a), WorkflowLifecycle("shop", node_b)
    for node in (node_a, node_b):
        node.codec.register(Workflow)
    there = listening(b, b.workflow_topic("w1"))
    await a.broadcast_workflow(Kind.WORKFLOW_FAILED, Workflow(id="w1", status="failed"))
    assert await received(there) == [("durable_event", "workflow_failed", Workflow(id="w1", status="failed"))]


async def test_a_dict_that_is_changed_afterwards_does_not_change_what_waits(pubsub: PubSub) -> None:
    durable, row = WorkflowLifecycle("shop", pubsub), dict(WORKFLOW)
    mailbox = listening(durable, durable.workflows_topic())
    await durable.broadcast_workflow(Kind.WORKFLOW_RESUMED, row)
    row["status"] = "completed"
    assert mailbox.get_nowait()[2] == WORKFLOW


async def test_who_subscribes_to_both_topics_gets_two_copies(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    both = listening(durable, durable.workflows_topic(), durable.workflow_topic("w1"))
    await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    assert queued(both) == [("durable_event", "workflow_started", WORKFLOW)] * 2


async def test_the_order_of_broadcasts_is_the_order_of_messages(cluster: Cluster) -> None:
    a, b = [WorkflowLifecycle("shop", node) for node in await cluster.nodes("a", "b")]
    there = listening(b, b.workflow_topic("w1"))
    run = [Kind.WORKFLOW_STARTED, Kind.WORKFLOW_RESUMED, Kind.WORKFLOW_WAITING, Kind.INPUT_REQUESTED]
    for kind in [*run, Kind.WORKFLOW_COMPLETED]:
        await tell(a, kind, ROUTES[kind.partition("_")[0]][0])
    assert kinds(await received(there, 5)) == [*run, Kind.WORKFLOW_COMPLETED]


async def test_instances_do_not_hear_each_other(pubsub: PubSub) -> None:
    shop, bank = WorkflowLifecycle("shop", pubsub), WorkflowLifecycle("bank", pubsub)
    mailbox = listening(bank, bank.workflows_topic())
    await shop.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    assert not len(mailbox)


# -- workflows: mistakes


@pytest.mark.parametrize("with_pubsub", [True, False])
@pytest.mark.parametrize(
    ("kind", "key"),
    [(Kind.WORKFLOW_STARTED, "id"), (Kind.STEP_STARTED, "workflow_id"), (Kind.INPUT_REQUESTED, "workflow_id")],
)
@pytest.mark.parametrize("without", [{}, None, ""])
async def test_a_missing_routing_key_is_an_error(
    kind: Kind, key: str, without: Any, with_pubsub: bool, pubsub: PubSub
) -> None:
    durable = WorkflowLifecycle("shop", pubsub if with_pubsub else None)
    payload = {**ROUTES[kind.partition("_")[0]][0], key: without}
    with pytest.raises(InvalidEvent, match=f"needs '{key}'"):
        await tell(durable, kind, payload)
    del payload[key]
    with pytest.raises(InvalidEvent, match=f"needs '{key}'"):
        await tell(durable, kind, payload)


@pytest.mark.parametrize("family", ROUTES)
@pytest.mark.parametrize("kind", [*Kind, "workflow_paused", 7, None, []])
async def test_a_kind_of_another_family_is_an_error(family: str, kind: Any, pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    broadcast = getattr(durable, f"broadcast_{family}")
    if isinstance(kind, Kind) and kind.startswith(family):
        await broadcast(kind, ROUTES[family][0])
    else:
        with pytest.raises(InvalidEvent, match=f"no kind of {family} event"):
            await broadcast(kind, ROUTES[family][0])


@pytest.mark.parametrize("instance", ["", None, 7])
def test_an_instance_needs_a_name(instance: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        WorkflowLifecycle(instance, None)


def test_what_is_no_pubsub_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PubSub or None"):
        WorkflowLifecycle("shop", "postgresql://")  # type: ignore[arg-type]


# -- workflows: the outcome of a broadcast is not the caller's


async def test_an_adapter_that_fails_never_fails_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    async with PubSub("failing", Failing()) as pubsub:
        durable = WorkflowLifecycle("shop", pubsub)
        for _ in range(3):
            await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    assert durable.failed == 6
    assert caplog.text.count("the cable is cut") == 1


async def test_a_closed_pubsub_never_fails_the_caller(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    await pubsub.close()
    await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    durable.unsubscribe(durable.workflows_topic(), Mailbox())
    assert durable.failed == 2


async def test_neither_a_full_mailbox_nor_what_cannot_be_sent_fails_the_caller(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    full = listening(durable, durable.schedules_topic(), maxsize=1, overflow="error")
    for payload in ({"n": 1}, {"n": 2}, {"n": object()}):
        await durable.broadcast_schedule(Kind.SCHEDULE_TOGGLED, payload)
    assert queued(full) == [("durable_event", "schedule_toggled", {"n": 1})]


async def test_a_failure_on_one_topic_keeps_nothing_from_the_other(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    full = listening(durable, durable.workflows_topic(), maxsize=1, overflow="error")
    other = listening(durable, durable.workflow_topic("w1"))
    for _ in range(2):
        await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    assert (len(full), len(other)) == (1, 2)


async def test_a_node_that_cannot_reach_others_tells_its_own_subscribers() -> None:
    async with PubSub("alone", Alone("one")) as pubsub:
        durable = WorkflowLifecycle("shop", pubsub)
        mailbox = listening(durable, durable.schedules_topic())
        await durable.broadcast_schedule(Kind.SCHEDULE_TRIGGERED, SCHEDULE)
        assert kinds(queued(mailbox)) == ["schedule_triggered"]


# -- workflows: whose PubSub


async def test_left_out_the_pubsub_is_its_own_and_closed_with_it() -> None:
    async with WorkflowLifecycle("shop") as durable:
        server = durable.server
        assert server is not None
        assert server.name == durable.server_name == "shop.PubSub"
        mailbox = listening(durable, durable.workflows_topic())
        await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
        assert len(mailbox) == 1
    assert server.closed


async def test_a_borrowed_pubsub_stays_open(pubsub: PubSub) -> None:
    async with WorkflowLifecycle("shop", pubsub) as durable:
        assert durable.server is pubsub
        assert durable.server_name == "shop.PubSub"
    assert not pubsub.closed


async def test_without_a_pubsub_everything_but_subscribing_is_fine() -> None:
    async with WorkflowLifecycle("shop", None) as durable:
        assert durable.server is None
        assert server_for("shop") is None
        for kind in Kind:
            await tell(durable, kind, ROUTES[kind.partition("_")[0]][0])
        durable.unsubscribe(durable.workflows_topic(), Mailbox())
        with pytest.raises(NoPubSub, match="shop") as caught:
            durable.subscribe(durable.workflows_topic(), Mailbox())
    assert isinstance(caught.value, EventStoreError)


async def test_unsubscribing_ends_the_messages_and_never_fails(pubsub: PubSub) -> None:
    durable = WorkflowLifecycle("shop", pubsub)
    mailbox = listening(durable, durable.workflows_topic())
    for _ in range(2):
        durable.unsubscribe(durable.workflows_topic(), mailbox)
    await durable.broadcast_workflow(Kind.WORKFLOW_STARTED, WORKFLOW)
    assert not len(mailbox)


async def test_subscribing_to_a_closed_instance_says_so() -> None:
    async with WorkflowLifecycle("shop") as durable:
        pass
    with pytest.raises(PubSubClosed):
        durable.subscribe(durable.workflows_topic(), Mailbox())


async def test_the_pubsub_of_an_instance_is_found_by_name_until_it_is_closed() -> None:
    assert server_for("nobody") is None
    async with WorkflowLifecycle("found") as durable:
        assert server_for("found") is durable.server
    assert server_for("found") is None


async def test_of_two_instances_of_one_name_the_latest_that_is_open_is_found(pubsub: PubSub) -> None:
    async with WorkflowLifecycle("twice") as first:
        async with WorkflowLifecycle("twice", pubsub):
            assert server_for("twice") is pubsub
        assert server_for("twice") is first.server


async def test_closing_twice_is_fine_and_an_instance_can_be_opened_again() -> None:
    async with WorkflowLifecycle("again") as durable:
        await durable.close()
    async with durable:
        assert server_for("again") is durable.server


# -- a store: topics, messages, kinds


@pytest.fixture
async def store_life(pubsub: PubSub) -> AsyncIterator[StoreLifecycle]:
    """A started lifecycle whose clock stands still."""
    lifecycle = StoreLifecycle("shop", pubsub, clock=lambda: AT)
    await lifecycle.start()
    yield lifecycle
    await lifecycle.stop()


def test_the_topics_of_a_store_bear_its_name() -> None:
    lifecycle = StoreLifecycle("shop", None)
    assert lifecycle.subscriptions_topic() == "store:shop:subscriptions"
    assert lifecycle.subscription_topic("billing") == "store:shop:subscription:billing"
    assert lifecycle.nodes_topic() == "store:shop:nodes"
    assert lifecycle.log_topic() == "store:shop:log"


ONE = "store:shop:subscription:billing"
STORE_ROUTES = {
    "subscription": ["store:shop:subscriptions", ONE],
    "partition": [ONE],
    "emitter": [ONE],
    "event": [ONE],
    "node": ["store:shop:nodes"],
    "scavenged": ["store:shop:log"],
}
STORE_TOPICS = sorted({topic for topics in STORE_ROUTES.values() for topic in topics})


@pytest.mark.parametrize("kind", StoreKind)
async def test_each_store_kind_goes_to_its_topics_and_no_others(kind: StoreKind, store_life: StoreLifecycle) -> None:
    mailboxes = {topic: listening(store_life, topic) for topic in STORE_TOPICS}
    store_life.tell(kind, subscription="billing", partition=3)
    await store_life.drained()
    payload = {"at": AT_ISO, "node": "local", "subscription": "billing", "partition": 3}
    heard = {topic: queued(mailbox) for topic, mailbox in mailboxes.items()}
    wanted = STORE_ROUTES[kind.partition("_")[0]]
    assert heard == {topic: [("store_event", kind, payload)] if topic in wanted else [] for topic in STORE_TOPICS}


async def test_a_payload_is_json_with_the_time_in_utc_and_the_node(store_life: StoreLifecycle) -> None:
    mailbox = listening(store_life, store_life.log_topic())
    store_life.tell(StoreKind.SCAVENGED, events=7)
    (_, kind, payload) = (await received(mailbox))[0]
    assert type(kind) is str
    assert json.loads(json.dumps(payload)) == {"at": "2023-11-14T22:13:20.250000+00:00", "node": "local", "events": 7}


async def test_a_node_may_tell_of_another_one(store_life: StoreLifecycle) -> None:
    mailbox = listening(store_life, store_life.nodes_topic())
    store_life.tell(StoreKind.NODE_LEFT, node="two")
    assert (await received(mailbox))[0][2]["node"] == "two"


async def test_what_is_told_reaches_every_node(cluster: Cluster) -> None:
    a, b = [StoreLifecycle("shop", node) for node in await cluster.nodes("a", "b")]
    here, there = (listening(one, one.subscription_topic("billing")) for one in (a, b))
    await a.start()
    a.tell(StoreKind.PARTITION_CLAIMED, subscription="billing", partition=3, epoch=2)
    (mine,), (theirs,) = await received(here), await received(there)
    assert mine == theirs
    assert mine[2] == {"at": mine[2]["at"], "node": "a", "subscription": "billing", "partition": 3, "epoch": 2}
    await a.stop()


async def test_what_concerns_emitters_stays_on_its_node(cluster: Cluster) -> None:
    a, b = [StoreLifecycle("shop", node) for node in await cluster.nodes("a", "b")]
    here, there = (listening(one, one.subscription_topic("billing")) for one in (a, b))
    await a.start()
    told = [StoreKind.PARTITION_CLAIMED, StoreKind.EMITTER_STARTED, StoreKind.PARTITION_RELEASED]
    for kind in told:
        a.tell(kind, subscription="billing")
    assert kinds(await received(here, 3)) == told
    assert kinds(await received(there, 2)) == [StoreKind.PARTITION_CLAIMED, StoreKind.PARTITION_RELEASED]
    await a.stop()


async def test_the_order_of_tells_is_kept_on_every_node(cluster: Cluster) -> None:
    a, b = [StoreLifecycle("shop", node) for node in await cluster.nodes("a", "b")]
    here, there = (listening(one, one.subscription_topic("billing"), maxsize=5000) for one in (a, b))
    await a.start()
    for number in range(1000):
        a.tell(
            StoreKind.PARTITION_CLAIMED if number % 7 else StoreKind.SUBSCRIPTION_LAGGING,
            subscription="billing",
            n=number,
        )
    for mailbox in (here, there):
        assert [payload["n"] for _, _, payload in await received(mailbox, 1000)] == list(range(1000))
    await a.stop()


async def test_the_order_of_tells_is_kept_where_a_pubsub_sends_on_several_shards(cluster: Cluster) -> None:
    a, b = [StoreLifecycle("shop", node) for node in await cluster.nodes("a", "b", pool_size=3)]
    there = listening(b, b.subscription_topic("billing"))
    await a.start()
    for number in range(50):
        a.tell(StoreKind.PARTITION_CLAIMED, subscription="billing", n=number)
    assert [payload["n"] for _, _, payload in await received(there, 50)] == list(range(50))
    await a.stop()


async def test_who_subscribes_to_both_topics_of_a_subscription_gets_two_copies(store_life: StoreLifecycle) -> None:
    both = listening(store_life, store_life.subscriptions_topic(), store_life.subscription_topic("billing"))
    store_life.tell(StoreKind.SUBSCRIPTION_PAUSED, subscription="billing")
    first, second = await received(both, 2)
    assert first == second


# -- a store: telling never fails, and waits for nothing


@pytest.mark.parametrize("with_pubsub", [True, False])
@pytest.mark.parametrize("kind", ["partition_eaten", "", None, 7, [], Kind.STEP_STARTED])
def test_a_wrong_store_kind_is_an_error(kind: Any, with_pubsub: bool) -> None:
    lifecycle = StoreLifecycle("shop", PubSub("x") if with_pubsub else None)
    with pytest.raises(InvalidEvent, match="StoreKind"):
        lifecycle.tell(kind, subscription="billing")


@pytest.mark.parametrize("kind", [kind for kind in StoreKind if ONE in STORE_ROUTES[kind.partition("_")[0]]])
def test_a_missing_subscription_is_an_error(kind: StoreKind) -> None:
    lifecycle = StoreLifecycle("shop", None)
    for payload in ({}, {"subscription": None}, {"subscription": ""}):
        with pytest.raises(InvalidEvent, match="needs 'subscription'"):
            lifecycle.tell(kind, **payload)


async def test_a_full_queue_drops_the_newest_counts_them_and_says_so_once(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle = StoreLifecycle("shop", pubsub)
    mailbox = listening(lifecycle, lifecycle.nodes_topic(), maxsize=20_000)
    for number in range(10_005):
        lifecycle.tell(StoreKind.NODE_JOINED, n=number)
    assert lifecycle.dropped == 5
    assert caplog.text.count("dropped") == 1
    await lifecycle.start()
    await lifecycle.drained()
    assert [payload["n"] for _, _, payload in queued(mailbox)] == list(range(10_000))
    await lifecycle.stop()


def test_losses_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = iter([0.0, 1.0, 59.9, 60.0, 61.0])
    losses = Losses("lost %d: %s", lambda: next(now))
    for _ in range(5):
        losses.add("why")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "lost 1: why",
        "lost 4: why",
    ]


async def test_where_the_adapter_fails_this_nodes_subscribers_are_told_all_the_same() -> None:
    hub = LocalHub()
    async with PubSub("failing", Failing(hub, "a")) as pubsub, PubSub("failing", Local(hub, "b")):
        lifecycle = StoreLifecycle("shop", pubsub)
        mailbox = listening(lifecycle, lifecycle.nodes_topic())
        await lifecycle.start()
        lifecycle.tell(StoreKind.NODE_LEFT)
        assert kinds(await received(mailbox)) == ["node_left"]
        await lifecycle.stop()
    assert lifecycle.failed == 1


async def test_a_topic_that_is_kept_local_is_told_locally(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    a.keep_local(lambda topic: topic.startswith("store:"))
    lifecycle = StoreLifecycle("shop", a)
    here, there = listening(lifecycle, lifecycle.nodes_topic()), nodes.subscribed(b, lifecycle.nodes_topic(), "end")
    await lifecycle.start()
    lifecycle.tell(StoreKind.NODE_JOINED)
    assert kinds(await received(here)) == ["node_joined"]
    assert lifecycle.failed == 0
    await lifecycle.stop()
    assert await nodes.heard(there, a, "end") == []


async def test_a_closed_pubsub_fails_neither_telling_nor_stopping(cluster: Cluster) -> None:
    a, _ = await cluster.nodes("a", "b")
    lifecycle = StoreLifecycle("shop", a)
    await lifecycle.start()
    lifecycle.tell(StoreKind.NODE_JOINED)
    await a.close()
    lifecycle.tell(StoreKind.NODE_LEFT)
    await lifecycle.drained()
    await lifecycle.stop()
    assert lifecycle.dropped == 0


async def test_what_cannot_be_sent_keeps_nothing_else_from_being_sent(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    lifecycle = StoreLifecycle("shop", a)
    there = nodes.subscribed(b, lifecycle.nodes_topic())
    await lifecycle.start()
    lifecycle.tell(StoreKind.NODE_JOINED, why=object())
    lifecycle.tell(StoreKind.NODE_LEFT)
    assert kinds(await received(there)) == ["node_left"]
    assert lifecycle.failed == 1
    await lifecycle.stop()


@pytest.mark.parametrize("overflow", ["block", "error"])
async def test_a_full_mailbox_holds_up_nobody_else(overflow: Any, cluster: Cluster) -> None:
    a, _ = await cluster.nodes("a", "b")
    lifecycle = StoreLifecycle("shop", a)
    stalled = listening(lifecycle, lifecycle.nodes_topic(), maxsize=1, overflow=overflow)
    other = listening(lifecycle, lifecycle.nodes_topic())
    await lifecycle.start()
    for _ in range(5):
        lifecycle.tell(StoreKind.NODE_JOINED)
    assert len(await received(other, 5)) == 5
    assert (len(stalled), stalled.dropped) == (1, 4)
    await lifecycle.stop()


@pytest.mark.parametrize("adapter", [Local(), Alone("one")])
async def test_where_nobody_could_listen_nothing_is_queued(adapter: Local) -> None:
    async with PubSub("alone", adapter) as pubsub:
        lifecycle = StoreLifecycle("shop", pubsub)
        lifecycle.tell(StoreKind.NODE_JOINED)
        mailbox = listening(lifecycle, lifecycle.nodes_topic())
        lifecycle.tell(StoreKind.NODE_LEFT)
        await lifecycle.start()
        await lifecycle.stop()
        assert kinds(queued(mailbox)) == ["node_left"]


async def test_emitters_nobody_here_watches_are_not_queued(cluster: Cluster) -> None:
    a, _ = await cluster.nodes("a", "b")
    lifecycle = StoreLifecycle("shop", a)
    lifecycle.tell(StoreKind.EMITTER_STARTED, subscription="billing")
    await lifecycle.stop()
    assert lifecycle.dropped == 0


# -- a store: start and stop


async def test_stopping_sends_what_waits(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "STOP_WITHIN", nodes.WITHIN)
    a, b = await cluster.nodes("a", "b")
    lifecycle = StoreLifecycle("shop", a)
    there = nodes.subscribed(b, lifecycle.nodes_topic())
    await lifecycle.start()
    for _ in range(300):
        lifecycle.tell(StoreKind.NODE_LEFT)
    await lifecycle.stop()
    assert len(await received(there, 300)) == 300
    assert lifecycle.dropped == 0


async def test_stopping_takes_a_second_at_most_and_counts_what_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "STOP_WITHIN", 0.05)
    hub = LocalHub()
    async with PubSub("stuck", Stuck(hub, "a")) as pubsub, PubSub("stuck", Local(hub, "b")):
        lifecycle = StoreLifecycle("shop", pubsub)
        await lifecycle.start()
        for _ in range(150):
            lifecycle.tell(StoreKind.NODE_LEFT)
        async with asyncio.timeout(10):
            await lifecycle.stop()
    assert lifecycle.dropped == 150


async def test_what_is_told_after_the_stop_is_not_sent(pubsub: PubSub, store_life: StoreLifecycle) -> None:
    mailbox = listening(store_life, store_life.nodes_topic())
    for _ in range(2):
        await store_life.stop()
    store_life.tell(StoreKind.NODE_LEFT)
    await store_life.drained()
    assert not len(mailbox)


async def test_starting_twice_is_refused_and_starting_again_is_fine(store_life: StoreLifecycle) -> None:
    with pytest.raises(AlreadyStarted):
        await store_life.start()
    await store_life.stop()
    await store_life.start()
    mailbox = listening(store_life, store_life.nodes_topic())
    store_life.tell(StoreKind.NODE_JOINED)
    assert len(await received(mailbox)) == 1


async def test_a_store_without_a_pubsub_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle = StoreLifecycle("shop", None)
    await lifecycle.start()
    lifecycle.tell(StoreKind.NODE_JOINED)
    lifecycle.unsubscribe(lifecycle.nodes_topic(), Mailbox())
    with pytest.raises(NoPubSub):
        lifecycle.subscribe(lifecycle.nodes_topic(), Mailbox())
    await lifecycle.stop()
    assert (lifecycle.dropped, lifecycle.failed, caplog.text) == (0, 0, "")


@pytest.mark.parametrize("kind", [*Kind, *StoreKind])
def test_every_kind_is_described(kind: StrEnum) -> None:
    assert f"`{kind}`" in PAGE.read_text()
