"""Replicas in virtual time over a network that loses, repeats, delays, reorders and partitions; one seed, one history.

No asyncio: a queue of (time, number, what), and chances from one seeded generator. Every message goes through the codec
of PubSub. After each step the replica concerned is checked (`Faulty`: what is wrong); after the faults have stopped,
all must list the same within `Simulation.within` seconds, and then be quiet.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from eventstore.pubsub.codec import Codec
from eventstore.tracker import protocol
from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Presence, Tag
from eventstore.tracker.listing import Diff
from eventstore.tracker.protocol import Message, Options, Outcome, Protocol

__all__ = ["Faulty", "Simulation", "run"]

OWNERS, TOPICS, KEYS = ("anna", "bert"), ("room", "hall"), ("k", ("l", 1), 2)
CHAOS = 80.0
"""Seconds, and so about as many broadcast periods, in which everything happens."""
LATE = 4.0
"""Most seconds that a message is under way: less than any down_period here, as the memory of who is gone asks."""


class Faulty(AssertionError):
    """The protocol broke a promise."""


@dataclass
class Life:
    """One run of a node: its protocol, what a handler believes, and what it may not see again."""

    protocol: Protocol
    born: int
    told: dict[Tag, Presence] = field(default_factory=dict)
    over: dict[Replica, set[int]] = field(default_factory=dict)
    ended: set[Replica] = field(default_factory=set)

    @property
    def replica(self) -> Replica:
        return self.protocol.replica

    def listed(self) -> dict[Tag, Presence]:
        state = self.protocol.state
        return {one.tag: one for topic in TOPICS for one in state.get_by_topic(topic)}


@dataclass
class Node:
    """A place where one life follows another."""

    name: str
    life: Life | None = None
    paused_until: float = 0.0


class Simulation:
    """A cluster and what happens to it.

    Args:
        kind: the protocol, or one with a bug planted.
        trace: keep a line for everything that happens.
    """

    def __init__(self, seed: int, kind: type[Protocol] = Protocol, *, trace: bool = False) -> None:
        self.chance, self._kind = random.Random(seed), kind
        self.trace: list[str] | None = [] if trace else None
        silent = self.chance.choice([2, 3, 5])
        self.options = Options(
            broadcast_period=1.0,
            max_silent_periods=silent,
            down_period=max(5.0, 2.0 * silent),
            permdown_period=self.chance.choice([15.0, 25.0, 60.0]),
            clock_sample_periods=self.chance.choice([1, 2, 3]),
            max_delta_sizes=self.chance.choice([(100, 1000), (3, 8, 20), (2,)]),
        )
        self.now, self.counts = 0.0, dict.fromkeys(("delivered", "lost", "repeated", "requests", "lives"), 0)
        self.nodes = {name: Node(name) for name in "abcde"[: self.chance.randint(3, 5)]}
        self.made: dict[Tag, Presence] = {}
        self.born: dict[Replica, int] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = self._metas = 0
        self._cut: dict[tuple[str, str], float] = {}
        self._loss, self._faults = self.chance.choice([0.0, 0.1, 0.3]), True
        self._codec = Codec()
        self._most = self.chance.choice([2, 2000])

    @property
    def within(self) -> float:
        """Seconds in which all must list the same once the faults have stopped.

        The last late message arrives; who died is down, and who was taken for dead is listened to again, at its next
        heartbeat; what it has is asked for at the next sample, and comes.
        """
        options = self.options
        return LATE + options.down + options.max_silent_periods + options.clock_sample_periods + 3

    # -- time

    def run(self) -> None:
        """All of it."""
        with patch.object(protocol, "MOST_IN_ONE", self._most):
            self._run()

    def _run(self) -> None:
        for node in self.nodes.values():
            self._start(node)
        self._after(self.chance.random(), self._happen)
        self._until(CHAOS)
        self._calm()
        self._until(self.now + self.within)
        self.check_agreement()
        requests = self.counts["requests"]
        self._until(self.now + 3 * self.options.max_silent_periods)
        self.check_agreement()
        if self.counts["requests"] > requests:
            raise Faulty("something is asked for although nothing is missing")

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._queue, (self.now + seconds, self._numbers, what))

    def _until(self, end: float) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = end

    def _note(self, *what: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:8.3f} {' '.join(map(str, what))}")

    # -- lives

    def _start(self, node: Node) -> None:
        if node.life is not None or not self._faults:
            return
        self.counts["lives"] += 1
        born = self.counts["lives"]
        # Versions in no order, as they are in earnest.
        replica = Replica(node.name, f"{self.chance.getrandbits(32):08x}")
        self.born[replica] = born
        node.life = life = Life(self._kind(replica, self.options), born)
        node.paused_until = 0.0
        self._note("start", *replica)
        self._after(self.chance.random() / 4, lambda: self._tick(node, life))

    def _end(self, node: Node, soon: bool) -> None:
        self._note("end", node.name)
        node.life = None
        self._after(self.chance.uniform(0, 0.5 if soon else 25), lambda: self._start(node))

    def _tick(self, node: Node, life: Life) -> None:
        if node.life is not life:
            return
        self._after(self.options.broadcast_period * self.chance.uniform(0.98, 1.02), lambda: self._tick(node, life))
        if self.now >= node.paused_until:
            self._came(node, life, life.protocol.tick(self.now))

    def _calm(self) -> None:
        self._note("calm")
        for node in self.nodes.values():
            node.paused_until = 0.0
            if self.chance.random() < 0.5:
                self._start(node)
        self._faults, self._cut = False, {}

    # -- what happens

    def _happen(self) -> None:
        if not self._faults:
            return
        self._after(self.chance.expovariate(2.5), self._happen)
        node = self.chance.choice(list(self.nodes.values()))
        if node.life is None or self.now < node.paused_until:
            return
        whats = [self._join, self._leave, self._crash, self._permdown, self._pause, self._partition]
        (what,) = self.chance.choices(whats, [30, 15, 2, 1, 1, 2])
        what(node, node.life)
        if node.life is not None:
            self._check(node.life)

    def _join(self, node: Node, life: Life) -> None:
        """Join, or update what is there."""
        owner, topic, key = self._element()
        self._metas += 1
        meta, old = {"n": self._metas}, life.protocol.state.get(owner, topic, key)
        diff = (life.protocol.state.update if old else life.protocol.state.join)(owner, topic, key, meta)
        self._note("update" if old else "join", node.name, owner, topic, key, meta)
        if len(diff.joins) != 1 or diff.leaves != ((old,) if old else ()):
            raise Faulty(f"an update is one leave and one join, not {diff}")
        self.made[diff.joins[0].tag] = diff.joins[0]
        self._told(life, diff)

    def _leave(self, node: Node, life: Life) -> None:
        """Untrack one presence, or end an owner."""
        owner, topic, key = self._element()
        one = self.chance.random() < 0.7
        self._note("leave", node.name, owner, *((topic, key) if one else ()))
        state = life.protocol.state
        self._told(life, state.leave(owner, topic, key) if one else state.leave(owner))

    def _crash(self, node: Node, _life: Life) -> None:
        self._end(node, self.chance.random() < 0.5)

    def _permdown(self, node: Node, life: Life) -> None:
        self._note("permdown", node.name)
        self._send(node, None, life.protocol.farewell())
        self._end(node, self.chance.random() < 0.7)

    def _pause(self, node: Node, _life: Life) -> None:
        node.paused_until = self.now + self.chance.choice([2, self.options.down, self.options.permdown_period]) * 1.2
        self._note("pause", node.name, node.paused_until)

    def _partition(self, node: Node, _life: Life) -> None:
        """Cut a node off, or only one direction between two."""
        ends = self.now + self.chance.choice([2.0, self.options.down * 1.5, self.options.permdown_period * 1.2])
        others = [other for other in self.nodes if other != node.name]
        pairs = [(node.name, other) for other in others] + [(other, node.name) for other in others]
        if self.chance.random() < 0.5:
            pairs = [self.chance.choice(pairs)]
        self._note("cut", pairs, ends)
        self._cut.update(dict.fromkeys(pairs, ends))

    def _element(self) -> tuple[str, str, Any]:
        return self.chance.choice(OWNERS), self.chance.choice(TOPICS), self.chance.choice(KEYS)

    # -- the network

    def _send(self, node: Node, to: str | None, message: Message) -> None:
        text = self._codec.encode(message)
        self._note("send", node.name, to, text)
        if message[0] == "transfer_req":
            self.counts["requests"] += 1
        for other in self.nodes.values():
            if other is not node and to in (None, other.name):
                self._carry(node, other, text)

    def _carry(self, node: Node, to: Node, text: str) -> None:
        copies, slowest = 1, 0.3
        if self._faults:
            if self.now < self._cut.get((node.name, to.name), 0) or self.chance.random() < self._loss:
                self.counts["lost"] += 1
                return
            copies += self.chance.random() < 0.1
            self.counts["repeated"] += copies - 1
        for _ in range(copies):
            if self._faults and self.chance.random() < 0.2:
                slowest = LATE
            self._after(self.chance.uniform(0.001, slowest), lambda: self._deliver(to, text))

    def _deliver(self, node: Node, text: str) -> None:
        life = node.life
        if life is None or self.now < node.paused_until:
            self.counts["lost"] += 1
            return
        self.counts["delivered"] += 1
        self._note("deliver", node.name, text)
        message = self._codec.decode(text)
        before = life.protocol.state.clock
        outcome = life.protocol.receive(message, self.now)
        sender = Replica(*message[1])
        self._ended(life, sender, message[0], before)
        self._came(node, life, outcome)

    # -- safety

    def _ended(self, life: Life, sender: Replica, kind: str, before: dict[Replica, int]) -> None:
        """Note which lives this replica has seen the end of: by their own word, or by a later life of the same node.

        Not by one that it ignores, because an earlier one came after it: who lives of the two, time will tell.
        """
        if kind == "permdown":
            life.ended.add(sender)
        heard = sender in life.protocol.state.clock
        for replica in before:
            if heard and replica.node == sender.node and self.born[replica] < self.born[sender]:
                life.ended.add(replica)

    def _came(self, node: Node, life: Life, outcome: Outcome) -> None:
        for diff in outcome.diffs:
            self._told(life, diff)
        self._check(life)
        for outgoing in outcome.outgoing:
            self._send(node, outgoing.node, outgoing.message)

    def _told(self, life: Life, diff: Diff) -> None:
        """Believe *diff*, as a handler does."""
        self._note("told", life.replica.node, *diff) if diff.joins or diff.leaves else None
        for one in diff.leaves:
            if life.told.pop(one.tag, None) != one:
                raise Faulty(f"{life.replica} reports a leave of what was not listed: {one}")
        for one in diff.joins:
            if one.tag in life.told:
                raise Faulty(f"{life.replica} reports a join of what was listed: {one}")
            life.told[one.tag] = one
        self._remember(life, diff)

    def _remember(self, life: Life, diff: Diff) -> None:
        """Keep in mind what its origin has ended, as far as it is known here; forgotten origins begin anew."""
        state = life.protocol.state
        for replica in life.over.keys() - state._clock.keys():
            del life.over[replica]
        for one in diff.leaves:
            replica, dot = one.tag
            if replica in state._clock and dot not in state._values[replica]:
                life.over.setdefault(replica, set()).add(dot)

    def _check(self, life: Life) -> None:
        listed = life.listed()
        if listed != life.told:
            raise Faulty(f"{life.replica} lists {listed}, and its diffs add up to {life.told}")
        elements = set()
        for tag, one in listed.items():
            if self.made.get(tag) != one:
                raise Faulty(f"{life.replica} lists what {tag.replica} never made: {one}")
            if (element := (tag.replica, *one[:3])) in elements:
                raise Faulty(f"{life.replica} lists two presences of {element}")
            elements.add(element)
            if tag.replica in life.ended or tag.clock in life.over.get(tag.replica, ()):
                raise Faulty(f"{life.replica} lists again what {tag.replica} has ended: {one}")

    # -- liveness

    def check_agreement(self) -> None:
        """All list what the living hold."""
        lives = [node.life for node in self.nodes.values() if node.life is not None]
        expected = {one.tag: one for life in lives for one in life.protocol.state.own()}
        for life in lives:
            if (listed := life.listed()) != expected:
                missing, surplus = expected.keys() - listed.keys(), listed.keys() - expected.keys()
                raise Faulty(f"{life.replica} still misses {sorted(missing)} and lists {sorted(surplus)} in vain")


def run(seed: int, kind: type[Protocol] = Protocol, *, trace: bool = False) -> Simulation:
    """Play the history of *seed*; the seed is in what is raised."""
    simulation = Simulation(seed, kind, trace=trace)
    try:
        simulation.run()
    except Exception as error:
        raise Faulty(f"seed {seed}, {simulation.now:.3f} s: {error}") from error
    return simulation
