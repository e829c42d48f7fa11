"""The tracker's set built in the plainest way, with tombstones, and both run side by side."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Delta, Presence, Tag
from eventstore.tracker.listing import Diff
from eventstore.tracker.state import State

Known = dict[Replica, tuple[dict[Tag, Presence], set[Tag]]]
"""All joins and all leaves ever, by replica."""

OWNERS: tuple[Hashable, ...] = ("anna", ("bert", 1))
TOPICS = ("room", "hall")
KEYS: tuple[Hashable, ...] = ("k", 1)
NOBODY = Replica("nobody", "")


class Reference:
    """Remembers everything for ever, and looks at all of it for each answer."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.clock = replica, 0
        self.known: Known = {replica: ({}, set())}
        self.down: set[Replica] = set()
        self.sent: tuple[set[Tag], set[Tag]] = (set(), set())

    def own(self, owner: Hashable, topic: str | None = None, key: Hashable = None) -> list[Presence]:
        joined, left = self.known[self.replica]
        standing = [one for tag, one in joined.items() if tag not in left and one.owner == owner]
        return [one for one in standing if topic is None or (one.topic, one.key) == (topic, key)]

    def join(self, owner: Hashable, topic: str, key: Hashable, meta: dict[str, Any]) -> None:
        self.clock += 1
        tag = Tag(self.replica, self.clock)
        self.known[self.replica][0][tag] = Presence(topic, owner, key, meta, tag)

    def leave(self, owner: Hashable, topic: str | None = None, key: Hashable = None) -> None:
        for one in self.own(owner, topic, key):
            self.clock += 1
            self.known[self.replica][1].add(one.tag)

    def news(self) -> Known:
        """What changed here since the last time."""
        joined, left = self.known[self.replica]
        news = {tag: one for tag, one in joined.items() if tag not in self.sent[0]}, left - self.sent[1]
        self.sent = set(joined), set(left)
        return {self.replica: news}

    def everything(self) -> Known:
        return {replica: (dict(joined), set(left)) for replica, (joined, left) in self.known.items()}

    def merge(self, known: Known) -> None:
        for replica in (known.keys() & self.known.keys()) - {self.replica}:
            self.known[replica][0].update(known[replica][0])
            self.known[replica][1].update(known[replica][1])

    def up(self, replica: Replica) -> None:
        self.known.setdefault(replica, ({}, set()))
        self.down.discard(replica)

    def remove(self, replica: Replica) -> None:
        self.known.pop(replica, None)
        self.down.discard(replica)

    def listed(self) -> dict[Tag, Presence]:
        newest: dict[Any, Presence] = {}
        for replica in self.known.keys() - self.down:
            joined, left = self.known[replica]
            for tag in sorted(joined.keys() - left):
                one = joined[tag]
                newest[replica, one.owner, one.topic, one.key] = one
        return {one.tag: one for one in newest.values()}


class Node:
    """A state, its reference, and what a handler of diffs believes."""

    def __init__(self, replica: Replica, kind: type[State]) -> None:
        self.replica = replica
        self.state, self.reference = kind(replica), Reference(replica)
        self.told: dict[Tag, Presence] = {}

    def hear(self, diff: Diff) -> None:
        for one in diff.leaves:
            assert self.told.pop(one.tag) == one, "a leave of what was not listed"
        for one in diff.joins:
            assert one.tag not in self.told, "a join of what was listed"
            self.told[one.tag] = one

    def check(self) -> None:
        expected = self.reference.listed()
        assert listed(self.state) == sorted(expected.values(), key=lambda one: one.tag)
        assert self.told == expected
        for owner in OWNERS:
            assert {one.tag for one in self.state.get_by_owner(owner)} == {
                tag for tag, one in expected.items() if one.owner == owner
            }
        for topic, key in ((topic, key) for topic in TOPICS for key in KEYS):
            assert {one.tag for one in self.state.get_by_key(topic, key)} == {
                tag for tag, one in expected.items() if (one.topic, one.key) == (topic, key)
            }


class Cluster:
    """Nodes that know each other, and every message ever sent between them, which arrives when one says so."""

    def __init__(self, count: int, kind: type[State] = State) -> None:
        self.replicas = [Replica(name, "1") for name in "abcde"[:count]]
        self.nodes = [Node(replica, kind) for replica in self.replicas]
        self.messages: list[tuple[Delta, Known]] = []
        self.metas = 0
        for node in self.nodes:
            for replica in self.replicas:
                self.up(node, replica)

    def join(self, node: Node, owner: Hashable, topic: str, key: Hashable) -> None:
        """Join, or update what is there."""
        self.metas += 1
        meta, there = {"n": self.metas}, node.state.get(owner, topic, key) is not None
        node.hear((node.state.update if there else node.state.join)(owner, topic, key, meta))
        node.reference.leave(owner, topic, key)
        node.reference.join(owner, topic, key, meta)

    def leave(self, node: Node, owner: Hashable, topic: str | None = None, key: Hashable = None) -> None:
        node.hear(node.state.leave(owner, topic, key))
        node.reference.leave(owner, topic, key)

    def send(self, node: Node) -> None:
        self.messages.append((node.state.delta(), node.reference.news()))
        node.state.reset_delta()

    def send_all(self, node: Node) -> None:
        self.messages.append((whole(node.state), node.reference.everything()))

    def deliver(self, node: Node, age: int) -> None:
        if self.messages:
            delta, known = self.messages[-1 - age % len(self.messages)]
            node.hear(node.state.merge(Delta.from_wire(json.loads(json.dumps(delta.to_wire())))))
            node.reference.merge(known)

    def transfer(self, source: Node, to: Node) -> None:
        node_clock = to.state.clock
        to.hear(to.state.merge(source.state.extract(to.replica, node_clock)))
        to.reference.merge(source.reference.everything())

    def up(self, node: Node, replica: Replica) -> None:
        node.hear(node.state.replica_up(replica))
        node.reference.up(replica)

    def down(self, node: Node, replica: Replica) -> None:
        if node.replica != replica and replica in node.reference.known:
            node.hear(node.state.replica_down(replica))
            node.reference.down.add(replica)

    def remove(self, node: Node, replica: Replica) -> None:
        if node.replica != replica:
            node.hear(node.state.remove_replica(replica))
            node.reference.remove(replica)

    def settle(self) -> None:
        """Let everybody be up and get everything of everybody."""
        for to in self.nodes:
            for source in self.nodes:
                self.up(to, source.replica)
                self.transfer(source, to)

    def check(self) -> None:
        for node in self.nodes:
            node.check()


def listed(state: State) -> list[Presence]:
    """All that *state* lists, in the order of tags."""
    return sorted((one for topic in TOPICS for one in state.get_by_topic(topic)), key=lambda one: one.tag)


def whole(state: State) -> Delta:
    """All that *state* knows."""
    return state.extract(NOBODY, dict.fromkeys(state.clock, 0))
