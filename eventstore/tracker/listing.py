"""Which of the known presences are listed, found by what one asks for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Presence, Tag

__all__ = ["Changes", "Diff", "Listing"]

Element: TypeAlias = tuple[Replica, Hashable, str, Hashable]
Index: TypeAlias = dict[Any, dict[Tag, Presence]]


class Diff(NamedTuple):
    """How a change altered what is listed; both in the order of tags."""

    joins: tuple[Presence, ...] = ()
    leaves: tuple[Presence, ...] = ()


class Changes:
    """Joins and leaves while a change is made; what came and went within it is neither."""

    __slots__ = ("_joins", "_leaves")

    def __init__(self) -> None:
        self._joins: dict[Tag, Presence] = {}
        self._leaves: dict[Tag, Presence] = {}

    def join(self, presence: Presence) -> None:
        """Note that *presence* is listed now."""
        if self._leaves.pop(presence.tag, None) is None:
            self._joins[presence.tag] = presence

    def leave(self, presence: Presence) -> None:
        """Note that *presence* is not listed any more."""
        if self._joins.pop(presence.tag, None) is None:
            self._leaves[presence.tag] = presence

    def diff(self) -> Diff:
        """Return what the change did."""
        return Diff(_in_order(self._joins), _in_order(self._leaves))


class Listing:
    """Presences of replicas that are up, the newest of each element.

    An element is (replica, owner, topic, key). It has one presence at a time, but here two can be known if a message
    was lost between; the older one waits, because the newer may be known to be over first.

    Attributes:
        down: replicas whose presences are not listed.
    """

    __slots__ = ("_keys", "_newest", "_older", "_owners", "_topics", "down")

    def __init__(self) -> None:
        self.down: set[Replica] = set()
        self._newest: dict[Element, Presence] = {}
        self._older: dict[Element, dict[int, Presence]] = {}
        self._topics: Index = {}
        self._keys: Index = {}
        self._owners: Index = {}

    def newest(self, replica: Replica, owner: Hashable, topic: str, key: Hashable) -> Presence | None:
        """Return the presence of an element, whether its replica is up or not."""
        return self._newest.get((replica, owner, topic, key))

    def by_topic(self, topic: str) -> tuple[Presence, ...]:
        """Return what is listed in *topic*."""
        return _in_order(self._topics.get(topic, {}))

    def by_key(self, topic: str, key: Hashable) -> tuple[Presence, ...]:
        """Return what is listed in *topic* as *key*."""
        return _in_order(self._keys.get((topic, key), {}))

    def by_owner(self, owner: Hashable) -> tuple[Presence, ...]:
        """Return what is listed of *owner*."""
        return _in_order(self._owners.get(owner, {}))

    def add(self, presence: Presence, changes: Changes) -> None:
        """Take in a presence."""
        element = _element(presence)
        newest = self._newest.get(element)
        if newest is not None:
            older = min(newest, presence, key=_tag)
            self._older.setdefault(element, {})[older.tag.clock] = older
            if older is presence:
                return
            self._hide(newest, changes)
        self._newest[element] = presence
        self._show(presence, changes)

    def drop(self, presence: Presence, changes: Changes) -> None:
        """Forget a presence that was taken in."""
        element = _element(presence)
        older = self._older.get(element, {})
        if older.pop(presence.tag.clock, None) is None:
            self._hide(presence, changes)
            del self._newest[element]
            if older:
                self._newest[element] = heir = older.pop(max(older))
                self._show(heir, changes)
        if element in self._older and not older:
            del self._older[element]

    def up(self, replica: Replica, presences: Iterable[Presence]) -> Diff:
        """List *presences*, which are all of *replica*, from here on."""
        changes = Changes()
        self.down.discard(replica)
        for presence in presences:
            if self._newest[_element(presence)] is presence:
                self._show(presence, changes)
        return changes.diff()

    def hide(self, replica: Replica, presences: Iterable[Presence]) -> Diff:
        """List *presences*, which are all of *replica*, no more."""
        changes = Changes()
        for presence in presences:
            if self._newest[_element(presence)] is presence:
                self._hide(presence, changes)
        self.down.add(replica)
        return changes.diff()

    def forget(self, replica: Replica, presences: Iterable[Presence]) -> None:
        """Forget *presences*, which are all of *replica* and are hidden."""
        for element in map(_element, presences):
            self._newest.pop(element, None)
            self._older.pop(element, None)
        self.down.discard(replica)

    def _show(self, presence: Presence, changes: Changes) -> None:
        topic, owner, key, _, tag = presence
        if tag.replica not in self.down:
            for index, at in ((self._topics, topic), (self._keys, (topic, key)), (self._owners, owner)):
                index.setdefault(at, {})[tag] = presence
            changes.join(presence)

    def _hide(self, presence: Presence, changes: Changes) -> None:
        topic, owner, key, _, tag = presence
        if tag.replica not in self.down:
            for index, at in ((self._topics, topic), (self._keys, (topic, key)), (self._owners, owner)):
                del index[at][tag]
                if not index[at]:
                    del index[at]
            changes.leave(presence)


def _tag(presence: Presence) -> Tag:
    return presence.tag


def _element(presence: Presence) -> Element:
    return presence.tag.replica, presence.owner, presence.topic, presence.key


def _in_order(held: Mapping[Tag, Presence]) -> tuple[Presence, ...]:
    return tuple([held[tag] for tag in sorted(held)] if len(held) > 1 else held.values())
