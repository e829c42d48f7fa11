"""What the replicas of one shard say to each other, and when; no tasks, no clock, no transport.

After `Phoenix.Tracker`: each replica broadcasts what it changed with its clock, or, when nothing changed for some
periods, the clock alone. From the clocks of the others it learns what it missed, and asks those that together have it.
Silence for long makes a replica down, for very long forgotten.

Messages are tuples of plain data::

    ("heartbeat", [node, vsn], clock)          nothing changed
    ("delta", [node, vsn], delta, clock)       what its sender changed since the last one
    ("transfer_req", [node, vsn], clock)       to one replica: send what this clock lacks
    ("transfer_ack", [node, vsn], delta, clock)
    ("permdown", [node, vsn])                  the sender ends for good

A clock is ``[[node, vsn, dot], …]``; deltas see `deltas.Wire`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from eventstore.errors import ConfigurationError
from eventstore.tracker.clocks import Clock, Replica, undominated
from eventstore.tracker.deltas import Delta, Generations
from eventstore.tracker.listing import Diff
from eventstore.tracker.state import State

__all__ = ["Message", "Options", "Outcome", "Protocol", "halves", "is_gossip"]

Message: TypeAlias = tuple[Any, ...]

KINDS = {"heartbeat": 3, "delta": 4, "transfer_req": 3, "transfer_ack": 4, "permdown": 2}
"""How many items a message of each kind has."""

MOST_IN_ONE = 2_000
"""Presences of one message; a larger transfer is sent in several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Periods in seconds, and counts of broadcast periods; see `Tracker`."""

    broadcast_period: float = 1.5
    max_silent_periods: int = 10
    down_period: float | None = None
    permdown_period: float = 1200.0
    clock_sample_periods: int = 2
    max_delta_sizes: tuple[int, ...] = (100, 1000, 10_000)

    def __post_init__(self) -> None:
        for name in ("broadcast_period", "down_period", "permdown_period"):
            value = getattr(self, name)
            if type(value) not in (int, float) and not (name == "down_period" and value is None):
                raise ConfigurationError(f"{name} must be a number of seconds, not {value!r}")
        sizes = self.max_delta_sizes
        counts = isinstance(sizes, (list, tuple)) and all(type(size) is int and size > 0 for size in sizes)
        if not counts or not sizes or list(sizes) != sorted(set(sizes)):
            raise ConfigurationError(f"max_delta_sizes must be counts that grow, not {sizes!r}")
        if not 0 < self.broadcast_period < 1e6:
            raise ConfigurationError(f"broadcast_period must be seconds above 0, not {self.broadcast_period!r}")
        for name in ("max_silent_periods", "clock_sample_periods"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be a whole number from 1, not {getattr(self, name)!r}")
        if not self.down >= 2 * self.broadcast_period:
            raise ConfigurationError(
                f"down_period {self.down:g} is shorter than two broadcast periods of {self.broadcast_period:g}: one "
                "late message would take a node for down"
            )
        if not self.permdown_period > self.down:
            raise ConfigurationError(f"permdown_period {self.permdown_period:g} must be longer than down_period")
        object.__setattr__(self, "max_delta_sizes", tuple(sizes))

    @property
    def down(self) -> float:
        """Seconds of silence after which a replica is down; by default those of two heartbeats."""
        if self.down_period is not None:
            return self.down_period
        return self.broadcast_period * self.max_silent_periods * 2


class Outgoing(NamedTuple):
    """A message for one node, or for all others."""

    node: str | None
    message: Message


@dataclass(slots=True)
class Outcome:
    """What came of a tick or of a message: what is to be sent, and how the list changed."""

    outgoing: list[Outgoing] = field(default_factory=list)
    diffs: list[Diff] = field(default_factory=list)

    def changed(self, diff: Diff) -> None:
        """Note *diff*, if it is one."""
        if diff.joins or diff.leaves:
            self.diffs.append(diff)


@dataclass(slots=True)
class _Peer:
    replica: Replica
    heard: float
    up: bool = True


class Protocol:
    """One replica of a shard. Every method is handed the time, in seconds that only go forward.

    Args:
        replica: this one; a node that starts again needs a new vsn.

    Attributes:
        state: what it knows; joins and leaves of its own are made there.
    """

    def __init__(self, replica: Replica, options: Options) -> None:
        self.state = State(replica)
        self._options = options
        self._peers: dict[str, _Peer] = {}
        # Replaced or ended, and until when they are ignored: messages still under way must not bring them back.
        self._gone: dict[Replica, float] = {}
        self._clocks: dict[Replica, Clock] = {}
        self._generations = Generations(options.max_delta_sizes)
        self._silent = options.max_silent_periods
        self._ticks = 0

    @property
    def replica(self) -> Replica:
        """This replica."""
        return self.state.replica

    def speak(self) -> None:
        """Say something at the next tick, changed or not: others may have missed what was said."""
        self._silent = self._options.max_silent_periods

    def tick(self, now: float) -> Outcome:
        """Do what is due every broadcast period."""
        outcome = Outcome()
        self._broadcast(outcome)
        self._ticks += 1
        if self._ticks % self._options.clock_sample_periods == 0:
            self._request(outcome)
        self._detect(now, outcome)
        return outcome

    def farewell(self) -> Message:
        """Return the message that makes the others forget this replica at once."""
        return ("permdown", list(self.replica))

    def receive(self, message: Message, now: float) -> Outcome:
        """Take in what another replica said.

        Raises:
            ValueError: it is none of the messages above.
        """
        kind, sender, *rest = _parsed(message)
        outcome = Outcome()
        if sender == self.replica or sender in self._gone:
            return outcome
        if kind == "permdown":
            self._gone[sender] = now + self._options.permdown_period
            if (peer := self._peers.get(sender.node)) is not None and peer.replica == sender:
                self._forget(peer, outcome)
            return outcome
        self._heard(sender, now, outcome)
        _HANDLE[kind](self, sender, *rest, outcome)
        return outcome

    # -- speaking

    def _broadcast(self, outcome: Outcome) -> None:
        delta, clock = self.state.delta(), _dump(self.state.advertised)
        own = list(self.replica)
        if self.state.has_delta:
            self._generations = self._generations.push(delta)
            self.state.reset_delta()
            parts = delta.split(MOST_IN_ONE)
            outcome.outgoing += [Outgoing(None, ("delta", own, part.to_wire(), clock)) for part in parts]
        elif self._silent >= self._options.max_silent_periods - 1:
            outcome.outgoing.append(Outgoing(None, ("heartbeat", own, clock)))
        else:
            self._silent += 1
            return
        self._silent = 0

    def _request(self, outcome: Outcome) -> None:
        """Ask those whose clocks together have seen everything for what this one has not."""
        mine = self.state.advertised
        clocks = ((peer, clock) for peer, clock in self._clocks.items() if self._is_up(peer))
        for peer, _ in undominated([(self.replica, mine), *clocks]):
            if peer != self.replica:
                request = ("transfer_req", list(self.replica), _dump(mine))
                outcome.outgoing.append(Outgoing(peer.node, request))
        self._clocks = {}

    def _is_up(self, replica: Replica) -> bool:
        peer = self._peers.get(replica.node)
        return peer is not None and peer.replica == replica and peer.up

    # -- listening

    def _heard(self, sender: Replica, now: float, outcome: Outcome) -> None:
        """Note that *sender* lives."""
        peer = self._peers.get(sender.node)
        if peer is not None and peer.replica != sender:
            # Not for longer: had messages overtaken each other, it would be the one that lives.
            self._gone[peer.replica] = now + self._options.down
            self._forget(peer, outcome)
            peer = None
        if peer is None:
            peer = self._peers[sender.node] = _Peer(sender, now, up=False)
        peer.heard = now
        if not peer.up:
            peer.up = True
            outcome.changed(self.state.replica_up(sender))
            # It should not have to wait for what it does not know yet.
            self.speak()

    def _take_clock(self, sender: Replica, clock: dict[Replica, int], _outcome: Outcome) -> None:
        # What it says about replicas that are unknown or down here is nothing to ask for, or there would be no end.
        known = self.state.advertised
        self._clocks[sender] = {replica: dot for replica, dot in clock.items() if replica in known}

    def _take_delta(self, sender: Replica, delta: Delta, clock: dict[Replica, int], outcome: Outcome) -> None:
        outcome.changed(self.state.merge(delta))
        self._generations = self._generations.push(delta.without(self.replica))
        self._take_clock(sender, clock, outcome)

    def _answer(self, sender: Replica, clock: dict[Replica, int], outcome: Outcome) -> None:
        """Send *sender* the smallest generation that brings it here, else all that it may have missed."""
        found = self._generations.covering(sender, clock, self.state.clock)
        delta = found if found is not None else self.state.extract(sender, clock)
        mine = _dump(self.state.advertised)
        for part in delta.split(MOST_IN_ONE):
            answer = ("transfer_ack", list(self.replica), part.to_wire(), mine)
            outcome.outgoing.append(Outgoing(sender.node, answer))

    # -- silence

    def _detect(self, now: float, outcome: Outcome) -> None:
        for peer in tuple(self._peers.values()):
            silence = now - peer.heard
            if silence > self._options.permdown_period:
                # Should it speak again, it is welcome: nothing of it can be under way after that long.
                self._forget(peer, outcome)
            elif silence > self._options.down and peer.up:
                peer.up = False
                outcome.changed(self.state.replica_down(peer.replica))
        for replica, until in tuple(self._gone.items()):
            if now > until:
                del self._gone[replica]

    def _forget(self, peer: _Peer, outcome: Outcome) -> None:
        self._peers.pop(peer.replica.node, None)
        self._clocks.pop(peer.replica, None)
        self._generations = self._generations.without(peer.replica)
        outcome.changed(self.state.remove_replica(peer.replica))


_HANDLE: dict[str, Callable[..., None]] = {
    "heartbeat": Protocol._take_clock,
    "delta": Protocol._take_delta,
    "transfer_req": Protocol._answer,
    "transfer_ack": Protocol._take_delta,
}


def halves(message: Message) -> list[Message]:
    """Return messages that say the same in about half the size each; none if *message* is not to be divided."""
    if message[0] not in ("delta", "transfer_ack"):
        return []
    delta = Delta.from_wire(message[2])
    count = sum(len(part.values) for part in delta.parts.values())
    if count < 2:
        return []
    return [(*message[:2], part.to_wire(), message[3]) for part in delta.split(count // 2)]


def is_gossip(message: object) -> bool:
    """Whether *message* looks like one of this protocol."""
    return isinstance(message, tuple) and bool(message) and isinstance(message[0], str) and message[0] in KINDS


def _parsed(message: Message) -> tuple[Any, ...]:
    if not is_gossip(message) or len(message) != KINDS[message[0]]:
        raise ValueError(f"no message of a tracker: {str(message)[:80]}")
    kind, sender, *rest = message
    if len(rest) == 2:
        return (kind, _replica(sender), Delta.from_wire(rest[0]), _load(rest[1]))
    return (kind, _replica(sender), *map(_load, rest))


def _replica(value: object) -> Replica:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise ValueError("a replica is a node and its vsn")
    return Replica(*value)


def _dump(clock: Clock) -> list[list[Any]]:
    return [[*replica, dot] for replica, dot in sorted(clock.items())]


def _load(clock: object) -> dict[Replica, int]:
    if not isinstance(clock, (list, tuple)):
        raise ValueError("a clock is a list")
    found: dict[Replica, int] = {}
    for one in clock:
        if not isinstance(one, (list, tuple)) or len(one) != 3 or type(one[2]) is not int or one[2] < 0:
            raise ValueError("a clock is a list of [node, vsn, dot]")
        found[_replica(one[:2])] = one[2]
    return found
