"""What a replica has seen: vector clocks, and runs of dots for what arrived out of order.

A replica numbers its changes 1, 2, 3, …; one such number is a dot. A clock maps each replica to the last dot up to
which every dot was seen; a replica that is missing stands at 0 (Fidge 1988, Mattern 1988). Dots beyond it are kept as
runs: ``((5, 7), (9, 9))`` are the dots 5, 6, 7 and 9. Every function costs the number of replicas, or of runs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

__all__ = [
    "Clock",
    "Replica",
    "Runs",
    "concurrent",
    "covers",
    "cut",
    "dominates",
    "dominates_or_equal",
    "lower_bound",
    "restrict",
    "runs_of",
    "undominated",
    "upper_bound",
]


class Replica(NamedTuple):
    """One life of a node: a node that starts again has the same name and a new version.

    A tuple, not a dataclass: it is hashed for every presence.
    """

    node: str
    vsn: str


Clock: TypeAlias = Mapping[Replica, int]
Runs: TypeAlias = tuple[tuple[int, int], ...]
"""Dots as (first, last) of each run, ascending; between two runs at least one dot is missing."""

_first = itemgetter(0)


def dominates_or_equal(one: Clock, other: Clock) -> bool:
    """Tell whether *one* has seen all that *other* has."""
    return all(one.get(replica, 0) >= dot for replica, dot in other.items())


def dominates(one: Clock, other: Clock) -> bool:
    """Tell whether *one* has seen all that *other* has, and more."""
    return dominates_or_equal(one, other) and not dominates_or_equal(other, one)


def concurrent(one: Clock, other: Clock) -> bool:
    """Tell whether each has seen something that the other has not."""
    return not dominates_or_equal(one, other) and not dominates_or_equal(other, one)


def upper_bound(one: Clock, other: Clock) -> dict[Replica, int]:
    """Return the clock of who has seen what either has."""
    return {replica: max(one.get(replica, 0), other.get(replica, 0)) for replica in {**one, **other}}


def lower_bound(one: Clock, other: Clock) -> dict[Replica, int]:
    """Return the clock of who has seen what both have."""
    return {replica: min(dot, other[replica]) for replica, dot in one.items() if replica in other}


def restrict(clock: Clock, replicas: Iterable[Replica]) -> dict[Replica, int]:
    """Return what *clock* says about *replicas*."""
    return {replica: clock[replica] for replica in replicas if replica in clock}


def undominated(clocks: Iterable[tuple[Replica, Clock]]) -> list[tuple[Replica, Clock]]:
    """Return the clocks that together have seen all, each with who sent it; of equal ones the first.

    Who puts its own clock first and gets nothing else back is behind nobody.
    """
    kept: list[tuple[Replica, Clock]] = []
    for source, clock in clocks:
        if not any(dominates_or_equal(better, clock) for _, better in kept):
            kept = [(other, lesser) for other, lesser in kept if not dominates(clock, lesser)]
            kept.append((source, clock))
    return kept


def runs_of(*parts: Iterable[tuple[int, int]]) -> Runs:
    """Return the runs of all dots in *parts*, whose (first, last) may be in any order and overlap."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(run for part in parts for run in part):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)


def covers(runs: Runs, first: int, last: int) -> bool:
    """Tell whether each dot from *first* to *last* is in *runs*."""
    at = bisect_right(runs, first, key=_first)
    return at > 0 and runs[at - 1][1] >= last


def cut(runs: Runs, dots: Sequence[int]) -> Runs:
    """Return *runs* without *dots*, which ascend."""
    left: list[tuple[int, int]] = []
    for first, last in runs:
        for dot in dots[bisect_left(dots, first) : bisect_right(dots, last)]:
            left.append((first, dot - 1))
            first = dot + 1
        left.append((first, last))
    return tuple(run for run in left if run[0] <= run[1])
