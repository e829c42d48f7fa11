"""The pieces of state that replicas exchange, and the recent ones kept to answer who missed some.

A `Delta` says which dots it knows of (`Part.covered`) and which of them are presences (`Part.values`); a dot that is
covered and has no value is over: its presence left, or it marked a leave. So no tombstones are needed, a whole state
is the delta that covers everything since the first dot, and two deltas unite like sets. After "Delta State Replicated
Data Types" (Almeida, Shoker, Baquero 2015). A delta never covers a leave without covering what left.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from eventstore.tracker.clocks import Clock, Replica, Runs, covers, cut, runs_of

__all__ = ["Delta", "Generations", "Part", "Presence", "Tag", "gone"]


class Tag(NamedTuple):
    """What names one presence for ever: the dot of its join. Tags order all lists."""

    replica: Replica
    clock: int


class Presence(NamedTuple):
    """*owner* is in *topic* as *key*; the owner is an id that every node understands."""

    topic: str
    owner: Hashable
    key: Hashable
    meta: Mapping[str, Any]
    tag: Tag


class Part(NamedTuple):
    """What a delta says about one replica; the dots of *values* are covered, too."""

    covered: Runs
    values: Mapping[int, Presence]


Wire: TypeAlias = list[Any]
"""A delta as plain data: ``[[node, vsn, [[first, last], …], [[clock, topic, owner, key, meta], …]], …]``."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of state; its mappings are never changed."""

    parts: Mapping[Replica, Part] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many presences and runs it holds, which is what it costs to send."""
        return sum(len(part.values) + len(part.covered) for part in self.parts.values())

    def union(self, other: Delta) -> Delta:
        """Return the delta that says what both say."""
        united = dict(self.parts)
        for replica, part in other.parts.items():
            united[replica] = _unite(united[replica], part) if replica in united else part
        return Delta(united)

    def without(self, replica: Replica) -> Delta:
        """Return what it says about all other replicas."""
        return Delta({one: part for one, part in self.parts.items() if one != replica})

    def split(self, limit: int) -> list[Delta]:
        """Return deltas of at most *limit* presences each that say the same; any of them may be late or lost.

        A piece covers its presences only, and the last of a replica all the rest, what left included: whoever misses
        one has a gap in its clock, and so will ask.
        """
        if self.size <= limit:
            return [self]
        return [Delta({one: piece}) for one, part in self.parts.items() for piece in _split(part, limit)]

    def to_wire(self) -> Wire:
        """Return it as plain data; equal deltas give equal data."""
        return [
            [*replica, [list(run) for run in part.covered], [_dump(part.values[dot]) for dot in sorted(part.values)]]
            for replica, part in sorted(self.parts.items())
        ]

    @classmethod
    def from_wire(cls, wire: object) -> Delta:
        """Return the delta that *wire* describes; a list inside an owner or a key is taken for the tuple it was.

        Raises:
            ValueError: it describes none.
        """
        parts: dict[Replica, Part] = {}
        for one in _sequence(wire, None):
            node, vsn, covered, values = _sequence(one, 4)
            replica = Replica(_text(node), _text(vsn))
            if replica in parts:
                raise ValueError(f"a delta has one part for each replica, this two for {replica}")
            parts[replica] = _load(replica, covered, values)
        return cls(parts)


def gone(values: Mapping[int, Presence], part: Part, upto: int) -> list[int]:
    """Return the dots of *values*, all of them up to *upto*, that *part* knows to be over.

    Looks at the dots of the smaller one, so that a small delta costs the same for any state.
    """
    runs = [(first, min(last, upto)) for first, last in part.covered if first <= upto]
    if sum(last - first + 1 for first, last in runs) < len(values):
        dots = (dot for first, last in runs for dot in range(first, last + 1) if dot in values)
        return [dot for dot in dots if dot not in part.values]
    return sorted(dot for dot in values.keys() - part.values.keys() if covers(part.covered, dot, dot))


def _unite(one: Part, other: Part) -> Part:
    values = dict(one.values)
    for dot in gone(values, other, one.covered[-1][1]):
        del values[dot]
    for dot, presence in other.values.items():
        if dot not in values and not covers(one.covered, dot, dot):
            values[dot] = presence
    return Part(runs_of(one.covered, other.covered), values)


def _split(part: Part, limit: int) -> list[Part]:
    dots = sorted(part.values)
    # Of no presences there is one piece, too.
    starts = range(0, max(len(dots), 1), limit)
    pieces = [{dot: part.values[dot] for dot in dots[start : start + limit]} for start in starts]
    covered = [runs_of((dot, dot) for dot in piece) for piece in pieces[:-1]]
    return [Part(*one) for one in zip([*covered, cut(part.covered, dots[: starts[-1]])], pieces, strict=True)]


@dataclass(frozen=True, slots=True)
class Generations:
    """What was seen lately, from a little to a lot: the first holds the latest deltas, each next one more of the past.

    Args:
        limits: the largest size of each, growing.
    """

    limits: tuple[int, ...]
    kept: tuple[Delta, ...] = ()

    def push(self, delta: Delta) -> Generations:
        """Return the generations with *delta* in each that can hold it.

        One that grows too large starts again from the next smaller one. A delta too large for a generation is left
        out of it, so that one whole state does not drive out what was kept.
        """
        grown, smaller = [], delta
        for limit, generation in zip(self.limits, self.kept or (Delta(),) * len(self.limits), strict=True):
            if delta.size <= limit:
                united = generation.union(delta)
                smaller = united if united.size <= limit else smaller
                grown.append(smaller)
            else:
                grown.append(generation)
        return Generations(self.limits, tuple(grown))

    def covering(self, remote: Replica, remote_clock: Clock, clock: Clock) -> Delta | None:
        """Return what takes *remote* from its clock to *clock*, from the smallest generation that holds all of it.

        None if no generation reaches back far enough. What concerns the remote itself, or replicas that are not in its
        clock, is not for it.
        """
        behind = {one: dot for one, dot in remote_clock.items() if one != remote and dot < clock.get(one, 0)}
        for generation in self.kept:
            parts = {one: generation.parts[one] for one in behind if one in generation.parts}
            if len(parts) == len(behind) and all(
                covers(part.covered, behind[one] + 1, clock[one]) for one, part in parts.items()
            ):
                return Delta(parts)
        return None

    def without(self, replica: Replica) -> Generations:
        """Return the generations without a replica that is gone for good."""
        return Generations(self.limits, tuple(generation.without(replica) for generation in self.kept))


def _dump(presence: Presence) -> Wire:
    return [presence.tag.clock, presence.topic, presence.owner, presence.key, dict(presence.meta)]


def _load(replica: Replica, covered: object, values: object) -> Part:
    runs: list[tuple[int, int]] = []
    for run in _sequence(covered, None):
        first, last = (_dot(dot) for dot in _sequence(run, 2))
        if first > last or (runs and first <= runs[-1][1] + 1):
            raise ValueError(f"runs of dots ascend and do not touch, these do: {run!r}")
        runs.append((first, last))
    if not runs:
        raise ValueError("a part of a delta covers at least one dot")
    seen, part = tuple(runs), dict[int, Presence]()
    for value in _sequence(values, None):
        dot, topic, owner, key, meta = _sequence(value, 5)
        if not covers(seen, _dot(dot), dot) or dot in part:
            raise ValueError(f"each presence has a covered dot of its own, unlike {dot}")
        part[dot] = Presence(_text(topic), _hashable(owner), _hashable(key), _meta(meta), Tag(replica, dot))
    return Part(seen, part)


def _sequence(value: object, length: int | None) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
        raise ValueError(f"expected a list of {length or 'any number of'} items, not {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, not {type(value).__name__}")
    return value


def _dot(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a dot is an integer from 1 on, not {type(value).__name__}")
    return value


def _meta(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError("a meta is a dict with string keys")
    return dict(value)


def _hashable(value: object, level: int = 0) -> Hashable:
    # Refused long before the stack is full, because that could not be refused by name.
    if isinstance(value, (list, tuple)) and level < 32:
        return tuple(_hashable(part, level + 1) for part in value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"an owner and a key are strings, numbers, or tuples of them, not {type(value).__name__}")
