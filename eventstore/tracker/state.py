"""The set of all presences as one replica knows it.

A delta-state observed-remove set without tombstones: "An Optimized Conflict-free Replicated Set" (Bieniusa, Zawirski,
Preguiça, Shapiro, Baquero, Balegas, Duarte 2012), exchanged in deltas (Almeida, Shoker, Baquero 2015). Each presence
carries the dot of its join; the state remembers which dots it has seen, and a dot that was seen and is not among the
values is over for ever. Only the replica that made a presence ends it, and nobody knows more about its dots than it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from eventstore.tracker.clocks import Clock, Replica, Runs, covers, runs_of
from eventstore.tracker.deltas import Delta, Part, Presence, Tag, gone
from eventstore.tracker.listing import Changes, Diff, Listing

__all__ = ["State"]


class State:
    """All presences known to *replica*, which are listed while their replica is up.

    Every change is done when it returns, and returns how it altered what is listed. It costs what it changes, not what
    the state holds. Replicas are unknown until they are up; what is said about unknown ones is ignored.

    Attributes:
        replica: whose state it is.
    """

    __slots__ = ("_base", "_clock", "_cloud", "_fresh", "_listing", "_removed", "_values", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._clock: dict[Replica, int] = {replica: 0}
        # Seen dots beyond the clock; only replicas that have some.
        self._cloud: dict[Replica, Runs] = {}
        self._values: dict[Replica, dict[int, Presence]] = {replica: {}}
        self._listing = Listing()
        # The delta: own joins since the base that still stand, and own dots up to the base that are over since.
        self._base = 0
        self._fresh: dict[int, Presence] = {}
        self._removed: list[int] = []

    # -- asking

    @property
    def clock(self) -> dict[Replica, int]:
        """Up to which dot all was seen, by known replica."""
        return dict(self._clock)

    @property
    def advertised(self) -> dict[Replica, int]:
        """The clock for others: replicas that are down are left out, or there would be requests for them for ever."""
        return {replica: dot for replica, dot in self._clock.items() if replica not in self._listing.down}

    def get(self, owner: Hashable, topic: str, key: Hashable) -> Presence | None:
        """Return the presence that this replica made, if it stands."""
        return self._listing.newest(self.replica, owner, topic, key)

    def own(self) -> tuple[Presence, ...]:
        """Return all presences that this replica made."""
        return tuple(self._values[self.replica].values())

    def get_by_topic(self, topic: str) -> tuple[Presence, ...]:
        """Return what is listed in *topic*, in the order of tags, which is the same everywhere."""
        return self._listing.by_topic(topic)

    def get_by_key(self, topic: str, key: Hashable) -> tuple[Presence, ...]:
        """Return what is listed in *topic* as *key*: at most one for each owner and replica."""
        return self._listing.by_key(topic, key)

    def get_by_owner(self, owner: Hashable) -> tuple[Presence, ...]:
        """Return what is listed of *owner*."""
        return self._listing.by_owner(owner)

    # -- changing what is here

    def join(self, owner: Hashable, topic: str, key: Hashable, meta: Mapping[str, Any]) -> Diff:
        """Add a presence.

        Raises:
            ValueError: this replica has it already.
        """
        if self.get(owner, topic, key) is not None:
            raise ValueError(f"{owner!r} is in {topic!r} as {key!r} already")
        changes = Changes()
        self._enter(owner, topic, key, meta, changes)
        return changes.diff()

    def update(self, owner: Hashable, topic: str, key: Hashable, meta: Mapping[str, Any]) -> Diff:
        """Replace a presence by one with another meta: a leave and a join in one step.

        Raises:
            KeyError: this replica has none.
        """
        old = self.get(owner, topic, key)
        if old is None:
            raise KeyError((owner, topic, key))
        changes = Changes()
        self._exit(old, changes)
        self._enter(owner, topic, key, meta, changes)
        return changes.diff()

    def leave(self, owner: Hashable, topic: str | None = None, key: Hashable = None) -> Diff:
        """End one presence of *owner*, or, without a topic, all; only those that this replica made."""
        if topic is None:
            return self._leave(self.get_by_owner(owner))
        found = self.get(owner, topic, key)
        return self._leave((found,) if found is not None else ())

    def leave_topic(self, owner: Hashable, topic: str) -> Diff:
        """End all presences of *owner* in *topic* that this replica made."""
        return self._leave(one for one in self.get_by_owner(owner) if one.topic == topic)

    def _leave(self, presences: Iterable[Presence]) -> Diff:
        changes = Changes()
        for presence in presences:
            if presence.tag.replica == self.replica:
                self._exit(presence, changes)
        return changes.diff()

    def _enter(self, owner: Hashable, topic: str, key: Hashable, meta: Mapping[str, Any], changes: Changes) -> None:
        dot = self._tick()
        self._fresh[dot] = presence = Presence(topic, owner, key, meta, Tag(self.replica, dot))
        self._add(presence, changes)

    def _exit(self, presence: Presence, changes: Changes) -> None:
        # The leave has a dot of its own, so that a clock tells who missed it.
        self._tick()
        if self._fresh.pop(presence.tag.clock, None) is None:
            self._removed.append(presence.tag.clock)
        self._drop(presence, changes)

    def _tick(self) -> int:
        self._clock[self.replica] += 1
        return self._clock[self.replica]

    # -- the delta

    @property
    def has_delta(self) -> bool:
        """Whether this replica changed anything since `reset_delta`."""
        return self._clock[self.replica] > self._base

    def delta(self) -> Delta:
        """Return what this replica changed since `reset_delta`."""
        if not self.has_delta:
            return Delta()
        since = (self._base + 1, self._clock[self.replica])
        covered = runs_of(((dot, dot) for dot in self._removed), [since])
        return Delta({self.replica: Part(covered, dict(self._fresh))})

    def reset_delta(self) -> None:
        """Start the next delta."""
        self._base = self._clock[self.replica]
        self._fresh, self._removed = {}, []

    # -- others

    def merge(self, delta: Delta) -> Diff:
        """Take in what *delta* says about replicas that are known here, this one excepted."""
        changes = Changes()
        for replica, part in delta.parts.items():
            if self._hears(replica):
                self._merge(replica, part, changes)
        return changes.diff()

    def extract(self, remote: Replica, remote_clock: Clock) -> Delta:
        """Return all that is known here of each replica of which *remote*, by its clock, may have missed something.

        It says nothing about the remote itself, nor about replicas that are not in its clock.
        """
        wanted = (one for one in remote_clock if one != remote and one in self._clock)
        return Delta(
            {
                one: Part(self._seen(one), dict(self._values[one]))
                for one in wanted
                if one in self._cloud or self._clock[one] > remote_clock[one]
            }
        )

    def replica_up(self, replica: Replica) -> Diff:
        """Know *replica* from here on and list its presences."""
        self._clock.setdefault(replica, 0)
        values = self._values.setdefault(replica, {})
        return self._listing.up(replica, values.values()) if replica in self._listing.down else Diff()

    def replica_down(self, replica: Replica) -> Diff:
        """List the presences of *replica* no more, but keep them and what is heard of them."""
        self._check_other(replica)
        if replica not in self._clock or replica in self._listing.down:
            return Diff()
        return self._listing.hide(replica, self._values[replica].values())

    def remove_replica(self, replica: Replica) -> Diff:
        """Forget *replica*; should it be up again, it is as new."""
        diff = self.replica_down(replica)
        self._listing.forget(replica, self._values.pop(replica, {}).values())
        self._clock.pop(replica, None)
        self._cloud.pop(replica, None)
        return diff

    def _check_other(self, replica: Replica) -> None:
        if replica == self.replica:
            raise ValueError("a replica is never down to itself")

    # -- dots and values

    def _hears(self, replica: Replica) -> bool:
        return replica in self._clock and replica != self.replica

    def _merge(self, replica: Replica, part: Part, changes: Changes) -> None:
        values = self._values[replica]
        upto = self._cloud[replica][-1][1] if replica in self._cloud else self._clock[replica]
        new = [presence for dot, presence in part.values.items() if not self._knows(replica, dot)]
        for dot in gone(values, part, upto):
            self._drop(values[dot], changes)
        for presence in new:
            self._add(presence, changes)
        self._learn(replica, part.covered)

    def _knows(self, replica: Replica, dot: int) -> bool:
        return dot <= self._clock[replica] or covers(self._cloud.get(replica, ()), dot, dot)

    def _learn(self, replica: Replica, covered: Runs) -> None:
        """Remember dots as seen; what then follows the clock without a gap is moved into it."""
        clock = self._clock[replica]
        beyond = runs_of(self._cloud.pop(replica, ()), (run for run in covered if run[1] > clock))
        if beyond and beyond[0][0] <= clock + 1:
            self._clock[replica], beyond = beyond[0][1], beyond[1:]
        if beyond:
            self._cloud[replica] = beyond

    def _seen(self, replica: Replica) -> Runs:
        clock = self._clock[replica]
        return (((1, clock),) if clock else ()) + self._cloud.get(replica, ())

    def _add(self, presence: Presence, changes: Changes) -> None:
        self._values[presence.tag.replica][presence.tag.clock] = presence
        self._listing.add(presence, changes)

    def _drop(self, presence: Presence, changes: Changes) -> None:
        del self._values[presence.tag.replica][presence.tag.clock]
        self._listing.drop(presence, changes)
