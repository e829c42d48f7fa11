"""`Tracker`: presences on several nodes, sentence by sentence; time moves by hand."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from zlib import crc32

import pytest
from pydantic import BaseModel, ConfigDict

from eventstore.errors import (
    AlreadyTracked,
    ConfigurationError,
    InvalidMessage,
    NoPresence,
    PubSubClosed,
    ShardCrashed,
)
from eventstore.mailbox import Mailbox
from eventstore.pubsub import PubSub
from eventstore.pubsub.hub import CONNECTION
from eventstore.tracker.clocks import Replica
from eventstore.tracker.owners import Owner, OwnerRef
from eventstore.tracker.tracker import Tracker
from tests.tracker.clusters import TOPIC, WITHIN, Cluster, HandMoved, Node, Recorder, topics_of


def fail(_: object) -> None:
    raise RuntimeError("the handler fails")


async def alone(cluster: Cluster, **options: Any) -> Node:
    """One node that ticked."""
    node = await cluster.node("a", **options)
    await cluster.ticks()
    return node


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    async with Owner() as opened:
        yield opened


# -- track


async def test_track_returns_the_reference_that_the_meta_gains(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    reference = await a.tracker.track(owner, "room", "k", {"n": 1})
    await cluster.ticks()
    assert reference
    assert a.tracker.list("room") == b.tracker.list("room") == [("k", {"n": 1, "phx_ref": reference})]


async def test_each_presence_has_a_reference_of_its_own(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    references = [await node.tracker.track(owner, "room", key, {}) for node in (a, b) for key in ("k", "l")]
    assert len(set(references)) == 4


async def test_an_owner_is_there_once_under_each_topic_and_key(cluster: Cluster, owner: Owner) -> None:
    a, _ = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {"n": 1})
    with pytest.raises(AlreadyTracked) as refused:
        await a.tracker.track(owner, "room", "k", {"n": 2})
    assert (refused.value.owner, refused.value.topic, refused.value.key) == (owner, "room", "k")
    assert [meta["n"] for _, meta in a.tracker.list("room")] == [1]
    await a.tracker.track(owner, "room", "l", {})
    await a.tracker.track(owner, "hall", "k", {})


async def test_owners_may_share_topic_and_key(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    other: Mailbox[Any] = Mailbox()
    for node, one in (a, owner), (a, other), (b, owner):
        await node.tracker.track(one, "room", "k", {})
    await cluster.ticks()
    assert a.keys() == b.keys() == ["k", "k", "k"]


async def test_what_is_tracked_is_listed_here_at_once_and_on_other_nodes_at_the_next_tick(
    cluster: Cluster, owner: Owner
) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.settled()
    assert (a.keys(), b.keys()) == (["k"], [])
    await cluster.ticks()
    assert (a.keys(), b.keys()) == (["k"], ["k"])
    assert a.handler.brief() == b.handler.brief() == [(["k"], [])]


@pytest.mark.parametrize("key", ["k", "", 7, -1.5, True, ("user", 7), ("a", ("b", None)), "grüß\u2028dich"])
async def test_keys_are_strings_numbers_and_tuples_of_them(local: Cluster, owner: Owner, key: Any) -> None:
    a, b = await local.pair()
    await a.tracker.track(owner, "room", key, {})
    await local.ticks()
    assert (b.keys(), len(b.tracker.get_by_key("room", key))) == ([key], 1)
    await a.tracker.untrack(owner, "room", key)
    await local.ticks()
    assert b.keys() == []


class Colour(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str


def nested(levels: int, within: Callable[[Any], Any]) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = within(value)
    return value


@pytest.mark.parametrize(
    "key",
    [[], {}, {1}, object(), b"k", float("nan"), "\ud800", ("a", ["b"]), ("a", {}), Colour(name="red"),
     ("a", Colour(name="red")), nested(40, lambda inner: (inner,))],
    ids=lambda key: type(key).__name__,
)  # fmt: skip
async def test_a_key_that_others_could_not_read_is_refused_and_leaves_nothing(
    local: Cluster, owner: Owner, key: Any
) -> None:
    a, b = await local.pair()
    for node in a, b:
        node.pubsub.codec.register(Colour)
    with pytest.raises((ConfigurationError, InvalidMessage)):
        await a.tracker.track(owner, "room", key, {})
    await still_in_step(local, a, b, owner)


@pytest.mark.parametrize(
    "meta",
    [None, 7, [], {1: 2}, {"x": object()}, {"x": {1}}, {"x": float("inf")}, {"x": "\ud800"}, {"\ud800": 1},
     {"x": Colour(name="not registered")}, {"x": nested(100, lambda inner: [inner])},
     {"x": nested(60, lambda inner: [inner])}, {"x": "x" * (1 << 20)}],
    ids=range(13),
)  # fmt: skip
async def test_a_meta_that_cannot_be_sent_is_refused_and_leaves_nothing(
    local: Cluster, owner: Owner, meta: Any
) -> None:
    a, b = await local.pair()
    with pytest.raises((ConfigurationError, InvalidMessage)):
        await a.tracker.track(owner, "room", "k", meta)
    assert (a.keys(), a.handler.diffs) == ([], [])
    await a.tracker.track(owner, "room", "here", {"n": 1})
    for change in meta, lambda _: meta:
        with pytest.raises((ConfigurationError, InvalidMessage)):
            await a.tracker.update(owner, "room", "here", change)
    assert [meta["n"] for _, meta in a.tracker.list("room")] == [1]
    await still_in_step(local, a, b, owner)


async def still_in_step(cluster: Cluster, a: Node, b: Node, owner: Owner) -> None:
    """What *a* tracks from now on reaches *b*, which never had to be told twice."""
    await a.tracker.track(owner, "room", "after", {})
    await cluster.ticks()
    assert b.tracker.list("room") == a.tracker.list("room") != []
    assert a.tap.kinds()["transfer_ack"] == 0


async def test_the_deepest_meta_that_is_taken_arrives(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    for levels in range(50, 70):
        try:
            await a.tracker.track(owner, "room", levels, {"x": nested(levels, lambda inner: [inner])})
        except InvalidMessage:
            break
    await local.ticks()
    assert len(a.keys()) > 5
    assert b.tracker.list("room") == a.tracker.list("room")


@pytest.mark.parametrize("meta", [{"t": (1, "a", (2,))}, {"m": Colour(name="red")}, {"n": None, "f": 0.1, "i": 10**30}])
async def test_metas_arrive_as_what_they_were(cluster: Cluster, owner: Owner, meta: dict[str, Any]) -> None:
    a, b = await cluster.pair()
    for node in a, b:
        node.pubsub.codec.register(Colour)
    reference = await a.tracker.track(owner, "room", "k", meta)
    await cluster.ticks()
    assert b.tracker.list("room") == [("k", meta | {"phx_ref": reference})]


@pytest.mark.parametrize("no_owner", [None, "me", 7, object()])
async def test_an_owner_is_a_task_a_mailbox_or_an_owner(local: Cluster, no_owner: Any) -> None:
    a = await alone(local)
    with pytest.raises(ConfigurationError, match="an owner is"):
        await a.tracker.track(no_owner, "room", "k", {})
    with pytest.raises(NoPresence):
        await a.tracker.update(no_owner, "room", "k", {})
    await a.tracker.untrack(no_owner)


async def test_a_topic_is_a_string(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    with pytest.raises(ConfigurationError, match="a topic is a string"):
        await a.tracker.track(owner, 7, "k", {})  # type: ignore[arg-type]
    with pytest.raises(InvalidMessage):
        await a.tracker.track(owner, "\ud800", "k", {})
    assert a.tracker.list("\ud800") == []


# -- update


@pytest.mark.parametrize("change", [{"n": 2}, lambda meta: {"n": meta["n"] + 1}], ids=["map", "function"])
async def test_an_update_gives_a_new_reference_and_names_the_one_before(
    cluster: Cluster, owner: Owner, change: Any
) -> None:
    a, b = await cluster.pair()
    first = await a.tracker.track(owner, "room", "k", {"n": 1, "old": True})
    second = await a.tracker.update(owner, "room", "k", change)
    await cluster.ticks()
    expected = [("k", {"n": 2, "phx_ref": second, "phx_ref_prev": first})]
    assert second != first
    assert a.tracker.list("room") == b.tracker.list("room") == expected


async def test_a_function_is_given_the_whole_meta_it_replaces(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    first = await a.tracker.track(owner, "room", "k", {"n": 1})
    second = await a.tracker.update(owner, "room", "k", lambda meta: meta | {"m": 2})
    third = await a.tracker.update(owner, "room", "k", lambda meta: meta)
    assert a.tracker.list("room") == [("k", {"n": 1, "m": 2, "phx_ref": third, "phx_ref_prev": second})]
    assert first not in (second, third)


async def test_an_update_is_one_diff_that_holds_leave_and_join_on_every_node(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {"n": 1})
    await cluster.ticks()
    await a.tracker.update(owner, "room", "k", {"n": 2})
    await cluster.ticks()
    for node in a, b:
        joins, leaves = node.handler.diffs[1]["room"]
        assert ([meta["n"] for _, meta in joins], [meta["n"] for _, meta in leaves]) == ([2], [1])
        assert len(node.handler.diffs) == 2


async def test_readers_on_all_nodes_always_see_one_presence_while_it_is_updated(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {"n": 0})
    await cluster.ticks()
    seen: set[int] = set()

    async def read() -> None:
        while True:
            seen.update(len(node.tracker.list("room")) for node in (a, b))
            seen.update(len(node.tracker.get_by_key("room", "k")) for node in (a, b))
            await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    for n in range(1, 21):
        await a.tracker.update(owner, "room", "k", {"n": n})
        if n % 4 == 0:
            await cluster.ticks()
    reading.cancel()
    assert (seen, [meta["n"] for _, meta in b.tracker.list("room")]) == ({1}, [20])


async def test_updating_what_is_not_there_is_refused(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    other = Owner()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    for node, one, topic, key in (
        (a, other, "room", "k"),
        (a, owner, "hall", "k"),
        (a, owner, "room", "l"),
        (b, owner, "room", "k"),
    ):
        with pytest.raises(NoPresence) as refused:
            await node.tracker.update(one, topic, key, lambda meta: meta)
        assert (refused.value.owner, refused.value.topic, refused.value.key) == (one, topic, key)


async def test_what_an_update_s_function_raises_reaches_its_caller_and_harms_nothing(
    cluster: Cluster, owner: Owner
) -> None:
    a, b = await cluster.pair()
    reference = await a.tracker.track(owner, "room", "k", {"n": 1})
    replica = a.tracker.replica("room")

    def spoil(meta: dict[str, Any]) -> dict[str, Any]:
        meta.clear()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await a.tracker.update(owner, "room", "k", spoil)
    await cluster.ticks()
    assert a.tracker.list("room") == b.tracker.list("room") == [("k", {"n": 1, "phx_ref": reference})]
    assert a.tracker.replica("room") == replica


# -- untrack


async def test_untracking_ends_one_presence_all_of_a_topic_or_all(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair(pool_size=4)
    topics = list(topics_of(4, 0, 1, 2, 3))
    for topic in topics:
        for key in "k", "l":
            await a.tracker.track(owner, topic, key, {})
    await a.tracker.untrack(owner, topics[0], "k")
    await a.tracker.untrack(owner, topics[1])
    await cluster.ticks(2)
    assert [b.keys(topic) for topic in topics] == [["l"], [], ["k", "l"], ["k", "l"]]
    await a.tracker.untrack(owner)
    await cluster.ticks(2)
    assert [node.keys(topic) for topic in topics for node in (a, b)] == [[]] * 8


async def test_untracking_what_is_not_there_is_fine_and_tells_nobody(cluster: Cluster, owner: Owner) -> None:
    a, _ = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {})
    for _ in range(2):
        await a.tracker.untrack(owner, "room", "k")
        await a.tracker.untrack(owner, "room")
        await a.tracker.untrack(owner)
        await a.tracker.untrack(Owner(), "room", "k")
    assert a.handler.brief() == [(["k"], []), ([], ["k"])]


async def test_untracking_leaves_the_presences_of_others_alone(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    other = Owner()
    for node, one in (a, owner), (a, other), (b, owner):
        await node.tracker.track(one, "room", "k", {})
    await cluster.ticks()
    await a.tracker.untrack(owner)
    await cluster.ticks()
    assert a.keys() == b.keys() == ["k", "k"]


# -- list


async def test_lists_have_the_same_order_on_all_nodes(cluster: Cluster) -> None:
    nodes = [await cluster.node(name) for name in "bca"]
    await cluster.ticks(2)
    owners = [Owner() for _ in range(5)]
    for n, owner in enumerate(owners):
        for node in nodes:
            await node.tracker.track(owner, "room", f"k{-n}", {})
    await cluster.ticks(2)
    lists = [node.tracker.list("room") for node in nodes]
    assert (len(lists[0]), lists[0]) == (15, lists[1])
    assert lists[1] == lists[2]


async def test_get_by_key_gives_owners_of_this_node_and_references_to_those_of_others(cluster: Cluster) -> None:
    a, b = await cluster.pair()
    mine, theirs = Owner(), Mailbox[Any]()
    await a.tracker.track(mine, "room", "k", {"n": 1})
    await b.tracker.track(theirs, "room", "k", {"n": 2})
    await a.tracker.track(mine, "room", "other", {})
    await cluster.ticks()
    found = {meta["n"]: owner for owner, meta in a.tracker.get_by_key("room", "k")}
    assert found[1] is mine
    assert isinstance(found[2], OwnerRef)
    assert found[2].node == "b"
    assert {meta["n"]: owner for owner, meta in b.tracker.get_by_key("room", "k")}[2] is theirs
    assert a.tracker.get_by_key("room", "nobody") == []


async def test_lists_of_topics_nobody_is_in_are_empty(local: Cluster) -> None:
    a = await alone(local)
    assert (a.tracker.list("room"), a.tracker.get_by_key("room", "k")) == ([], [])


async def test_metas_are_copies_for_writers_readers_and_handlers_alike(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    meta: dict[str, Any] = {"n": 1, "list": [1, {"x": ([2],)}]}
    reference = await a.tracker.track(owner, "room", "k", meta)
    expected = [("k", {"n": 1, "list": [1, {"x": ([2],)}], "phx_ref": reference})]

    def spoil(one: dict[str, Any]) -> dict[str, Any]:
        one["list"][1]["x"][0].append(3)
        one["list"].append(4)
        one.clear()
        raise KeyError

    for one in (
        meta,
        a.tracker.list("room")[0][1],
        a.tracker.get_by_key("room", "k")[0][1],
        a.handler.diffs[0]["room"][0][0][1],
    ):
        with pytest.raises(KeyError):
            spoil(one)
    with pytest.raises(KeyError):
        await a.tracker.update(owner, "room", "k", spoil)
    await local.ticks()
    assert a.tracker.list("room") == b.tracker.list("room") == expected


async def test_the_shard_of_a_topic_is_its_hash(local: Cluster, owner: Owner) -> None:
    a = await alone(local, pool_size=8)
    vsns = [shard.protocol.replica for shard in a.tracker._shards]
    assert len(set(vsns)) == 8
    for topic in (f"topic {n}" for n in range(40)):
        assert a.tracker.replica(topic) == vsns[crc32(topic.encode()) % 8]
        await a.tracker.track(owner, topic, "k", {})
    assert sum(len(shard.protocol.state.own()) for shard in a.tracker._shards) == 40


async def test_a_tracker_has_as_many_gossip_topics_as_shards(local: Cluster) -> None:
    a = await alone(local, pool_size=3)
    for number in range(3):
        assert a.pubsub.subscribed(f"phx_presence:t:{number}")
    assert not a.pubsub.subscribed("phx_presence:t:3")


async def test_trackers_of_other_names_have_presences_of_their_own(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    async with Tracker(Recorder(), "other", b.pubsub, clock=local.clock) as other:
        await a.tracker.track(owner, "room", "k", {})
        await local.ticks(2)
        assert (b.keys(), other.list("room")) == (["k"], [])


# -- the end of an owner


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def ended_task() -> tuple[Any, Callable[[], object]]:
    end = asyncio.Event()
    return asyncio.create_task(end.wait()), end.set


async def cancelled_task() -> tuple[Any, Callable[[], object]]:
    task = asyncio.create_task(forever())
    return task, task.cancel


async def failed_task() -> tuple[Any, Callable[[], object]]:
    future = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await future

    task = asyncio.create_task(work())
    task.add_done_callback(lambda done: done.exception())
    return task, lambda: future.set_exception(RuntimeError("the owner fails"))


async def closed_mailbox() -> tuple[Any, Callable[[], object]]:
    mailbox: Mailbox[Any] = Mailbox()
    return mailbox, mailbox.close


async def mailbox_of_a_task() -> tuple[Any, Callable[[], object]]:
    task = asyncio.create_task(forever())
    return Mailbox[Any](owner=task), task.cancel


async def closed_owner() -> tuple[Any, Callable[[], object]]:
    owner = Owner()
    return owner, owner.close


ENDS = [ended_task, cancelled_task, failed_task, closed_mailbox, mailbox_of_a_task, closed_owner]


@pytest.mark.parametrize("begin", ENDS, ids=lambda begin: begin.__name__)
async def test_what_an_owner_had_leaves_with_it_everywhere(cluster: Cluster, owner: Owner, begin: Any) -> None:
    a, b = await cluster.pair(pool_size=2)
    dying, end = await begin()
    topics = list(topics_of(2, 0, 1))
    for topic in topics:
        await a.tracker.track(dying, topic, "k", {})
        await a.tracker.track(owner, topic, "stays", {})
    await cluster.ticks(2)
    end()
    await cluster.until(lambda: len(a.handler.diffs) == 6)
    assert [a.keys(topic) for topic in topics] == [["stays"]] * 2
    await cluster.ticks(2)
    assert [b.keys(topic) for topic in topics] == [["stays"]] * 2


@pytest.mark.parametrize("kind", [Owner, Mailbox])
async def test_presences_last_as_long_as_the_block_of_their_owner(cluster: Cluster, kind: Any) -> None:
    a, b = await cluster.pair()
    async with kind() as owner:
        await a.tracker.track(owner, "room", "k", {})
        await cluster.ticks()
        assert b.keys() == ["k"]
    await cluster.ticks()
    assert (a.keys(), b.keys()) == ([], [])


@pytest.mark.parametrize("kind", [Owner, Mailbox])
async def test_an_owner_that_is_collected_leaves(local: Cluster, kind: Any) -> None:
    a = await alone(local)
    await a.tracker.track(kind(), "room", "k", {})
    gc.collect()
    await local.settled()
    assert (a.keys(), a.handler.brief()) == ([], [(["k"], []), ([], ["k"])])


async def test_an_owner_collected_by_another_thread_leaves(local: Cluster) -> None:
    a = await alone(local)
    held: list[Any] = [Mailbox()]
    await a.tracker.track(held[0], "room", "k", {})
    await asyncio.to_thread(held.clear)
    await local.until(lambda: a.keys() == [])


async def test_the_tracker_keeps_no_owner_alive_and_no_id_of_one_that_ended(local: Cluster) -> None:
    a = await alone(local)
    for begin in ENDS:
        dying, end = await begin()
        await a.tracker.track(dying, "room", "k", {})
        end()
        await local.until(lambda: a.keys() == [])
    assert (a.tracker._owners._known, a.tracker._owners._by_id) == ({}, {})


@pytest.mark.parametrize("begin", ENDS, ids=lambda begin: begin.__name__)
async def test_tracking_an_owner_that_has_ended_joins_and_leaves(cluster: Cluster, begin: Any) -> None:
    a, b = await cluster.pair()
    dead, end = await begin()
    await asyncio.sleep(0)
    end()
    for _ in range(10):
        await asyncio.sleep(0)
    assert await a.tracker.track(dead, "room", "k", {})
    assert a.keys() == []
    await cluster.ticks()
    assert (b.keys(), b.handler.diffs) == ([], [])
    assert a.handler.brief() == [(["k"], []), ([], ["k"])]


async def test_an_owner_that_ends_while_it_is_tracked_joins_and_leaves(local: Cluster) -> None:
    a = await alone(local)
    owner = Owner()
    tracked = asyncio.create_task(a.tracker.track(owner, "room", "k", {}))
    await asyncio.sleep(0)
    owner.close()
    assert await tracked
    await local.settled()
    assert a.handler.brief() == [(["k"], []), ([], ["k"])]


async def test_who_ended_has_nothing_to_update_or_to_untrack(local: Cluster) -> None:
    a = await alone(local)
    owner = Owner()
    await a.tracker.track(owner, "room", "k", {})
    owner.close()
    with pytest.raises(NoPresence):
        await a.tracker.update(owner, "room", "k", {})
    await a.tracker.untrack(owner)
    await local.settled()
    assert a.keys() == []


# -- the handler


async def test_handle_diff_has_run_when_the_caller_gets_its_answer(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    a.handler.gate.clear()
    a.handler.entered.clear()
    tracked = asyncio.create_task(a.tracker.track(owner, "room", "k", {"n": 1}))
    await a.handler.entered.wait()
    assert not tracked.done()
    a.handler.gate.set()
    reference = await tracked
    assert a.handler.diffs == [{"room": ([("k", {"n": 1, "phx_ref": reference})], [])}]


async def test_a_change_of_many_topics_is_one_diff(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    for topic in "room", "hall":
        await a.tracker.track(owner, topic, topic[0], {})
    await cluster.ticks()
    owner.close()
    await cluster.ticks()
    assert b.handler.brief() == [(["r", "h"], []), ([], ["r", "h"])]
    assert set(b.handler.diffs[0]) == {"room", "hall"}


async def test_each_shard_hands_on_the_state_that_its_handler_returned(local: Cluster, owner: Owner) -> None:
    a = await alone(local, pool_size=2)
    topics = list(topics_of(2, 0, 0, 1))
    for n in range(3):
        await a.tracker.track(owner, topics[0], n, {})
    await a.tracker.send("hello", topics[0])
    await a.tracker.track(owner, topics[2], 0, {})
    assert (a.handler.inits, a.handler.states) == (2, [0, 1, 2, 3, 0])


class Bare:
    """A handler with nothing but what it must have."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    async def handle_diff(self, _diff: Any, state: Any) -> Any:
        self.states.append(state)
        return state


