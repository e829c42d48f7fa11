"""Judges what a subscription was delivered against what it should have been, knowing nothing of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import UUID

from eventstore.demo.history import Fact
from eventstore.events import Event

__all__ = ["Arrival", "Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call of a handler: the event, and the time at its first line."""

    event: Event
    at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one subscription.

    Attributes:
        delivered: calls of the handler.
        missing: expected events that never came.
        unexpected: events that came and were not expected.
        altered: events that came with another stream, type, data, metadata or tags than they were appended with.
        order_violations: events that came after a later one of their stream.
        duplicates: calls with an event that had come already.
        median: of the live latency, in milliseconds; None if no live event was expected.
        p99: 99 of 100 live events came within so many milliseconds.
    """

    delivered: int
    expected: int
    missing: int
    unexpected: int
    altered: int
    order_violations: int
    duplicates: int
    median: float | None
    p99: float | None

    @property
    def problems(self) -> dict[str, int]:
        """The counts that should be 0 and are not."""
        names = ("missing", "unexpected", "altered", "order_violations", "duplicates")
        return {name: count for name in names if (count := getattr(self, name))}

    @property
    def ok(self) -> bool:
        """Whether every number is as it should be."""
        return self.delivered == self.expected and not self.problems


def judge(expected: Sequence[Fact], arrivals: Sequence[Arrival], called: Mapping[UUID, float]) -> Verdict:
    """Compare *arrivals* with *expected*, which is in the order of appending.

    Args:
        called: when `append` was called for each live event.
    """
    facts = {fact.event.id: fact for fact in expected}
    came = Counter(arrival.event.id for arrival in arrivals)
    late = sorted(_latencies(arrivals, called))
    return Verdict(
        delivered=len(arrivals),
        expected=len(expected),
        missing=len(facts.keys() - came.keys()),
        unexpected=len(came.keys() - facts.keys()),
        altered=sum(_altered(one.event, facts[one.event.id]) for one in arrivals if one.event.id in facts),
        order_violations=_order_violations(expected, arrivals),
        duplicates=came.total() - len(came),
        median=_nearest_rank(late, 0.5),
        p99=_nearest_rank(late, 0.99),
    )


def _altered(event: Event, fact: Fact) -> bool:
    def content(stream: str | None, one: Any) -> tuple[Any, ...]:
        return stream, one.type, one.data, one.metadata, tuple(one.tags)

    return content(event.stream, event) != content(fact.stream, fact.event)


def _order_violations(expected: Sequence[Fact], arrivals: Sequence[Arrival]) -> int:
    places = {fact.event.id: (fact.stream, number) for number, fact in enumerate(expected)}
    furthest: dict[str, int] = {}
    violations = 0
    # A repetition is no violation of order: only the first arrival of each event counts.
    for identity in dict.fromkeys(arrival.event.id for arrival in arrivals):
        if identity in places:
            stream, place = places[identity]
            violations += place < furthest.get(stream, -1)
            furthest[stream] = max(place, furthest.get(stream, -1))
    return violations


def _latencies(arrivals: Sequence[Arrival], called: Mapping[UUID, float]) -> list[float]:
    first: dict[UUID, float] = {}
    for arrival in arrivals:
        if arrival.event.id in called:
            first.setdefault(arrival.event.id, arrival.at)
    return [(at - called[identity]) * 1000 for identity, at in first.items()]


def _nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    return ordered[ceil(share * len(ordered)) - 1] if ordered else None
