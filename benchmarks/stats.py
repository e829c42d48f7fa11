"""Statistics of few rounds: medians, intervals that assume no distribution, ratios of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb
from statistics import median

__all__ = ["Spread", "coverage", "interval", "percentile", "ratios", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and how sure it is.

    Attributes:
        low, high: an interval of order statistics; it holds the true median with a probability of `coverage`.
        least, most: the extremes.
    """

    median: float
    low: float
    high: float
    least: float
    most: float
    coverage: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the *ordered* values that at least *share* (0 to 1) of them do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def coverage(count: int, trimmed: int) -> float:
    """Return how likely the median of the population lies within *count* values without *trimmed* at either end."""
    return 1 - sum(comb(count, below) for below in range(trimmed + 1)) / float(2 ** (count - 1))


def interval(values: Sequence[float], wanted: float = 0.9) -> tuple[float, float, float]:
    """Return the narrowest interval of order statistics that covers the median as *wanted*, and what it covers.

    Too few values for that: their extremes, with the lower coverage that they have.
    """
    ordered, count, trimmed = sorted(values), len(values), 0
    while trimmed + 1 <= (count - 1) // 2 and coverage(count, trimmed + 1) >= wanted:
        trimmed += 1
    return ordered[trimmed], ordered[count - 1 - trimmed], coverage(count, trimmed)


def spread(values: Sequence[float]) -> Spread:
    """Summarise one figure of several rounds."""
    low, high, covered = interval(values)
    return Spread(median(values), low, high, min(values), max(values), covered)


def ratios(ours: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return ours / base round by round: what slows a machine down for a while slows both of a round."""
    return [one / other for one, other in zip(ours, base, strict=True)]
