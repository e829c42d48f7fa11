"""Append conditions: the dynamic consistency boundary of dcb.events, written as a selector.

A condition is brought into a list of items, of which an event has to match one to break it. An item asks for types (one
of them), tags (all of them) and a stream; what it leaves out may be anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from eventstore.errors import InvalidSelector
from eventstore.selectors import All, And, EventType, Or, Selector, Stream, Tags, check_selector

__all__ = ["AppendCondition"]

MAX_ITEMS = 100


@dataclass(frozen=True, slots=True)
class _Item:
    types: frozenset[str] | None = None
    tags: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()

    def __and__(self, other: _Item) -> _Item:
        both = self.types is not None and other.types is not None
        types = self.types & other.types if both else self.types if other.types is None else other.types  # type: ignore[operator]
        return _Item(types, self.tags | other.tags, self.streams | other.streams)

    @property
    def possible(self) -> bool:
        """No event has a type out of none, or is in two streams."""
        return self.types != frozenset() and len(self.streams) <= 1

    def plain(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"stream": next(iter(self.streams), None)}
        parts["types"], parts["tags"] = sorted(self.types or ()), sorted(self.tags)
        return {name: part for name, part in parts.items() if part}


@dataclass(frozen=True, slots=True)
class AppendCondition:
    """Append only if no event after *after* matches *selector*.

    Attributes:
        selector: of `EventType`, `Tags`, `Stream` and `All`, combined with ``&`` and ``|``.
        after: position up to which the decision knows every matching event: a reading's `horizon`. (The position of an
            append's result will not do: others may have appended below it.)

    Raises:
        InvalidSelector: the selector holds another kind, or comes to more than 100 alternatives.
    """

    selector: Selector
    after: int = 0
    encoded: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.after) is not int or not 0 <= self.after < 1 << 63:
            raise InvalidSelector(f"after must be a position from 0 to 2^63 - 1, not {self.after!r}")
        items = [item.plain() for item in _items(check_selector(self.selector))]
        # Without items it is contradictory, and no event can break it.
        encoded = json.dumps({"items": items, "after": self.after}, ensure_ascii=False) if items else None
        object.__setattr__(self, "encoded", encoded)


def _items(selector: Selector) -> list[_Item]:
    """Return the disjunctive normal form of *selector*."""
    match selector:
        case All():
            return [_Item()]
        case Stream(stream=stream):
            return [_Item(streams=frozenset([stream]))]
        case EventType(types=types):
            return [_Item(types=frozenset(types))]
        case Tags(tags=tags, match="all"):
            return [_Item(tags=frozenset(tags))]
        case Tags(tags=tags):
            return _bounded(_Item(tags=frozenset([tag])) for tag in tags)
        case Or(of=parts):
            return _bounded(item for part in parts for item in _items(part))
        case And(of=parts):
            return _bounded(_joined(items) for items in product(*map(_items, parts)))
    raise InvalidSelector(
        f"an append condition is made of EventType, Tags, Stream, All, & and |, not of {type(selector).__name__}: "
        "it needs an index to be judged by"
    )


def _joined(items: Iterable[_Item]) -> _Item:
    joined = _Item()
    for item in items:
        joined &= item
    return joined


def _bounded(items: Iterable[_Item]) -> list[_Item]:
    kept: dict[_Item, None] = {}
    for seen, item in enumerate(items):
        if item.possible:
            kept[item] = None
        if len(kept) > MAX_ITEMS or seen > MAX_ITEMS * 100:
            raise InvalidSelector(f"an append condition has at most {MAX_ITEMS} alternatives")
    return list(kept)
