"""What a work is: sides that are measured in turns, and the comparisons they are measured for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks import stats

if TYPE_CHECKING:
    from benchmarks.bench import Bench

__all__ = ["WORKS", "Comparison", "Metric", "Outcome", "Sample", "Side", "Sides", "Skip", "Work", "compared", "work"]

Metric = Literal["rate", "p50", "p99", "errors"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One side of one round.

    Attributes:
        count: events appended, read or received.
        seconds: what they took.
        p50, p99: of one call, in milliseconds.
        errors: calls that were refused.
    """

    count: int
    seconds: float
    p50: float
    p99: float
    errors: int = 0

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.count / self.seconds


Side = Callable[[float], Awaitable[Sample]]
Sides = Mapping[str, Side]
"""By name, in the order of measuring; each is called with the seconds to take."""


class Skip(Exception):
    """A work cannot be measured here."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ratio: *ours* over *base*, both names of sides; without a base, and for errors, the figure of *ours* alone.

    Attributes:
        at_least, at_most: the target, if there is one.
    """

    ours: str
    base: str | None = None
    metric: Metric = "rate"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The target as it is printed."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}"
        return "" if self.at_most is None else f"≤ {self.at_most:,g}"

    @property
    def absolute(self) -> bool:
        """It is a figure rather than a ratio."""
        return self.base is None or self.metric == "errors"

    def met(self, value: float) -> bool | None:
        """Whether *value* meets the target; None without one."""
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


@dataclass(frozen=True, slots=True)
class Outcome:
    """A comparison after all rounds: the spread of its ratios, and of both sides."""

    comparison: Comparison
    value: stats.Spread
    ours: stats.Spread
    base: stats.Spread | None
    met: bool | None


def compared(comparison: Comparison, samples: Mapping[str, list[Sample]]) -> Outcome:
    """Return what *samples*, the rounds of each side, say about *comparison*."""
    ours = [float(getattr(sample, comparison.metric)) for sample in samples[comparison.ours]]
    base = [float(getattr(sample, comparison.metric)) for sample in samples[comparison.base]] if comparison.base else []
    value = stats.spread(ours if comparison.absolute else stats.ratios(ours, base))
    decisive = value.most if comparison.metric == "errors" else value.median
    spread = stats.spread(base) if base else None
    return Outcome(comparison, value, stats.spread(ours), spread, comparison.met(decisive))


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to measure.

    Attributes:
        explanation: what is compared, and why that is fair.
        pairs: rounds of a full run, if it needs more of them than others.
    """

    number: int
    name: str
    title: str
    explanation: str
    comparisons: tuple[Comparison, ...]
    prepare: Callable[[Bench], AbstractAsyncContextManager[Sides]]
    pairs: int | None = None


WORKS: list[Work] = []
"""The registry, in the order of measuring."""


def work(
    number: int, name: str, title: str, *comparisons: Comparison, pairs: int | None = None
) -> Callable[
    [Callable[[Bench], AbstractAsyncContextManager[Sides]]], Callable[[Bench], AbstractAsyncContextManager[Sides]]
]:
    """Register an async context manager that prepares a work and yields its sides."""

    def register(
        prepare: Callable[[Bench], AbstractAsyncContextManager[Sides]],
    ) -> Callable[[Bench], AbstractAsyncContextManager[Sides]]:
        explanation = " ".join((prepare.__doc__ or "").split())
        WORKS.append(Work(number, name, title, explanation, comparisons, prepare, pairs))
        WORKS.sort(key=lambda each: each.number)
        return prepare

    return register
