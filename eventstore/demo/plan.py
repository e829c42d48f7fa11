"""The demo's subscriptions, each with a second, plain statement of what it wants: the count to compare with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eventstore.demo.history import Fact
from eventstore.selectors import EventPattern, EventPayload, EventType, Selector, Stream, Tags

__all__ = ["Planned", "plan_for_file", "plan_for_shop"]

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Planned:
    """A subscription to create.

    Attributes:
        shown: the selector as one would write it.
        wants: whether a fact is to be delivered, in plain Python. It must not use the selector: the two are compared.
    """

    name: str
    selector: Selector
    shown: str
    wants: Callable[[Fact], bool]
    pool_size: int = 1


def plan_for_shop() -> list[Planned]:
    """Return one subscription of each kind over the generated history."""
    return [
        Planned(
            "stream",
            Stream("warehouse-north"),
            "Stream('warehouse-north')",
            lambda fact: fact.stream == "warehouse-north",
        ),
        Planned(
            "type",
            EventType("PaymentAuthorized", "PaymentFailed"),
            "EventType('PaymentAuthorized', 'PaymentFailed')",
            lambda fact: fact.event.type in ("PaymentAuthorized", "PaymentFailed"),
            pool_size=4,
        ),
        Planned(
            "pattern",
            EventPattern("shipment-*"),
            "EventPattern('shipment-*')",
            lambda fact: fact.stream.startswith("shipment-"),
            pool_size=2,
        ),
        Planned(
            "record",
            EventPattern({"type": "OrderPlaced", "metadata": {"channel": "web"}}),
            "EventPattern({'type': 'OrderPlaced', 'metadata': {'channel': 'web'}})",
            lambda fact: fact.event.type == "OrderPlaced" and fact.event.metadata["channel"] == "web",
        ),
        Planned(
            "payload",
            EventPayload({"tier": "VIP", "total": {"$gt": 100}}),
            "EventPayload({'tier': 'VIP', 'total': {'$gt': 100}})",
            lambda fact: fact.event.data.get("tier") == "VIP" and fact.event.data["total"] > 100,
        ),
        Planned(
            "tags",
            Tags("region:north", "customer:7", match="any"),
            "Tags('region:north', 'customer:7', match='any')",
            lambda fact: "region:north" in fact.event.tags or "customer:7" in fact.event.tags,
        ),
    ]


def plan_for_file(facts: Sequence[Fact]) -> list[Planned]:
    """Return a subscription of each kind that *facts* offer something to: the most frequent of everything."""
    stream = _most_frequent(fact.stream for fact in facts)
    kind = _most_frequent(fact.event.type for fact in facts)
    plan = [
        Planned("stream", Stream(stream), f"Stream({stream!r})", lambda fact: fact.stream == stream),
        Planned("type", EventType(kind), f"EventType({kind!r})", lambda fact: fact.event.type == kind, pool_size=4),
    ]
    plan.extend(_pattern(stream))
    plan.extend(_payload(facts))
    plan.extend(_tags(facts))
    return plan


def _pattern(stream: str) -> Iterator[Planned]:
    # Up to the first separator: "case-17" gives "case-*". Names without one are no family to subscribe to.
    if family := re.match(r"\w+[-:./ ]", stream):
        prefix = family[0]
        glob = f"{prefix}*"
        yield Planned(
            "pattern",
            EventPattern(glob),
            f"EventPattern({glob!r})",
            lambda fact: fact.stream.startswith(prefix),
            pool_size=2,
        )


def _payload(facts: Sequence[Fact]) -> Iterator[Planned]:
    """Yield the most frequent value that is not everywhere, or else the most frequent one."""
    counts = Counter(pair for fact in facts for pair in _strings(fact.event.data))
    if not counts:
        return
    rarer = (pair for pair, count in counts.most_common() if count < len(facts))
    key, value = next(rarer, counts.most_common(1)[0][0])
    yield Planned(
        "payload",
        EventPayload({key: value}),
        f"EventPayload({ {key: value}!r})",
        lambda fact: isinstance(fact.event.data, dict) and fact.event.data.get(key) == value,
    )


def _strings(data: Any) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        yield from ((key, value) for key, value in data.items() if isinstance(value, str) and key[:1] != "$")


def _tags(facts: Sequence[Fact]) -> Iterator[Planned]:
    tags = [tag for fact in facts for tag in fact.event.tags]
    if tags:
        tag = _most_frequent(tags)
        yield Planned("tags", Tags(tag), f"Tags({tag!r})", lambda fact: tag in fact.event.tags)


def _most_frequent(items: Iterable[T]) -> T:
    return Counter(items).most_common(1)[0][0]
