"""What every adapter has to do. Each test opens nodes of one PubSub on `Local`, `Postgres` and `Redis` in turn."""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pydantic import BaseModel, ConfigDict

from eventstore import Event, NewEvent
from eventstore.errors import BroadcastError, ConfigurationError, InvalidMessage, Overflow, PubSubClosed
from eventstore.mailbox import Mailbox
from eventstore.pubsub import CONNECTION, Envelope, Fastlane, Local, LocalHub, Postgres, PubSub, Redis, hub
from tests.pubsub import nodes
from tests.pubsub.nodes import MARKER, Ahead, Cluster, heard, received, subscribed


class Said(BaseModel):
    model_config = ConfigDict(frozen=True)

    who: str
    at: datetime
    to: tuple[str, ...] = ()


# -- who gets a broadcast


async def test_a_broadcast_reaches_the_subscribers_of_every_node(cluster: Cluster) -> None:
    a, b, c = await cluster.nodes("a", "b", "c")
    boxes = [subscribed(node) for node in (a, b, c) for _ in range(2)]
    await a.broadcast("t", "hello")
    assert [await received(box) for box in boxes] == [["hello"]] * 6


async def test_each_node_gets_a_broadcast_once(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    await a.broadcast("t", 1)
    assert await received(there) == [1]
    await b.broadcast("t", 2)
    # An echo of the first would have been there before the second.
    assert (await received(here, 2), await heard(there, a)) == ([1, 2], [2])


async def test_other_topics_are_not_heard(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    await a.broadcast("other", 1)
    await a.broadcast("t*", 1)
    assert (await heard(there, a), here.take_nowait(9)) == ([], [MARKER])


async def test_the_other_nodes_are_sent_to_before_this_one(cluster: Cluster) -> None:
    seen: list[int] = []
    inner = cluster.adapter_of
    cluster.adapter_of = lambda node: Ahead(inner(node), lambda: seen.append(len(here)))
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    await a.broadcast("t", 1)
    assert (seen, await received(here), await received(there)) == ([0], [1], [1])


async def test_what_the_adapter_cannot_send_nobody_gets(cluster: Cluster) -> None:
    def broken() -> None:
        if box:
            raise OSError("the cable is cut")

    box: list[int] = []
    inner = cluster.adapter_of
    cluster.adapter_of = lambda node: Ahead(inner(node), broken)
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    box.append(1)
    with pytest.raises(BroadcastError, match="the cable is cut"):
        await a.broadcast("t", "lost")
    box.clear()
    assert (await heard(there, a), here.take_nowait(9)) == ([], [MARKER])


async def test_another_pubsub_on_the_same_medium_hears_nothing(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    other, another = await cluster.nodes("a", "b", name=f"{cluster.name}, the other one")
    foreign, there = subscribed(another), subscribed(b)
    await a.broadcast("t", 1)
    assert await received(there) == [1]
    assert await heard(foreign, other) == []


async def test_a_node_that_comes_later_hears_only_what_is_sent_later(cluster: Cluster) -> None:
    a = await cluster.node("a")
    await a.broadcast("t", "before")
    b = await cluster.node("b")
    there = subscribed(b)
    await a.broadcast("t", "after")
    assert await heard(there, a) == ["after"]


async def test_a_node_that_closes_is_missed_by_nobody(cluster: Cluster) -> None:
    a, b, c = await cluster.nodes("a", "b", "c")
    there = subscribed(c)
    await b.close()
    await a.broadcast("t", 1)
    assert await received(there) == [1]


async def test_a_node_may_be_opened_again(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    await b.close()
    async with b:
        there = subscribed(b)
        await a.broadcast("t", 1)
        assert await received(there) == [1]


async def test_a_node_cannot_be_opened_twice(cluster: Cluster) -> None:
    a = await cluster.node("a")
    with pytest.raises(ConfigurationError):
        await a.__aenter__()
    await a.broadcast("t", "still open")


# -- order


async def test_one_senders_messages_arrive_in_order_whatever_their_topics(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b", pool_size=3)
    topics = [f"t{n}" for n in range(7)]
    here, there = subscribed(a, *topics, "t"), subscribed(b, *topics, "t")
    for n in range(70):
        await a.broadcast(topics[n % 7], n)
    assert await heard(there, a) == list(range(70))
    assert await received(here, 70) == list(range(70))


async def test_each_of_many_senders_keeps_its_order_across_shards(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b", pool_size=3)
    there = subscribed(b, "x", "y")

    async def send(sender: int) -> None:
        for n in range(20):
            await a.broadcast("xy"[n % 2], (sender, n))

    async with asyncio.TaskGroup() as senders:
        for sender in range(12):
            senders.create_task(send(sender))
    found = await received(there, 240)
    assert all([n for one, n in found if one == sender] == list(range(20)) for sender in range(12))


async def test_broadcasts_and_direct_broadcasts_of_one_sender_keep_their_order(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    for n in range(20):
        await (a.broadcast("t", n) if n % 2 else a.direct_broadcast("b", "t", n))
    assert await heard(there, a) == list(range(20))


async def test_equal_messages_sent_together_arrive_each(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    await asyncio.gather(*(a.broadcast("t", "same") for _ in range(50)))
    assert await heard(there, a) == ["same"] * 50


# -- subscriptions


async def test_subscribing_twice_delivers_twice(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a, "t", "t"), subscribed(b, "t", "t", "end")
    await a.broadcast("t", 1)
    await a.broadcast("end", 2)
    assert (await received(there, 3), here.take_nowait(9)) == ([1, 1, 2], [1, 1])


async def test_unsubscribing_ends_every_subscription_and_keeps_what_is_queued(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b, "t", "t", "end")
    await a.broadcast("t", 1)
    await a.broadcast("end", "of the first part")
    async with asyncio.timeout(nodes.WITHIN):
        while len(there) < 3:
            await asyncio.sleep(0)
    b.unsubscribe("t", there)
    await a.broadcast("t", 2)
    assert await heard(there, a, "end") == [1, 1, "of the first part"]


async def test_unsubscribing_without_a_subscription_is_fine(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    b.unsubscribe("t", Mailbox())
    there = subscribed(b, "t")
    b.unsubscribe("other", there)
    assert await heard(there, a) == []


async def test_a_mailbox_may_subscribe_again_after_unsubscribing(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    b.unsubscribe("t", there)
    b.subscribe("t", there)
    await a.broadcast("t", 1)
    assert await heard(there, a) == [1]


# -- death


@pytest.mark.parametrize("death", ["owner", "context", "close", "collected"])
async def test_a_mailbox_that_ended_has_no_subscriptions_and_its_senders_notice_nothing(
    cluster: Cluster, death: str
) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b, "end")
    await _dead(b, death)
    gc.collect()
    assert not b.subscribed("t")
    await a.broadcast("t", 1)
    await b.broadcast("t", 1)
    assert await heard(there, a, "end") == []
    assert (b.stats().subscriptions, b.stats().mailboxes) == (1, 1)


async def _dead(pubsub: PubSub, death: str) -> None:
    """Subscribe a mailbox, and let it die."""
    if death == "owner":
        owner = asyncio.create_task(asyncio.Event().wait())
        mailbox = subscribed(pubsub, "t", "t", "u", owner=owner)
        owner.cancel()
        await asyncio.wait([owner])
        assert mailbox.closed
    elif death == "context":
        async with subscribed(pubsub, "t", "t", "u"):
            assert pubsub.subscribed("t")
    elif death == "close":
        subscribed(pubsub, "t", "t", "u").close()
    else:
        mailbox = subscribed(pubsub, "t", "t", "u")
        mailbox.put_nowait(["a circle", mailbox])


# -- variants of broadcasting


async def test_broadcast_from_leaves_out_every_subscription_of_the_sender(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    sender, here, there = subscribed(a, "t", "t"), subscribed(a), subscribed(b)
    await a.broadcast_from(sender, "t", 1)
    assert (await received(there), here.take_nowait(9), sender.take_nowait(9)) == ([1], [1], [])


async def test_a_local_broadcast_hands_the_object_itself_to_this_node_alone(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there, thing = subscribed(a), subscribed(b), object()
    await a.local_broadcast("t", thing)
    assert await received(here) == [thing]
    assert await heard(there, a) == []


async def test_local_broadcast_from_leaves_out_the_sender(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    sender, here, there = subscribed(a), subscribed(a), subscribed(b)
    await a.local_broadcast_from(sender, "t", 1)
    assert (here.take_nowait(9), sender.take_nowait(9), await heard(there, a)) == ([1], [], [])


async def test_a_local_broadcast_does_not_touch_the_adapter(cluster: Cluster) -> None:
    touched: list[int] = []
    inner = cluster.adapter_of
    cluster.adapter_of = lambda node: Ahead(inner(node), lambda: touched.append(1))
    a = await cluster.node("a")
    await a.local_broadcast("t", 1)
    await a.local_broadcast_from(Mailbox(), "t", 1)
    assert not touched


async def test_a_direct_broadcast_reaches_the_named_node_only(cluster: Cluster) -> None:
    a, b, c = await cluster.nodes("a", "b", "c")
    here, there, elsewhere = subscribed(a), subscribed(b), subscribed(c)
    await a.direct_broadcast("b", "t", 1)
    assert await heard(there, a) == [1]
    assert (await received(elsewhere), here.take_nowait(9)) == ([MARKER], [MARKER])


async def test_a_direct_broadcast_to_oneself_arrives_equal_but_not_identical(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there, message = subscribed(a), subscribed(b), {"list": [1, 2]}
    await a.direct_broadcast("a", "t", message)
    [found] = await received(here)
    assert found == message
    assert found is not message
    assert await heard(there, a) == []


async def test_a_direct_broadcast_to_an_unknown_node_is_fine(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    await a.direct_broadcast("nobody", "t", 1)
    assert (await heard(there, a), here.take_nowait(9)) == ([], [MARKER])


# -- dispatchers


async def test_a_dispatcher_is_called_once_for_each_partition_with_entries(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b", registry_size=4)
    calls: dict[str, list[Any]] = {"a": [], "b": []}
    for node in (a, b):
        node.register_dispatcher("note", lambda *call, to=calls[node.node_name]: to.append(call))
    kept = [subscribed(node) for node in (a, b) for _ in range(2)]
    end = subscribed(b, "end")
    await a.broadcast("t", "m", dispatcher="note")
    await heard(end, a, "end")
    for found, boxes in ((calls["a"], kept[:2]), (calls["b"], kept[2:])):
        assert sorted(len(entries) for entries, _, _ in found) == [1, 1]
        assert {mailbox for entries, _, _ in found for mailbox, _ in entries} == set(boxes)


async def test_a_dispatcher_sees_mailboxes_with_their_metadata_and_what_it_returns_is_ignored(
    cluster: Cluster,
) -> None:
    a, b = await cluster.nodes("a", "b")
    calls: list[Any] = []
    for node in (a, b):
        node.register_dispatcher("note", lambda *call: calls.append(call) or "ignored")  # type: ignore[func-returns-value]
    plain, rich = subscribed(b), Mailbox[Any]()
    b.subscribe("t", rich, {"lane": 1})
    b.subscribe("t", rich, "second")
    await a.broadcast("t", (1, 2), dispatcher="note")
    assert await heard(plain, a) == []
    [(entries, sender, message)] = calls
    assert sorted(entries, key=str) == sorted([(plain, None), (rich, {"lane": 1}), (rich, "second")], key=str)
    assert (sender, message) == (None, (1, 2))


async def test_a_dispatcher_sees_the_sender_and_its_entry_here_and_no_sender_elsewhere(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    calls: dict[str, list[Any]] = {"a": [], "b": []}
    for node in (a, b):
        node.register_dispatcher("note", lambda *call, to=calls[node.node_name]: to.append(call))
    here, there = subscribed(a), subscribed(b, "t", "end")
    await a.broadcast_from(here, "t", 1, dispatcher="note")
    await heard(there, a, "end")
    assert calls == {"a": [([(here, None)], here, 1)], "b": [([(there, None)], None, 1)]}


async def test_a_dispatcher_is_never_called_without_entries(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    calls: list[Any] = []
    for node in (a, b):
        node.register_dispatcher("note", lambda *call: calls.append(call))
    end = subscribed(b, "end")
    await a.broadcast("t", 1, dispatcher="note")
    await heard(end, a, "end")
    assert calls == []


async def test_a_dispatcher_may_be_given_as_the_function_that_was_registered(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")

    def shout(entries: list[tuple[Mailbox[Any], Any]], _sender: object, message: Any) -> None:
        for mailbox, _ in entries:
            mailbox.put_nowait(message.upper())

    for node in (a, b):
        node.register_dispatcher("shout", shout)
    here, there = subscribed(a), subscribed(b)
    await a.broadcast("t", "hey", dispatcher=shout)
    assert (await received(here), await received(there)) == (["HEY"], ["HEY"])


async def test_a_function_without_a_name_cannot_be_sent_but_dispatches_locally(cluster: Cluster) -> None:
    a = await cluster.node("a")
    calls: list[Any] = []
    here = subscribed(a)
    with pytest.raises(ConfigurationError, match="register_dispatcher"):
        await a.broadcast("t", 1, dispatcher=lambda *call: calls.append(call))
    await a.local_broadcast("t", 2, dispatcher=lambda *call: calls.append(call))
    assert calls == [([(here, None)], None, 2)]


async def test_an_exception_of_a_dispatcher_reaches_the_sender_after_the_other_nodes_got_the_message(
    cluster: Cluster,
) -> None:
    a, b = await cluster.nodes("a", "b")
    a.register_dispatcher("picky", _fails)
    b.register_dispatcher("picky", lambda entries, *_: [mailbox.put_nowait("got it") for mailbox, _ in entries])
    here, there = subscribed(a), subscribed(b)
    with pytest.raises(ZeroDivisionError):
        await a.broadcast("t", 1, dispatcher="picky")
    assert (await received(there), len(here)) == (["got it"], 0)


def _fails(*_: object) -> None:
    raise ZeroDivisionError


async def test_an_exception_of_a_dispatcher_elsewhere_is_logged_counted_and_survived(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await cluster.nodes("a", "b")
    a.register_dispatcher("picky", lambda *_: None)
    b.register_dispatcher("picky", _fails)
    there = subscribed(b)
    await a.broadcast("t", 1, dispatcher="picky")
    assert await heard(there, a) == []
    assert b.stats().rejected == 1
    assert "could not be delivered" in caplog.text


async def test_a_dispatcher_unknown_elsewhere_is_logged_dropped_and_survived(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await cluster.nodes("a", "b")
    a.register_dispatcher("news", lambda *_: None)
    there = subscribed(b)
    await a.broadcast("t", 1, dispatcher="news")
    assert await heard(there, a) == []
    assert b.stats().rejected == 1
    assert "no dispatcher 'news' is registered on this node" in caplog.text


async def test_a_dispatcher_unknown_here_is_refused(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    for send in (a.broadcast, a.local_broadcast):
        with pytest.raises(ConfigurationError, match="no dispatcher 'news'"):
            await send("t", 1, dispatcher="news")
    assert await heard(there, a) == []


async def test_fastlane_encodes_once_for_each_serializer_and_writes_past_the_mailbox(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    encoded: list[Any] = []
    written: list[Any] = []

    def loud(message: Any) -> str:
        encoded.append(message)
        return f"{message}!"

    boxes = [Mailbox[Any]() for _ in range(4)]
    for mailbox, serialize in zip(boxes, (loud, loud, str), strict=False):
        b.subscribe("t", mailbox, Fastlane(written.append, serialize))
    b.subscribe("t", boxes[3])
    await a.broadcast("t", "hey", dispatcher="fastlane")
    assert await received(boxes[3]) == ["hey"]
    assert (encoded, written, [len(box) for box in boxes]) == (["hey"], ["hey!", "hey!", "hey"], [0] * 4)


# -- full mailboxes

RULES = {"drop_oldest": [3, 4], "drop_newest": [0, 1], "block": [0, 1], "error": [0, 1]}


@pytest.mark.parametrize("rule", RULES)
async def test_a_stalled_subscriber_elsewhere_stays_bounded_and_holds_up_nobody(cluster: Cluster, rule: Any) -> None:
    a, b = await cluster.nodes("a", "b")
    stalled, other = subscribed(b, maxsize=2, overflow=rule), subscribed(b, "t", "end")
    for n in range(5):
        await a.broadcast("t", n)
    assert await heard(other, a, "end") == [0, 1, 2, 3, 4]
    assert (stalled.take_nowait(9), stalled.dropped, b.stats().dropped) == (RULES[rule], 3, 3)


@pytest.mark.parametrize("rule", ["drop_oldest", "drop_newest"])
async def test_a_stalled_subscriber_here_loses_by_its_rule_and_nobody_else_does(cluster: Cluster, rule: Any) -> None:
    a, b = await cluster.nodes("a", "b")
    stalled, here, there = subscribed(a, maxsize=2, overflow=rule), subscribed(a), subscribed(b)
    for n in range(5):
        await a.broadcast("t", n)
    assert await received(there, 5) == here.take_nowait(9) == [0, 1, 2, 3, 4]
    assert (stalled.take_nowait(9), stalled.dropped, a.stats().dropped) == (RULES[rule], 3, 3)


async def test_block_makes_the_sender_here_wait_after_everybody_else_got_the_message(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    stalled, here, there = subscribed(a, maxsize=1, overflow="block"), subscribed(a), subscribed(b)
    await a.broadcast("t", 1)
    sending = asyncio.create_task(a.broadcast("t", 2))
    assert (await received(here, 2), await received(there, 2)) == ([1, 2], [1, 2])
    assert not sending.done()
    assert await received(stalled, 2) == [1, 2]
    await sending
    assert stalled.dropped == 0


async def test_closing_a_blocked_mailbox_lets_its_senders_go_on(cluster: Cluster) -> None:
    a = await cluster.node("a")
    stalled, here = subscribed(a, maxsize=1, overflow="block"), subscribed(a)
    await a.broadcast("t", 1)
    sending = asyncio.create_task(a.broadcast("t", 2))
    await received(here, 2)
    stalled.close()
    await sending
    assert stalled.take_nowait(9) == [1]


async def test_error_is_raised_to_the_sender_here_after_everybody_else_got_the_message(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    full, here, there = subscribed(a, maxsize=1, overflow="error"), subscribed(a), subscribed(b)
    await a.broadcast("t", 1)
    with pytest.raises(Overflow, match="1 of the subscribers of 't'"):
        await a.broadcast("t", 2)
    assert (here.take_nowait(9), await received(there, 2), full.take_nowait(9)) == ([1, 2], [1, 2], [1])


# -- what survives

PLAIN = [
    None,
    True,
    -1,
    2**80,
    0.1,
    "ü\0🐘",
    "",
    [],
    {},
    (),
    {"~t": [1]},
    {"list": [1, (2, [3, {"deep": (None,)}])], "": {"~": "~~"}},
    [[(1,), "x"], {"1": 1}],
]


def _shape(value: Any) -> Any:
    """*value* with the type of each of its parts."""
    if isinstance(value, dict):
        return dict, {key: _shape(item) for key, item in value.items()}
    return type(value), [_shape(item) for item in value] if isinstance(value, (list, tuple)) else value


async def test_plain_data_arrives_equal_and_of_the_same_types(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    for message in PLAIN:
        await a.broadcast("t", message)
    assert list(map(_shape, await heard(there, a))) == list(map(_shape, PLAIN))


async def test_registered_models_arrive_as_what_they_were(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    for node in (a, b):
        node.codec.register(Said)
    there, said = subscribed(b), Said(who="eve", at=datetime.now(UTC), to=("bob", "carol"))
    await a.broadcast("t", {"said": [said], "again": (said,)})
    assert await heard(there, a) == [{"said": [said], "again": (said,)}]


@pytest.mark.parametrize("size", [7_000, 9_000, 100_000, 1_000_000])
async def test_messages_of_any_size_arrive_in_order(cluster: Cluster, size: int) -> None:
    a, b = await cluster.nodes("a", "b")
    there, large = subscribed(b), secrets.token_hex(size // 2)
    for message in ("before", large, "x" * size, "after"):
        await a.broadcast("t", message)
    assert await heard(there, a) == ["before", large, "x" * size, "after"]


def _event() -> Event:
    now = datetime.now(UTC)
    return Event(uuid4(), "A", {}, {}, (), "s", 1, 1, 0, now, now)


@pytest.mark.parametrize(
    "message",
    [object(), {1: "key"}, {"set": {1}}, b"bytes", float("nan"), "\ud800", Said(who="eve", at=datetime.now(UTC))],
    ids=["object", "key", "set", "bytes", "nan", "surrogate", "unregistered model"],
)
async def test_what_would_not_arrive_as_it_was_is_refused_and_nobody_gets_it(cluster: Cluster, message: Any) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    for send in (a.broadcast("t", message), a.direct_broadcast("b", "t", message)):
        with pytest.raises(InvalidMessage):
            await send
    assert (await heard(there, a), here.take_nowait(9)) == ([], [MARKER])


@pytest.mark.parametrize("event", [_event(), NewEvent(type="A")], ids=["stored", "new"])
async def test_events_are_broadcast_on_their_own_node_only(cluster: Cluster, event: Any) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    with pytest.raises(InvalidMessage):
        await a.broadcast("t", event)
    await a.local_broadcast("t", event)
    assert await received(here) == [event]
    assert await heard(there, a) == []


async def test_a_model_that_only_the_sender_registered_is_counted_and_survived(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    a.codec.register(Said)
    there = subscribed(b)
    await a.broadcast("t", Said(who="eve", at=datetime.now(UTC)))
    assert await heard(there, a) == []
    assert b.stats().rejected == 1


# -- shards


def _on_each_shard_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the next shard for each message, instead of one for each sender."""
    numbers = iter(range(10_000))
    monkeypatch.setattr(hub, "_sender", lambda: next(numbers))


@pytest.mark.parametrize("sizes", [[(1, 1), (2, 1)], [(2, 1), (2, 2)]], ids=["the first step", "the second step"])
async def test_a_cluster_grows_from_one_shard_to_two_in_two_steps_without_a_loss(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]]
) -> None:
    _on_each_shard_in_turn(monkeypatch)
    old, new = [
        await cluster.node(name, pool_size=pool, broadcast_pool_size=sends)
        for name, (pool, sends) in zip("ab", sizes, strict=True)
    ]
    boxes = [subscribed(old), subscribed(new)]
    for n in range(8):
        await old.broadcast("t", n)
        await new.broadcast("t", n)
    for box in boxes:
        assert sorted(await received(box, 16)) == sorted([*range(8)] * 2)


async def test_growing_in_one_step_loses_what_the_old_node_does_not_listen_to(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_each_shard_in_turn(monkeypatch)
    old = await cluster.node("a", pool_size=1)
    new = await cluster.node("b", pool_size=2)
    there = subscribed(old)
    for n in range(4):
        await new.broadcast("t", n)
    assert await heard(there, new) == [0, 2]


# -- opening and closing


async def test_nothing_can_be_sent_or_subscribed_before_opening_and_after_closing(unopened: Cluster) -> None:
    pubsub = PubSub(unopened.name, unopened.adapter_of("a"))
    await _refuses_everything(pubsub)
    async with pubsub:
        assert not pubsub.closed
    await _refuses_everything(pubsub)
    await pubsub.close()


async def _refuses_everything(pubsub: PubSub) -> None:
    assert pubsub.closed
    with pytest.raises(PubSubClosed):
        pubsub.subscribe("t", Mailbox())
    for send in (pubsub.broadcast, pubsub.local_broadcast):
        with pytest.raises(PubSubClosed):
            await send("t", 1)
    for send_from in (pubsub.broadcast_from, pubsub.local_broadcast_from):
        with pytest.raises(PubSubClosed):
            await send_from(Mailbox(), "t", 1)
    with pytest.raises(PubSubClosed):
        await pubsub.direct_broadcast("a", "t", 1)
    with pytest.raises(PubSubClosed):
        await pubsub.cluster_stats()


async def test_closing_ends_iterations_after_what_was_queued(cluster: Cluster) -> None:
    a = await cluster.node("a")
    async with a.subscription("t", "u") as messages:
        await a.broadcast("t", 1)
        await a.broadcast("u", 2)
        await a.close()
        async with asyncio.timeout(nodes.WITHIN):
            assert [message async for message in messages] == [1, 2]
    assert a.stats().subscriptions == 0


async def test_a_subscription_hears_every_node_while_its_block_runs(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    async with b.subscription("t") as messages:
        await a.broadcast("t", 1)
        async with asyncio.timeout(nodes.WITHIN):
            assert await anext(messages) == 1
    assert not b.subscribed("t")


async def test_options_out_of_range_are_refused_before_anything_opens(unopened: Cluster) -> None:
    adapter = unopened.adapter_of("a")
    with pytest.raises(ConfigurationError, match="pool_size 1 is smaller than broadcast_pool_size 2"):
        PubSub("x", adapter, pool_size=1, broadcast_pool_size=2)
    for name in ("", None, 1):
        with pytest.raises(ConfigurationError, match="needs a name"):
            PubSub(name, adapter)  # type: ignore[arg-type]


# -- losses of the connection


async def test_a_loss_of_the_connection_and_its_return_are_told(cluster: Cluster) -> None:
    if cluster.cut is None:
        pytest.skip("this adapter has no connection to lose")
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b, "t", CONNECTION)
    back = [node.moments.next("reconnected") for node in (a, b)]
    await cluster.cut()
    async with asyncio.timeout(nodes.WITHIN):
        await asyncio.gather(*back)
    assert await received(there, 2) == [("lost",), ("reconnected",)]
    await a.broadcast("t", "again")
    assert await heard(there, a) == ["again"]
    assert b.stats().adapter["reconnects"] == 1


# -- numbers


async def test_each_node_counts_what_it_sent_received_and_holds(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b, "t", "t", "u")
    await a.broadcast("t", 1)
    await a.direct_broadcast("b", "u", 2)
    await heard(there, a, "u")
    assert a.stats().broadcasts == 3
    stats = b.stats()
    assert (stats.name, stats.node, stats.pool_size) == (cluster.name, "b", 1)
    assert (stats.topics, stats.subscriptions, stats.mailboxes, stats.received) == (2, 3, 1, 3)
    assert stats.busiest == {"t": 2, "u": 1}


async def test_the_counters_of_the_whole_cluster_can_be_asked_for(cluster: Cluster) -> None:
    a, b, c = await cluster.nodes("a", "b", "c")
    await cluster.nodes("d", name=f"{cluster.name}, the other one")
    kept = [subscribed(node, node.node_name) for node in (a, b, c)]
    within = 0.1
    async with asyncio.timeout(nodes.WITHIN):
        while len(found := await b.cluster_stats(within=within)) < len(kept):
            within *= 2
    assert [(stats.node, stats.busiest) for stats in found] == [(name, {name: 1}) for name in "abc"]


# -- transactions


@pytest.fixture
async def sql(pubsub_db: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pubsub_db)
    yield connection
    await connection.close()


@pytest.mark.parametrize("unopened", ["postgres"], indirect=True)
async def test_a_broadcast_in_a_transaction_is_heard_by_all_once_it_commits(
    cluster: Cluster, sql: asyncpg.Connection
) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    async with sql.transaction():
        await a.broadcast("t", "in the transaction", connection=sql)
        assert await heard(there, a) == []
        assert await received(here) == [MARKER]
    assert (await received(here), await received(there)) == (["in the transaction"],) * 2


@pytest.mark.parametrize("unopened", ["postgres"], indirect=True)
async def test_a_broadcast_in_a_transaction_that_is_rolled_back_is_heard_by_nobody(
    cluster: Cluster, sql: asyncpg.Connection
) -> None:
    a, b = await cluster.nodes("a", "b")
    here, there = subscribed(a), subscribed(b)
    transaction = sql.transaction()
    await transaction.start()
    await a.broadcast("t", "never", connection=sql)
    await transaction.rollback()
    assert (await heard(there, a), await received(here)) == ([], [MARKER])
    assert await heard(here, b) == []


@pytest.mark.parametrize("unopened", ["postgres"], indirect=True)
async def test_equal_broadcasts_in_one_transaction_arrive_each_and_in_order(
    cluster: Cluster, sql: asyncpg.Connection
) -> None:
    a, b = await cluster.nodes("a", "b")
    boxes = [subscribed(a), subscribed(b)]
    async with sql.transaction():
        for message in (1, 1, "x" * 10_000, secrets.token_hex(10_000), 2, 1):
            await a.broadcast("t", message, connection=sql)
    for box in boxes:
        found = await received(box, 6)
        assert (found[:3], found[4:]) == ([1, 1, "x" * 10_000], [2, 1])


@pytest.mark.parametrize("unopened", ["postgres"], indirect=True)
async def test_a_transaction_that_is_not_open_is_refused(cluster: Cluster, sql: asyncpg.Connection) -> None:
    a = await cluster.node("a")
    here = subscribed(a)
    with pytest.raises(ConfigurationError, match="open transaction"):
        await a.broadcast("t", 1, connection=sql)
    assert await heard(here, a) == []


@pytest.mark.parametrize("unopened", ["local", "redis"], indirect=True)
async def test_adapters_without_transactions_say_so(cluster: Cluster) -> None:
    a = await cluster.node("a")
    here = subscribed(a)
    with pytest.raises(ConfigurationError, match="as Postgres does"):
        await a.broadcast("t", 1, connection=object())  # type: ignore[arg-type]
    assert await heard(here, a) == []


# -- adapters that are opened wrongly


MAKERS: dict[str, Callable[[Any], Any]] = {
    "local": lambda name: Local(LocalHub(), name),
    "postgres": lambda name: Postgres("postgresql://x", node_name=name),
    "redis": lambda name: Redis("redis://x", node_name=name),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("name", ["", None])
def test_a_node_of_a_cluster_needs_a_name(make: Callable[[Any], Any], name: Any) -> None:
    with pytest.raises(ConfigurationError, match="node_name"):
        make(name)


# -- the suite itself


class Spoiled(LocalHub):
    """A hub that does one thing wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault, self._held = fault, list[Envelope]()

    def _send(self, name: str, envelope: Envelope) -> None:
        for one in getattr(self, f"_{self._fault}")(envelope):
            super()._send(name, one)

    def _swaps(self, envelope: Envelope) -> list[Envelope]:
        self._held.append(envelope)
        if len(self._held) < 2:
            return []
        last, self._held = self._held, []
        return last[::-1]

    def _forgets(self, envelope: Envelope) -> list[Envelope]:
        return [envelope] if envelope.message != "7" else []

    def _repeats(self, envelope: Envelope) -> list[Envelope]:
        return [envelope, envelope]

    def _echoes(self, envelope: Envelope) -> list[Envelope]:
        return [replace(envelope, origin="of nobody")]

    def _spreads(self, envelope: Envelope) -> list[Envelope]:
        return [replace(envelope, mode="except")]

    def _unmarks(self, envelope: Envelope) -> list[Envelope]:
        return [replace(envelope, message=envelope.message.replace("~", ""))]


CAUGHT_BY: dict[str, Callable[[Cluster], Awaitable[None]]] = {
    "swaps": test_one_senders_messages_arrive_in_order_whatever_their_topics,
    "forgets": test_one_senders_messages_arrive_in_order_whatever_their_topics,
    "repeats": test_equal_messages_sent_together_arrive_each,
    "echoes": test_each_node_gets_a_broadcast_once,
    "spreads": test_a_direct_broadcast_reaches_the_named_node_only,
    "unmarks": test_plain_data_arrives_equal_and_of_the_same_types,
}


@pytest.mark.parametrize("fault", CAUGHT_BY)
async def test_an_adapter_with_a_fault_fails_the_suite(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "WITHIN", 0.2)
    medium = Spoiled(fault)
    cluster = Cluster(lambda node: Local(medium, node))
    async with cluster.stack:
        with pytest.raises((AssertionError, TimeoutError)):
            await CAUGHT_BY[fault](cluster)
