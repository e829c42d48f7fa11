"""Orders of clocks, and runs of dots."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.tracker.clocks import (
    Clock,
    Replica,
    concurrent,
    covers,
    cut,
    dominates,
    dominates_or_equal,
    lower_bound,
    restrict,
    runs_of,
    undominated,
    upper_bound,
)

A, B, C = (Replica(name, "1") for name in "abc")
clocks = st.dictionaries(st.sampled_from([A, B, C]), st.integers(0, 3))
dots = st.sets(st.integers(1, 30))


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ({A: 1}, {A: 1}, "equal"),
        ({A: 1, B: 0}, {A: 1}, "equal"),
        ({A: 2}, {A: 1}, "dominates"),
        ({A: 1, B: 1}, {A: 1}, "dominates"),
        ({A: 2}, {A: 1, B: 1}, "concurrent"),
        ({}, {A: 1}, "dominated"),
    ],
)
def test_two_clocks_are_equal_ordered_or_concurrent(one: Clock, other: Clock, order: str) -> None:
    assert dominates_or_equal(one, other) == (order in ("equal", "dominates"))
    assert dominates(one, other) == (order == "dominates")
    assert concurrent(one, other) == concurrent(other, one) == (order == "concurrent")


@given(clocks, clocks)
def test_bounds_are_the_least_above_and_the_greatest_below(one: Clock, other: Clock) -> None:
    above, below = upper_bound(one, other), lower_bound(one, other)
    for replica in (A, B, C):
        assert above.get(replica, 0) == max(one.get(replica, 0), other.get(replica, 0))
        assert below.get(replica, 0) == min(one.get(replica, 0), other.get(replica, 0))


def test_a_version_makes_another_replica() -> None:
    assert sorted([Replica("b", "1"), Replica("a", "2"), Replica("a", "1")])[0] == Replica("a", "1")
    assert not dominates_or_equal({Replica("a", "1"): 9}, {Replica("a", "2"): 1})


def test_a_clock_is_restricted_to_replicas() -> None:
    assert restrict({A: 1, B: 2}, [B, C]) == {B: 2}


def test_a_replica_that_is_behind_nobody_keeps_only_its_own_clock() -> None:
    assert undominated([(A, {A: 2, B: 1}), (B, {A: 1, B: 1}), (C, {A: 2, B: 1})]) == [(A, {A: 2, B: 1})]


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), clocks), max_size=6))
def test_undominated_clocks_together_have_seen_all(pairs: list[tuple[Replica, Clock]]) -> None:
    kept = undominated(pairs)
    assert all(any(dominates_or_equal(better, clock) for _, better in kept) for _, clock in pairs)
    assert all(concurrent(one, other) for n, (_, one) in enumerate(kept) for _, other in kept[:n])
    assert all(pair in pairs for pair in kept)


@given(dots, dots)
def test_runs_hold_the_dots_they_were_made_of(some: set[int], more: set[int]) -> None:
    runs = runs_of(((dot, dot) for dot in some), runs_of((dot, dot) for dot in more))
    assert {dot for first, last in runs for dot in range(first, last + 1)} == some | more
    assert all(before[1] + 1 < after[0] for before, after in pairwise(runs))


@given(dots, st.integers(1, 30), st.integers(0, 5))
def test_runs_cover_what_is_in_them_without_a_gap(some: set[int], first: int, length: int) -> None:
    expected = set(range(first, first + length + 1)) <= some
    assert covers(runs_of((dot, dot) for dot in some), first, first + length) == expected


@given(dots, dots)
def test_runs_are_cut_at_dots(some: set[int], less: set[int]) -> None:
    left = cut(runs_of((dot, dot) for dot in some), sorted(less))
    assert left == runs_of((dot, dot) for dot in some - less)