async def test_a_handler_needs_neither_init_nor_handle_info_nor_a_state(local: Cluster, owner: Owner) -> None:
    a = await alone(local, handler=Bare())
    await a.tracker.send("hello")
    await a.tracker.track(owner, "room", "k", {})
    await local.settled()
    assert (a.handler.states, a.keys()) == ([None], ["k"])


async def test_handle_info_gets_what_is_sent_to_it_even_if_it_looks_like_gossip(local: Cluster) -> None:
    a = await alone(local, pool_size=3)
    await a.tracker.send("hello")
    await a.tracker.send(("permdown", ["a", "b"]), "room")
    await local.settled()
    assert sorted(map(str, a.handler.infos)) == ["('permdown', ['a', 'b'])", "hello", "hello", "hello"]


async def test_handle_info_gets_what_is_no_gossip(cluster: Cluster) -> None:
    a, b = await cluster.pair()
    for message in ("a", "tuple"), "text", None, ("unknown", 1, 2):
        await b.pubsub.broadcast(TOPIC, message)
    await cluster.settled()
    assert a.handler.infos == b.handler.infos == [("a", "tuple"), "text", None, ("unknown", 1, 2)]


@pytest.mark.parametrize(
    "message",
    [("heartbeat",), ("heartbeat", "x", []), ("delta", ["z", "1"], 7, []), ("permdown", [1, 2]), ("permdown", ["z"]),
     ("transfer_req", ["z", "1"], [["z", "1", -1]]), ("delta", ["z", "1"], [["z", "1", [[1, 1]], [[1]]]], [])],
)  # fmt: skip
async def test_gossip_that_cannot_be_read_is_dropped_and_harms_nothing(
    local: Cluster, owner: Owner, message: Any
) -> None:
    a, b = await local.pair()
    replica = a.tracker.replica("room")
    await b.pubsub.broadcast(TOPIC, message)
    await a.tracker.track(owner, "room", "k", {})
    await local.ticks()
    assert (b.keys(), a.handler.infos, a.tracker.replica("room")) == (["k"], [], replica)


