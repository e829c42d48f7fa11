"""The router: who wants an event, found by looking at the event instead of asking everybody.

Content-based matching by access predicates (Fabret and others, "Filtering Algorithms and Implementation for Very Fast
Publish/Subscribe Systems", SIGMOD 2001): a selector is filed under keys such that every event it selects has one of
them. An event looks up its own keys and asks what it finds there the rest, the *residual* predicate. A key may promise
too much, never too little; what it cannot decide alone is asked of ``selector.matches``.

- A disjunction is filed under the keys of each branch, a conjunction under those of its cheapest part only.
- A pattern is a conjunction of its leaves. An equality is a key, and so is that a value must be there at all.
- What has no key (`All`, a key that must be absent) is asked about every event.

All indexes are one tree of dicts, in which a key is the path to its bucket::

    scan                                   bucket
    tag     "customer:7"                   bucket
    prefix  6  "order-"                    bucket     (by length: one slice and one look-up per length in use)
    field   "type"  =  "OrderPlaced"       bucket
    field   "data"  "customer"  "tier"  =  "VIP"  bucket

Below ``field`` the tree has the shape of the events, so both are walked together, and at each step only the keys that
both have: neither large data nor many indexed paths alone make an event expensive.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from eventstore.events import Event
from eventstore.patterns import _decimal
from eventstore.selectors import All, And, EventPattern, EventPayload, EventType, Or, Selector, Stream, Tags

__all__ = ["Indexed", "Router"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Hashable)
Matcher: TypeAlias = Callable[[Event], bool]
Key: TypeAlias = tuple[Any, ...]
Plan: TypeAlias = dict[Key, Matcher | None]
"""The keys that a selector is filed under, each with the residual predicate; an event without any is not selected."""

_SCAN: Final[Key] = ("scan",)
_SELECTED: Final[Plan] = {_SCAN: None}
"""The plan of what selects every event."""

_VALUES: Final = object()
"""The step from a path to its values; no string, so that no key of an event is taken for it."""

_PRESENT: Final = object()
"""The token of whatever is there."""

_PLAIN_FIELDS: Final = frozenset({"type", "stream", "version", "position", "data", "metadata"})
"""Fields that a pattern sees as an event holds them; the others are written as text first, and seldom selected by."""


class Indexed(NamedTuple):
    """One key that a selector is filed under, and whether an event that has it is asked for more."""

    key: str
    residual: bool


class Router(Generic[T]):
    """Finds the targets whose selector, and whose share of the partitions, an event belongs to.

    *on_failure* is told of a target whose residual predicate raised, with the event and the error; the target does not
    get the event, the others do. It must not raise, and may add and remove targets. By default failures are logged.
    """

    def __init__(self, on_failure: Callable[[T, Event, Exception], None] | None = None) -> None:
        self._on_failure = on_failure or _log_failure
        self._index: dict[Any, Any] = {}
        self._filed: dict[T, tuple[int, tuple[Key, ...]]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._filed)

    def __contains__(self, target: object) -> bool:
        return target in self._filed

    def targets(self) -> list[T]:
        """Return all targets."""
        return list(self._filed)

    def add(self, target: T, selector: Selector, share: tuple[int, int] | None = None) -> None:
        """Route to *target* what *selector* selects; *share* keeps events with ``bucket % share[0] == share[1]``.

        Raises:
            ValueError: *target* is there already, or *share* is no share.
        """
        if target in self._filed:
            raise ValueError(f"{target!r} is routed to already; remove it first")
        if share is not None and not 0 <= share[1] < share[0]:
            raise ValueError(f"a share is (modulus, remainder) with 0 <= remainder < modulus, not {share}")
        plan = _plan(selector, self._cheapest)
        number = next(self._numbers)
        for key, residual in plan.items():
            node = self._index
            for step in key:
                node = node.setdefault(step, {})
            node[number] = (target, share, residual)
        self._filed[target] = (number, tuple(plan))

    def remove(self, target: T) -> None:
        """Route nothing to *target* any more; removing what is not there is fine."""
        number, keys = self._filed.pop(target, (0, ()))
        for key in keys:
            nodes = [self._index]
            for step in key:
                nodes.append(nodes[-1][step])
            del nodes.pop()[number]
            for node, step in zip(reversed(nodes), reversed(key), strict=True):
                if node[step]:
                    break
                del node[step]

    def route(self, event: Event) -> list[T]:
        """Return the targets that want *event*, each once, in the order in which they were added; never raises."""
        place = event.bucket
        found: dict[int, T] = {}
        failed: dict[int, tuple[T, Exception]] = {}
        for bucket in self._buckets(event):
            for number, (target, share, residual) in bucket.items():
                if number in found or (share is not None and place % share[0] != share[1]):
                    continue
                try:
                    if residual is None or residual(event):
                        found[number] = target
                except Exception as error:  # noqa: BLE001 - one selector's fault is not its neighbours'
                    failed[number] = (target, error)
        for number, (target, reason) in failed.items():
            if number not in found:
                self._on_failure(target, event, reason)
        return [found[number] for number in sorted(found)]

    def explain(self, selector: Selector) -> list[Indexed]:
        """Tell under which keys *selector* would be filed if it were added now; none if it can select nothing."""
        return [Indexed(_text(key), residual is not None) for key, residual in _plan(selector, self._cheapest).items()]

    def _buckets(self, event: Event) -> list[dict[int, Any]]:
        index = self._index
        buckets = [index["scan"]] if "scan" in index else []
        if tags := index.get("tag"):
            buckets += [tags[tag] for tag in event.tags if tag in tags]
        if (stream := event.stream) is not None and (lengths := index.get("prefix")):
            buckets += [some[stream[:length]] for length, some in lengths.items() if stream[:length] in some]
        for name, node in index.get("field", {}).items():
            _look_up(node, getattr(event, name), buckets)
        return buckets

    def _cheapest(self, plans: Iterable[Plan]) -> Plan:
        # By what is filed, not by events seen: no bucket grows while another part of the conjunction is as selective.
        return min(plans, key=lambda plan: sum(_weight(key) * (1 + self._population(key)) for key in plan))

    def _population(self, key: Key) -> int:
        node = self._index
        for step in key:
            node = node.get(step, {})
        return len(node)


def _log_failure(target: Hashable, event: Event, error: Exception) -> None:
    log.error("%r: the selector failed on the event at %s", target, event.position, exc_info=error)


def _look_up(node: dict[Any, Any], value: Any, buckets: list[dict[int, Any]]) -> None:
    """Add what is filed under *value*, and under any part of it, at or below *node*."""
    values = node.get(_VALUES)
    if values is not None:
        if (token := _token(value)) in values:
            buckets.append(values[token])
        if _PRESENT in values:
            buckets.append(values[_PRESENT])
    if type(value) is dict and (values is None or len(node) > 1):
        for key in node.keys() & value.keys():  # costs as much as the smaller of both
            _look_up(node[key], value[key], buckets)


# -- keys


def _token(value: Any) -> Any:
    """Return what is equal for equal JSON values, and for unequal ones only if they are lists or objects.

    It takes no longer for a large value than for a small one; that true is not 1 and 1.0 is follows `patterns`.
    """
    kind = type(value)
    if kind is str or value is None:
        return value
    if kind is int or kind is float:
        return _decimal(value) if value == value else _PRESENT  # NaN equals nothing, itself included
    if kind is bool:
        return bool, value
    if kind is list:
        first = value[0] if value else None
        return list, len(value), type(first) if type(first) in (list, dict) else _token(first)
    if kind is dict:
        return dict, len(value)
    return str(value) if isinstance(value, str) else _PRESENT


def _decides(value: Any) -> bool:
    """Tell whether the token of *value* is that of no other value."""
    return type(value) not in (list, dict) or not value


def _weight(key: Key) -> float:
    """Guess how many more events have *key* than have one that names a single thing."""
    kind, last = key[0], key[-1]
    if kind == "scan":
        return float("inf")
    if kind == "prefix":
        return 2 if last else 32  # without any letters: whatever has a stream
    if last is _PRESENT:
        return 16
    if last is None or type(last) is tuple:
        return 8  # few values: null, true and false, shapes of lists and objects
    return 4 if key[1] == "type" and kind == "field" else 1


def _text(key: Key) -> str:
    kind, last = key[0], key[-1]
    if kind == "scan":
        return "any event"
    if kind != "field":
        return f"{'tag =' if kind == 'tag' else 'stream starts with'} {json.dumps(last, ensure_ascii=False)}"
    path = ".".join(key[1:-2])
    if last is _PRESENT:
        return f"{path} is present"
    shape, value, *_ = last if type(last) is tuple else (None, last)
    if shape in (list, dict):
        return f"{path} is {'a list' if shape is list else 'an object'} of {value}"
    return f"{path} = {json.dumps(value, ensure_ascii=False)}"


# -- plans

_Choice: TypeAlias = Callable[[Iterable[Plan]], Plan]


def _plan(selector: Selector, cheapest: _Choice) -> Plan:
    """Return a plan that finds *selector* for every event that it matches."""
    matches = selector.matches
    match selector:
        case All():
            return _SELECTED
        case Stream():
            return _equals(("field", "stream"), selector.stream, matches)
        case EventType():
            return {("field", "type", _VALUES, one): None for one in selector.types}
        case Tags(match="any"):
            return {("tag", tag): None for tag in selector.tags}
        case Tags():
            return _all_of([{("tag", tag): None} for tag in selector.tags], matches, cheapest)
        case EventPattern(glob=str(glob)):
            return _glob(glob, matches)
        case EventPattern():
            fields = (selector.pattern or {}).items()
            return _all_of([part for name, one in fields for part in _field(name, one, matches)], matches, cheapest)
        case EventPayload():
            return _all_of(_parts(selector.pattern, ("field", "data"), matches), matches, cheapest)
        case And():
            return _all_of([_plan(one, cheapest) for one in selector.of], matches, cheapest)
        case Or():
            return _any_of([_plan(one, cheapest) for one in selector.of], matches)


def _all_of(parts: list[Plan], matches: Matcher, cheapest: _Choice) -> Plan:
    """Return the plan of a conjunction: its cheapest part finds it, the whole is asked if there are other parts."""
    several = [part for part in parts if part != _SELECTED]
    if len(several) < 2:
        return several[0] if several else _SELECTED
    return dict.fromkeys(cheapest(several), matches)


def _any_of(parts: list[Plan], matches: Matcher) -> Plan:
    """Return the plan of a disjunction: each part finds it; two that share a key are asked together."""
    merged: Plan = {}
    for key, residual in (one for part in parts for one in part.items()):
        if key not in merged:
            merged[key] = residual
        elif merged[key] is not None:
            merged[key] = residual and matches
    if _SCAN in merged:  # then the other keys tell nothing more
        return {_SCAN: merged[_SCAN] and matches}
    return merged


def _glob(glob: str, matches: Matcher) -> Plan:
    head = re.split(r"[*?]", glob, maxsplit=1)[0]
    if head == glob:
        return _equals(("field", "stream"), glob, matches)
    return {("prefix", len(head), head): matches if glob[len(head) :].strip("*") else None}


def _field(name: str, pattern: Any, matches: Matcher) -> list[Plan]:
    if name in _PLAIN_FIELDS:
        return _parts(pattern, ("field", name), matches)
    if name == "tags" and type(pattern) is list:
        return [{("tag", tag): matches} for tag in pattern if type(tag) is str] or [{_SCAN: matches}]
    return [{_SCAN: matches}]


def _parts(pattern: Any, path: Key, matches: Matcher) -> list[Plan]:
    """Return plans, each of which finds *pattern* at *path*, and which together say all that it asks."""
    if type(pattern) is not dict:
        return _equal_parts(path, pattern, matches)
    if not pattern:
        return [_present(path, matches)]
    if any(key.startswith("$") for key in pattern):
        return [part for one in pattern.items() for part in _operator(*one, path, matches)]
    return [part for key, one in pattern.items() for part in _parts(one, (*path, key), matches)]


def _operator(name: str, operand: Any, path: Key, matches: Matcher) -> list[Plan]:
    if name == "$eq":
        return _equal_parts(path, operand, matches)
    if name == "$in":
        return [_any_of([_equals(path, one, matches) for one in operand], matches)]
    if name == "$exists":
        return [_present(path, None) if operand else {_SCAN: matches}]
    return [_present(path, matches)]


def _equal_parts(path: Key, operand: Any, matches: Matcher) -> list[Plan]:
    parts = [_equals(path, operand, matches)]
    if type(operand) is dict:
        for key, one in operand.items():
            parts += _equal_parts((*path, key), one, matches)
    return parts


def _equals(path: Key, operand: Any, matches: Matcher) -> Plan:
    return {(*path, _VALUES, _token(operand)): None if _decides(operand) else matches}


def _present(path: Key, residual: Matcher | None) -> Plan:
    # Every event has every field.
    return {(*path, _VALUES, _PRESENT) if len(path) > 2 else _SCAN: residual}