@pytest.mark.parametrize("call", ["handle_diff", "handle_info"])
@pytest.mark.parametrize("way", ["raises", "returns None", "is cancelled"])
async def test_a_handler_that_fails_begins_its_shard_anew_and_no_other(
    local: Cluster, owner: Owner, call: str, way: str
) -> None:
    a = await alone(local, handler=Failing(way), pool_size=2)
    mine, theirs = topics_of(2, 0, 1)
    for topic in mine, theirs:
        await a.tracker.track(owner, topic, "k", {})
    replicas, crashed = [a.tracker.replica(topic) for topic in (mine, theirs)], a.shard.moments.next("crashed")
    a.handler.armed = True
    if call == "handle_info":
        await a.tracker.send("now", mine)
    else:
        with pytest.raises(ShardCrashed):
            await asyncio.wait_for(a.tracker.track(owner, mine, "l", {}), WITHIN)
    await asyncio.wait_for(crashed, WITHIN)
    await local.settled()
    assert (a.keys(mine), a.keys(theirs)) == ([], ["k"])
    assert a.tracker.replica(mine).vsn != replicas[0].vsn
    assert a.tracker.replica(theirs) == replicas[1]
    await a.tracker.track(owner, mine, "k", {})
    assert (a.keys(mine), a.handler.inits) == (["k"], 3)


class Failing(Recorder):
    """A handler that fails once when armed."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.armed = way, False

    async def handle_diff(self, diff: Any, state: Any) -> Any:
        return await self._fail() if self.armed else await super().handle_diff(diff, state)

    async def handle_info(self, message: Any, state: Any) -> Any:
        return await self._fail() if self.armed else await super().handle_info(message, state)

    async def _fail(self) -> None:
        self.armed = False
        if self.way == "raises":
            raise RuntimeError
        if self.way == "is cancelled":
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled


async def test_others_see_the_presences_of_a_crashed_shard_leave(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {"n": 1})
    await b.tracker.track(owner, "room", "other", {})
    await cluster.ticks()
    a.handler.before = fail
    await a.tracker.send("now")
    await cluster.until(lambda: a.keys() == [])
    a.handler.before = lambda _: None
    await cluster.ticks()
    assert b.keys() == ["other"]
    assert b.handler.brief()[-1] == ([], ["k"])
    await a.tracker.track(owner, "room", "k", {"n": 2})
    await cluster.ticks(3)
    assert a.tracker.list("room") == b.tracker.list("room")
    assert sorted(a.keys()) == ["k", "other"]


async def test_a_shard_that_crashed_learns_again_what_others_have(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await b.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    crashed = a.shard.moments.next("crashed")
    a.handler.before = fail
    await a.tracker.send("now")
    await crashed
    a.handler.before = lambda _: None
    assert a.keys() == []
    await cluster.ticks(8)
    assert a.tracker.list("room") == b.tracker.list("room") != []


async def test_everybody_who_waits_for_a_shard_that_crashes_is_told(local: Cluster) -> None:
    a = await alone(local)
    owners = [Owner() for _ in range(5)]
    await a.tracker.track(owners[0], "room", "k", {})
    a.handler.gate.clear()
    a.handler.before = fail
    calls = [asyncio.create_task(a.tracker.track(owner, "room", "l", {})) for owner in owners]
    calls.append(asyncio.create_task(a.tracker.update(owners[0], "room", "k", {})))
    calls.append(asyncio.create_task(a.tracker.untrack(owners[0])))
    await asyncio.sleep(0)
    a.handler.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results] == [ShardCrashed] * 7
    a.handler.before = lambda _: None
    assert await a.tracker.track(owners[0], "room", "k", {})
    assert a.keys() == ["k"]


async def test_a_shard_restarts_at_most_twice_a_second_for_each_of_the_pool(local: Cluster) -> None:
    a = await alone(local, pool_size=2)
    starts: list[float] = []
    a.handler.before = fail
    init = a.handler.init

    async def note() -> Any:
        starts.append(local.clock.time())
        return await init()

    a.handler.init = note
    topics = list(topics_of(2, 0, 1))
    rng = random.Random(1)
    for _ in range(200):
        await a.tracker.send("now", topics[rng.randrange(2)])
        await local.move(rng.choice([0.0, 0.01, 0.3]))
    assert len(starts) > 20
    for first, fifth in zip(starts, starts[4:], strict=False):
        assert fifth - first >= 1.0 - 1e-6


async def test_a_shard_that_may_not_restart_yet_keeps_its_callers_waiting(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    a.handler.before = fail
    for _ in range(3):
        crashed = a.shard.moments.next("crashed")
        await a.tracker.send("now")
        await crashed
    a.handler.before = lambda _: None
    tracked = asyncio.create_task(a.tracker.track(owner, "room", "k", {}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (tracked.done(), a.keys()) == (False, [])
    await local.move(1.0)
    assert await tracked
    assert a.keys() == ["k"]


@pytest.mark.parametrize("link_owners", [False, True])
async def test_owners_end_with_their_presences_only_if_they_are_linked(local: Cluster, link_owners: bool) -> None:
    a = await alone(local, pool_size=2, link_owners=link_owners)
    mine, theirs = topics_of(2, 0, 1)
    task, mailbox, owner, other = asyncio.create_task(forever()), Mailbox[Any](), Owner(), Owner()
    for one in task, mailbox, owner:
        await a.tracker.track(one, mine, "k", {})
        await a.tracker.track(one, theirs, "k", {})
    await a.tracker.track(other, theirs, "k", {})
    crashed = a.shard.moments.next("crashed")
    a.handler.before = lambda message: fail(message) if message == "now" else None
    await a.tracker.send("now", mine)
    await crashed
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.cancelled(), mailbox.closed, owner.closed, other.closed] == [link_owners] * 3 + [False]
    await local.settled()
    assert (a.keys(mine), len(a.keys(theirs))) == ([], 1 if link_owners else 4)
    task.cancel()


async def test_a_handler_that_waits_does_not_keep_its_shard_from_ticking(local: Cluster) -> None:
    a = await alone(local, handler=Slow())
    owners = [Owner() for _ in range(20)]

    async def work(owner: Owner) -> None:
        while True:
            await a.tracker.track(owner, "room", "k", {})
            await a.tracker.untrack(owner, "room", "k")

    working = [asyncio.create_task(work(owner)) for owner in owners]
    for _ in range(50):
        await asyncio.sleep(0)
    ticked = a.shard.moments.next("ticked")
    local.clock.advance(local.clock.time() + 5)
    try:
        async with asyncio.timeout(WITHIN):
            await ticked
    finally:
        for one in working:
            one.cancel()
        await asyncio.gather(*working, return_exceptions=True)


class Slow:
    async def handle_diff(self, _diff: Any, state: Any) -> Any:
        for _ in range(5):
            await asyncio.sleep(0)
        return state


# -- what nodes say to each other


async def test_the_first_tick_comes_within_a_quarter_of_the_period_and_always_speaks(local: Cluster) -> None:
    a = await local.node("a")
    await local.move(0.23)
    assert a.tap.said == []
    await local.move(0.02)
    assert a.tap.said == [("heartbeat", list(a.tracker.replica("room")), [[*a.tracker.replica("room"), 0]])]


async def test_a_quiet_cluster_says_one_heartbeat_per_node_and_max_silent_periods(cluster: Cluster) -> None:
    a, b = await cluster.pair()
    await cluster.ticks(8)
    for node in a, b:
        node.tap.said.clear()
    await cluster.ticks(20)
    assert a.tap.kinds() == b.tap.kinds() == {"heartbeat": 4}


async def test_a_change_is_said_once_as_a_delta_that_counts_as_a_heartbeat(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await cluster.ticks(8)
    a.tap.said.clear()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks(5)
    assert a.tap.kinds() == {"delta": 1}
    await cluster.ticks(1)
    assert a.tap.kinds() == {"delta": 1, "heartbeat": 1}
    assert b.keys() == ["k"]


async def test_a_subscriber_sees_and_counts_the_gossip(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    async with b.pubsub.subscription(TOPIC) as gossip:
        await a.tracker.track(owner, "room", "k", {})
        await cluster.ticks()
        kinds = [message[0] for message in gossip.take_nowait(100)]
    assert kinds.count("delta") == 1
    assert set(kinds) <= {"delta", "heartbeat", "transfer_req", "transfer_ack"}


async def test_a_subscriber_of_the_gossip_that_is_full_does_not_silence_the_node(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    full: Mailbox[Any] = Mailbox(1, "error")
    a.pubsub.subscribe(TOPIC, full)
    for key in range(3):
        await a.tracker.track(owner, "room", key, {})
        await local.ticks()
    assert b.keys() == [0, 1, 2]


async def test_deltas_that_were_lost_are_made_up_for_by_a_transfer(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "leaves", {})
    await cluster.ticks()
    a.tap.drops = lambda message: message[0] == "delta"
    await a.tracker.track(owner, "room", "k", {"n": 1})
    await a.tracker.untrack(owner, "room", "leaves")
    await cluster.ticks(2)
    await a.tracker.update(owner, "room", "k", {"n": 2})
    await cluster.ticks(2)
    assert b.keys() == ["leaves"]
    a.tap.drops = lambda _: False
    await cluster.ticks(8)
    assert b.tracker.list("room") == a.tracker.list("room") != []
    assert a.tap.kinds()["transfer_ack"] >= 1


async def test_messages_in_any_order_and_twice_lead_to_the_same_lists(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    a.tap.holding = []
    for n in range(6):
        await a.tracker.track(owner, "room", n, {})
        await a.tracker.untrack(owner, "room", n - 3)
        await cluster.ticks()
    a.tap.holding = [*reversed(a.tap.holding), *a.tap.holding]
    await a.tap.let_go()
    await cluster.ticks(12)
    assert sorted(b.keys()) == [3, 4, 5]
    assert b.tracker.list("room") == a.tracker.list("room")


async def test_a_newcomer_learns_what_was_there_before_it(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    for n in range(10):
        await (a if n % 2 else b).tracker.track(owner, "room", n, {})
        await cluster.ticks()
    c = await cluster.node("c")
    await cluster.ticks(4)
    assert c.tracker.list("room") == a.tracker.list("room")
    assert len(c.keys()) == 10


async def test_a_transfer_of_thousands_of_presences_comes_in_parts(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    b.tap.cut = True
    for n in range(4500):
        await a.tracker.track(owner, "room", n, {})
    await local.ticks()
    b.tap.cut = False
    await local.ticks(10)
    assert len(b.keys()) == 4500
    assert a.tap.kinds()["transfer_ack"] >= 3


async def test_presences_too_large_for_one_message_are_sent_in_several(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    b.tap.cut = True
    for n in range(18):
        await a.tracker.track(owner, "room", n, {"large": "x" * 1_000_000})
    await cluster.ticks(2)
    b.tap.cut = False
    await cluster.ticks(10)
    assert len(b.keys()) == 18
    assert b.tracker.list("room") == a.tracker.list("room")


async def test_reconnected_makes_shards_speak_at_their_next_tick(cluster: Cluster) -> None:
    a, _ = await cluster.pair(pool_size=2)
    await cluster.ticks(8)
    said = []
    for state in ("lost",), ("reconnected",), ("reconnected",), ("something else",):
        a.tap.said.clear()
        await a.pubsub.local_broadcast(CONNECTION, state)
        await cluster.ticks()
        said.append(dict(a.tap.kinds()))
    assert said[1:] == [{"heartbeat": 2}, {"heartbeat": 2}, {}]


@pytest.mark.parametrize("kinds", [{"delta"}, {"heartbeat", "delta"}, {"transfer_req"}, {"transfer_ack"}, {"delta", "transfer_ack"}])  # fmt: skip  # noqa: E501
async def test_whatever_is_lost_for_a_while_nodes_agree_in_the_end(
    local: Cluster, owner: Owner, kinds: set[str]
) -> None:
    nodes = [await local.node(name) for name in "abc"]
    await local.ticks(2)
    rng = random.Random(str(sorted(kinds)))
    for node in nodes:
        node.tap.drops = lambda message: message[0] in kinds and rng.random() < 0.7
    for _ in range(60):
        node, key = rng.choice(nodes), rng.randrange(4)
        try:
            await node.tracker.track(owner, "room", key, {})
        except AlreadyTracked:
            await (node.tracker.untrack(owner, "room", key) if key else node.tracker.update(owner, "room", key, {}))
        await local.ticks(rng.randrange(2))
    for node in nodes:
        node.tap.drops = lambda _: False
    await local.ticks(20)
    assert nodes[0].tracker.list("room") == nodes[1].tracker.list("room") == nodes[2].tracker.list("room")


# -- silence and farewell


async def test_a_node_that_is_silent_is_hidden_after_down_period_and_comes_back_with_a_heartbeat(
    cluster: Cluster, owner: Owner
) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    a.tap.cut = True
    await cluster.ticks(10)
    assert b.keys() == ["k"]
    await cluster.ticks(2)
    assert (b.keys(), b.tracker.get_by_key("room", "k"), b.handler.brief()[-1]) == ([], [], ([], ["k"]))
    a.tap.cut = False
    await cluster.ticks(8)
    assert (b.keys(), b.handler.brief()[-1], len(b.handler.diffs)) == (["k"], (["k"], []), 3)


async def test_what_a_node_changed_while_it_was_down_is_known_after_it_came_back(
    cluster: Cluster, owner: Owner
) -> None:
    a, b = await cluster.pair()
    for key in "k", "l":
        await a.tracker.track(owner, "room", key, {})
    await cluster.ticks()
    a.tap.cut = True
    await cluster.ticks(12)
    await a.tracker.untrack(owner, "room", "k")
    await a.tracker.track(owner, "room", "m", {})
    await b.tracker.track(owner, "room", "of b", {})
    await cluster.ticks(2)
    a.tap.cut = False
    await cluster.ticks(12)
    assert a.tracker.list("room") == b.tracker.list("room")
    assert set(a.keys()) == {"l", "m", "of b"}


async def test_replicas_that_are_down_are_asked_for_by_nobody(cluster: Cluster, owner: Owner) -> None:
    nodes = a, b, c = [await cluster.node(name) for name in "abc"]
    await cluster.ticks(2)
    await c.tracker.track(owner, "room", "k", {})
    await cluster.ticks(2)
    c.tap.cut = True
    await cluster.ticks(14)
    for node in nodes:
        node.tap.said.clear()
    await cluster.ticks(10)
    assert (a.keys(), b.keys()) == ([], [])
    assert a.tap.kinds() == b.tap.kinds() == {"heartbeat": 2}


@pytest.mark.parametrize("silence", [25, 40], ids=["down", "forgotten"])
async def test_a_partition_heals_however_long_it_was(cluster: Cluster, owner: Owner, silence: int) -> None:
    a, b = await cluster.pair()
    for node, key in (a, "of a"), (b, "of b"):
        await node.tracker.track(owner, "room", key, {})
    await cluster.ticks()
    a.tap.cut = True
    await cluster.ticks(silence)
    assert (a.keys(), b.keys()) == (["of a"], ["of b"])
    a.tap.cut = False
    await cluster.ticks(12)
    assert a.tracker.list("room") == b.tracker.list("room")
    assert set(a.keys()) == {"of a", "of b"}


async def test_a_node_that_is_silent_for_very_long_is_forgotten(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    replica = a.tracker.replica("room")
    await cluster.kill(a)
    await cluster.ticks(25)
    assert replica in b.shard.protocol.state.clock
    await cluster.ticks(10)
    assert replica not in b.shard.protocol.state.clock
    assert [shape(b)[name] for name in ("peers", "gone", "values")] == [0, 0, 0]


async def test_a_node_that_starts_again_replaces_its_former_self_at_once(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "old", {})
    await cluster.ticks()
    before = a.tracker.replica("room")
    await cluster.kill(a)
    again = await cluster.node("a")
    await again.tracker.track(owner, "room", "new", {})
    await cluster.ticks(3)
    after = again.tracker.replica("room")
    assert (after.node, after.vsn != before.vsn, b.keys()) == ("a", True, ["new"])
    assert ([], ["old"]) in b.handler.brief()
    await cluster.ticks(12)
    assert (again.keys(), b.keys()) == (["new"], ["new"])


async def test_what_is_late_about_a_former_self_does_not_bring_it_back(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    a.tap.holding = []
    await a.tracker.track(owner, "room", "old", {})
    await cluster.ticks()
    held, a.tap.holding = a.tap.holding, None
    await cluster.kill(a)
    again = await cluster.node("a")
    await cluster.ticks(2)
    again.tap.holding = held
    await again.tap.let_go()
    await cluster.ticks(5)
    assert (b.keys(), b.handler.diffs) == ([], [])


async def test_graceful_permdown_is_seen_at_once_and_ends_the_tracker_here(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair(pool_size=2)
    topics = list(topics_of(2, 0, 1))
    for topic in topics:
        await a.tracker.track(owner, topic, "k", {})
    await cluster.ticks(2)
    await a.tracker.graceful_permdown()
    await cluster.settled()
    assert [b.keys(topic) for topic in topics] == [[], []]
    await refuses_everything(a.tracker, owner)
    assert b.tap.kinds()["transfer_ack"] == 0


async def refuses_everything(tracker: Tracker, owner: Owner) -> None:
    for call in (
        lambda: tracker.track(owner, "room", "k", {}),
        lambda: tracker.update(owner, "room", "k", {}),
        lambda: tracker.untrack(owner),
        lambda: tracker.untrack(owner, "room"),
        lambda: tracker.untrack(owner, "room", "k"),
        lambda: tracker.send("x"),
    ):
        with pytest.raises(PubSubClosed):
            await call()
    for plain in (lambda: tracker.list("room"), lambda: tracker.get_by_key("room", "k"), lambda: tracker.replica("r")):
        with pytest.raises(PubSubClosed):
            plain()
    assert tracker.closed


async def test_a_farewell_of_a_former_self_means_nothing(local: Cluster, owner: Owner) -> None:
    a, b = await local.pair()
    await a.tracker.track(owner, "room", "k", {})
    await local.ticks()
    for replica in Replica("a", "another"), Replica("nobody", "x"), b.tracker.replica("room"):
        await a.pubsub.broadcast_from(a.shard._heard, TOPIC, ("permdown", list(replica)))
    await local.ticks()
    assert b.keys() == ["k"]


async def test_presences_outlive_an_ordinary_close_until_down_period(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    await cluster.close(a)
    await cluster.ticks(9)
    assert b.keys() == ["k"]
    await cluster.ticks(3)
    assert b.keys() == []


async def test_with_permdown_on_shutdown_presences_go_with_the_close(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair(permdown_on_shutdown=True)
    await a.tracker.track(owner, "room", "k", {})
    await cluster.ticks()
    await cluster.close(a)
    await cluster.settled()
    assert b.keys() == []


async def test_closing_twice_is_fine_and_a_tracker_that_was_not_opened_refuses(local: Cluster, owner: Owner) -> None:
    a = await alone(local, permdown_on_shutdown=True)
    await a.tracker.close()
    await a.tracker.close()
    await a.tracker.graceful_permdown()
    await refuses_everything(a.tracker, owner)
    unopened = Tracker(Recorder(), "u", a.pubsub)
    await refuses_everything(unopened, owner)
    await unopened.close()


async def test_who_waits_when_the_tracker_closes_is_told(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    a.handler.gate.clear()
    calls = [asyncio.create_task(a.tracker.track(owner, "room", key, {})) for key in range(3)]
    await asyncio.sleep(0)
    await a.tracker.close()
    assert [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)] == [PubSubClosed] * 3


async def test_a_handler_that_ignores_its_cancellation_does_not_keep_close_waiting(
    local: Cluster, owner: Owner
) -> None:
    a = await alone(local, handler=Deaf())
    tracked = asyncio.create_task(a.tracker.track(owner, "room", "k", {}))
    await a.handler.entered.wait()
    async with asyncio.timeout(WITHIN):
        await a.tracker.close()
    with pytest.raises(PubSubClosed):
        await tracked


class Deaf:
    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def handle_diff(self, _diff: Any, state: Any) -> Any:
        self.entered.set()
        try:
            await forever()
        except asyncio.CancelledError:
            return state


async def test_a_pubsub_that_is_closed_first_does_not_keep_a_tracker_from_closing(local: Cluster, owner: Owner) -> None:
    a = await alone(local, permdown_on_shutdown=True)
    await a.tracker.track(owner, "room", "k", {})
    await a.pubsub.close()
    await a.tracker.close()
    assert a.tracker.closed


# -- options


@pytest.mark.parametrize(
    "options",
    [{"broadcast_period": 0}, {"broadcast_period": -1}, {"broadcast_period": float("nan")},
     {"broadcast_period": float("inf")}, {"down_period": 1.9}, {"down_period": float("nan")}, {"down_period": -1},
     {"permdown_period": 10.0}, {"permdown_period": 9}, {"permdown_period": float("nan")}, {"down_period": 30.0},
     {"max_silent_periods": 0}, {"max_silent_periods": 1.5}, {"clock_sample_periods": 0}, {"max_delta_sizes": ()},
     {"max_delta_sizes": (0, 1)}, {"max_delta_sizes": (2, 1)}, {"max_delta_sizes": (1, 1)}, {"pool_size": 0},
     {"pool_size": 1.0}, {"pool_size": True}, {"pool_size": 1025}],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    periods: dict[str, Any] = {"broadcast_period": 1.0, "max_silent_periods": 5, "permdown_period": 30.0}
    with pytest.raises(ConfigurationError):
        Tracker(Recorder(), "t", PubSub("p"), **(periods | options))


def test_periods_at_the_border_are_taken() -> None:
    tracker = Tracker(Recorder(), "t", PubSub("p"), broadcast_period=1.0, down_period=2.0, permdown_period=2.1)
    assert tracker._options.down == 2.0
    assert Tracker(Recorder(), "t", PubSub("p"))._options.down == 30.0


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_tracker_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Tracker(Recorder(), name, PubSub("p"))


def test_a_tracker_needs_a_handler() -> None:
    with pytest.raises(ConfigurationError, match="handle_diff"):
        Tracker(object(), "t", PubSub("p"))  # type: ignore[arg-type]


async def test_a_tracker_needs_an_open_pubsub_and_is_opened_once() -> None:
    with pytest.raises(PubSubClosed):
        await Tracker(Recorder(), "t", PubSub("p")).__aenter__()
    async with PubSub("p") as pubsub, Tracker(Recorder(), "t", pubsub, clock=HandMoved()) as tracker:
        with pytest.raises(ConfigurationError, match="opened before"):
            await tracker.__aenter__()


async def test_a_period_too_short_is_noticed_before_anything_runs(local: Cluster) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ConfigurationError):
        await local.node("a", down_period=1.0)
    assert asyncio.all_tasks() == before


# -- callers that give up


async def test_a_track_that_is_cancelled_in_the_queue_did_not_happen(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    a.handler.gate.clear()
    first = asyncio.create_task(a.tracker.track(owner, "room", "first", {}))
    second = asyncio.create_task(a.tracker.track(owner, "room", "second", {}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cancelled(second)
    a.handler.gate.set()
    await first
    await local.settled()
    assert (a.keys(), a.handler.brief()) == (["first"], [(["first"], [])])
    await a.tracker.track(owner, "room", "second", {})


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_track_that_is_cancelled_while_the_handler_is_told_did_happen(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    a.handler.gate.clear()
    a.handler.entered.clear()
    tracked = asyncio.create_task(a.tracker.track(owner, "room", "k", {}))
    await a.handler.entered.wait()
    await cancelled(tracked)
    a.handler.gate.set()
    await cluster.ticks()
    assert (a.keys(), b.keys()) == (["k"], ["k"])
    owner.close()
    await cluster.ticks()
    assert (a.keys(), b.keys()) == ([], [])


async def test_a_dead_owner_leaves_also_when_who_tracked_it_gave_up(local: Cluster) -> None:
    a = await alone(local)
    dead = Owner()
    dead.close()
    a.handler.gate.clear()
    a.handler.entered.clear()
    tracked = asyncio.create_task(a.tracker.track(dead, "room", "k", {}))
    await a.handler.entered.wait()
    await cancelled(tracked)
    a.handler.gate.set()
    await local.settled()
    assert a.keys() == []


async def test_an_untrack_that_is_cancelled_leaves_what_nodes_agree_on(cluster: Cluster, owner: Owner) -> None:
    a, b = await cluster.pair()
    rng = random.Random(7)
    for n in range(30):
        calls = [asyncio.create_task(a.tracker.track(owner, "room", n, {})),
                 asyncio.create_task(a.tracker.untrack(owner, "room", n - 1)),
                 asyncio.create_task(a.tracker.untrack(owner, "room"))]  # fmt: skip
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        rng.choice(calls).cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await cluster.ticks(4)
    assert a.tracker.list("room") == b.tracker.list("room")
    owner.close()
    await cluster.ticks(2)
    assert (a.keys(), b.keys()) == ([], [])


async def test_concurrent_calls_for_one_presence_are_made_one_after_another(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    outcomes = await asyncio.gather(
        *(a.tracker.track(owner, "room", "k", {"n": 0}) for _ in range(3)),
        *(a.tracker.update(owner, "room", "k", lambda meta: {"n": meta["n"] + 1}) for _ in range(50)),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes[:3]] == [str, AlreadyTracked, AlreadyTracked]
    assert [meta["n"] for _, meta in a.tracker.list("room")] == [50]


# -- nothing is left


def shape(node: Node) -> dict[str, int]:
    """How large everything is that a shard keeps."""
    protocol = node.shard.protocol
    state, listing = protocol.state, protocol.state._listing
    return {
        "values": sum(map(len, state._values.values())),
        "cloud": len(state._cloud),
        "clock": len(state._clock),
        "delta": len(state._fresh) + len(state._removed),
        "listed": sum(map(len, (listing._newest, listing._older, listing._topics, listing._keys, listing._owners))),
        "peers": len(protocol._peers),
        "gone": len(protocol._gone),
        "owners": len(node.tracker._owners._known) + len(node.tracker._owners._by_id),
        "waiting": len(node.shard._commands) + len(node.shard._messages) + len(node.shard._heard),
    }


async def test_ten_thousand_presences_that_came_and_went_leave_nothing(local: Cluster) -> None:
    a, b = await local.pair()
    bases = shape(a), shape(b)
    a.handler.diffs = b.handler.diffs = Forgetful()
    for n in range(10_000):
        owner = Owner()
        await a.tracker.track(owner, "room", n, {})
        if n % 2:
            await a.tracker.untrack(owner, "room", n)
        owner.close()
        if n % 1000 == 0:
            await local.ticks()
    await local.ticks(10)
    assert (shape(a), shape(b)) == bases
    assert all(generation.size <= 10_000 for generation in a.shard.protocol._generations.kept)


class Forgetful(list[Any]):
    def append(self, _: object) -> None: ...


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """What the block began has ended when it is left."""
    before, others = asyncio.all_tasks(), trackers()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    gc.collect()
    assert [one for one in trackers() if not any(one is other for other in others)] == []


def trackers() -> list[Any]:
    # Not isinstance: that asks objects, of which some answer by failing, as proxies of what is gone do.
    return [one for one in gc.get_objects() if type(one) is Tracker]


async def test_a_tracker_that_was_closed_leaves_no_task_no_mailbox_and_no_watch() -> None:
    owner, mailbox = Owner(), Mailbox[Any]()
    task = asyncio.create_task(forever())
    async with PubSub("p") as pubsub, nothing_left():
        async with Tracker(Bare(), "t", pubsub, pool_size=3, clock=HandMoved()) as tracker:
            for one in owner, mailbox, task:
                await tracker.track(one, "room", "k", {})
        assert (owner._ends, mailbox._ends, pubsub.stats().subscriptions) == ({}, {}, 0)
        del tracker
    task.cancel()


@pytest.mark.parametrize("left", ["task", "tracker"])
def test_the_check_for_what_is_left_notices(left: str) -> None:
    async def leave_something() -> None:
        async with nothing_left():
            kept: Any = asyncio.create_task(forever()) if left == "task" else Tracker(Bare(), "t", PubSub("p"))
        assert kept

    with pytest.raises(AssertionError):
        asyncio.run(leave_something())


async def test_the_comparison_of_sizes_notices_a_presence_that_stays(local: Cluster, owner: Owner) -> None:
    a = await alone(local)
    base = shape(a)
    await a.tracker.track(owner, "room", "k", {})
    await local.ticks()
    assert {name for name, size in shape(a).items() if size != base[name]} == {"values", "listed", "owners"}


async def test_a_handler_that_waits_for_its_own_shard_is_told_so(local: Cluster, owner: Owner) -> None:
    a, _ = await local.pair()
    failures: list[Exception] = []

    async def handle(diff: Any, state: Any) -> Any:
        for wrong in (a.tracker.track(owner, "other", "k", {}), a.tracker.untrack(owner), a.tracker.close()):
            try:
                await wrong
            except ConfigurationError as error:
                failures.append(error)
        return state

    a.handler.handle_diff = handle  # type: ignore[method-assign, assignment]
    await a.tracker.track(owner, "room", "k", {})
    assert [("itself" in str(error)) for error in failures] == [True, True, True]


async def test_a_farewell_that_cannot_be_sent_does_not_hold_up_the_end(
    local: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = await local.pair()
    monkeypatch.setattr("eventstore.tracker.tracker.FAREWELL_WITHIN", 0.01)
    for shard in a.tracker._shards:
        shard.farewell = asyncio.Event().wait  # type: ignore[method-assign, assignment]
    async with asyncio.timeout(WITHIN):
        await a.tracker.graceful_permdown()
    assert a.tracker.closed


async def test_a_callback_that_fails_keeps_no_presence_alive(local: Cluster) -> None:
    a, _ = await local.pair()
    owner = Owner("failing")
    owner.on_close(lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    await a.tracker.track(owner, "room", "k", {})
    owner.close()
    await local.ticks()
    assert a.keys() == []


async def test_a_tracker_whose_pubsub_was_closed_says_so(local: Cluster, owner: Owner) -> None:
    a, _ = await local.pair()
    await a.pubsub.close()
    with pytest.raises(PubSubClosed, match="nobody would hear"):
        await a.tracker.track(owner, "room", "k", {})


async def test_wrong_arguments_are_named(local: Cluster, owner: Owner) -> None:
    a, _ = await local.pair()
    with pytest.raises(ConfigurationError, match="needs its topic"):
        await a.tracker.untrack(owner, key="k")
    for wrong in (a.tracker.update(owner, "room", ["k"], {}), a.tracker.untrack(owner, "room", ["k"])):
        with pytest.raises(ConfigurationError, match="the key of a presence"):
            await wrong
    with pytest.raises(InvalidMessage, match=r"^meta\.a"):
        await a.tracker.track(owner, "room", "k", {"a": {1, 2}})
    for options in ({"broadcast_period": "1"}, {"permdown_period": None}, {"max_delta_sizes": 5}):
        with pytest.raises(ConfigurationError):
            Tracker(Recorder(), "t", a.pubsub, **options)  # type: ignore[arg-type]
    for handler, pubsub in ((Recorder, a.pubsub), (Recorder(), None)):
        with pytest.raises(ConfigurationError):
            Tracker(handler, "t", pubsub)  # type: ignore[arg-type]
