"""Deltas on the wire, and the recent ones kept to answer who missed some."""

from __future__ import annotations

import json
import random
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.tracker.clocks import Clock, Replica, cut, dominates_or_equal
from eventstore.tracker.deltas import Delta, Generations, Part, Presence, Tag
from eventstore.tracker.state import State
from tests.tracker.reference import Cluster, whole
from tests.tracker.test_state import CHECKED, PLANTED, chances, histories, observer, same

A, B, C = (Replica(name, "1") for name in "abc")


def part(*dots: int, replica: Replica = A) -> Part:
    values = {dot: Presence("room", "anna", dot, {}, Tag(replica, dot)) for dot in dots}
    return Part(((dots[0], dots[-1]),), values)


def joins(state: State, *keys: int) -> Delta:
    """The delta of *state* after it joined as *keys*."""
    for key in keys:
        state.join("anna", "room", key, {})
    delta = state.delta()
    state.reset_delta()
    return delta


# -- the wire


@CHECKED
@given(histories)
def test_what_arrives_equals_what_was_sent(cluster: Cluster) -> None:
    for delta in [delta for delta, _ in cluster.messages] + [whole(cluster.nodes[0].state)]:
        assert Delta.from_wire(delta.to_wire()) == Delta.from_wire(json.loads(json.dumps(delta.to_wire()))) == delta


def test_a_delta_is_plain_data() -> None:
    delta = Delta({A: Part(((1, 2), (4, 4)), {4: Presence("room", ("anna", 1), "k", {"n": 1}, Tag(A, 4))})})
    assert delta.to_wire() == [["a", "1", [[1, 2], [4, 4]], [[4, "room", ("anna", 1), "k", {"n": 1}]]]]


VALUE = [1, "room", "anna", "k", {}]
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "wire",
    [
        None,
        {},
        "abcd",
        [[]],
        ["abcd"],
        [["a", 1, [[1, 1]], []]],
        [["a", "1", [], []]],
        [["a", "1", [[1, 1]], []], ["a", "1", [[1, 1]], []]],
        [["a", "1", [[0, 1]], []]],
        [["a", "1", [[True, 1]], []]],
        [["a", "1", [[2, 1]], []]],
        [["a", "1", [[1, 1], [2, 2]], []]],
        [["a", "1", [[5, 6], [1, 2]], []]],
        [["a", "1", [[1, 1.5]], []]],
        [["a", "1", [[1, 1]], [[2, *VALUE[1:]]]]],
        [["a", "1", [[1, 1]], [["1", *VALUE[1:]]]]],
        [["a", "1", [[1, 1]], [VALUE, VALUE]]],
        [["a", "1", [[1, 1]], [VALUE[:4]]]],
        [["a", "1", [[1, 1]], [[1, None, "anna", "k", {}]]]],
        [["a", "1", [[1, 1]], [[1, "room", {}, "k", {}]]]],
        [["a", "1", [[1, 1]], [[1, "room", "anna", [{}], {}]]]],
        [["a", "1", [[1, 1]], [[1, "room", "anna", DEEP, {}]]]],
        [["a", "1", [[1, 1]], [[1, "room", "anna", "k", []]]]],
        [["a", "1", [[1, 1]], [[1, "room", "anna", "k", {1: 2}]]]],
    ],
    ids=range(24),
)
def test_a_malformed_delta_is_refused(wire: object) -> None:
    with pytest.raises(ValueError):
        Delta.from_wire(wire)


scalars = st.none() | st.booleans() | st.integers(-1, 4) | st.floats() | st.sampled_from(["a", "1", "room"])
anything = st.recursive(scalars, lambda of: st.lists(of, max_size=5) | st.dictionaries(st.text(), of, max_size=2))
nearly = st.lists(
    st.tuples(
        st.just("a") | anything,
        st.just("1") | anything,
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=2) | anything,
        st.lists(st.tuples(st.integers(1, 3), st.just("room"), scalars, anything, st.just({}) | anything)) | anything,
    ),
    max_size=2,
)


@CHECKED
@given(nearly | anything)
def test_any_data_are_a_delta_or_refused_by_value_error(wire: object) -> None:
    try:
        delta = Delta.from_wire(wire)
    except ValueError:
        return
    observer(delta).leave("anna")
    assert Delta.from_wire(delta.to_wire()) == delta or "nan" in str(wire)


def test_a_gap_of_any_length_costs_nothing() -> None:
    delta = Delta.from_wire([["a", "1", [[5, 10**30]], []]])
    assert (observer(delta).clock[A], observer(delta, Delta({A: part(1, 2, 3, 4)})).clock[A]) == (0, 10**30)


# -- unions


def test_a_union_keeps_what_both_list_and_what_only_one_has_seen() -> None:
    one = Delta({A: Part(((1, 3),), {n: part(1, 2, 3).values[n] for n in (1, 3)})})
    other = Delta({A: Part(((1, 1), (5, 5)), part(5).values), B: part(1, replica=B)})
    united = one.union(other)
    assert united.parts[A] == Part(((1, 3), (5, 5)), {**part(3).values, **part(5).values})
    assert (united.parts[B], united.size, united.without(A)) == (other.parts[B], 6, Delta({B: other.parts[B]}))


# -- pieces


def pieces_heal(cluster: Cluster, limit: int, chance: random.Random, kind: type[Delta]) -> None:
    source = observer(*(delta for delta, _ in cluster.messages))
    known = observer(*(delta for delta, _ in cluster.messages[: len(cluster.messages) // 2]))
    pieces = kind(whole(source).parts).split(limit)
    assert all(sum(len(part.values) for part in piece.parts.values()) <= limit for piece in pieces)
    assert reduce(Delta.union, pieces) == whole(source)
    for piece in chance.sample(pieces, chance.randint(0, len(pieces))):
        known.merge(Delta.from_wire(piece.to_wire()))
    known.merge(source.extract(known.replica, known.clock))
    assert same(known, source)


def test_pieces_say_the_same_and_lost_ones_are_asked_for() -> None:
    CHECKED(given(histories, st.integers(1, 9), chances, st.just(Delta))(pieces_heal))()


class Careless(Delta):
    """Hands over what left before what it left."""

    def split(self, limit: int) -> list[Delta]:
        pieces = []
        for one, part in self.parts.items():
            dead = cut(part.covered, sorted(part.values))
            pieces += [Delta({one: Part(((dot, dot),), {})}) for first, last in dead for dot in range(first, last + 1)]
            pieces += [Delta({one: Part(((dot, dot),), {dot: part.values[dot]})}) for dot in part.values]
        return pieces or [self]


def test_pieces_that_hide_a_loss_are_caught() -> None:
    with pytest.raises(AssertionError):
        PLANTED(given(histories, st.integers(1, 9), chances, st.just(Careless))(pieces_heal))()


# -- generations


def test_a_request_is_answered_from_the_smallest_generation_that_reaches_back() -> None:
    state, generations = State(A), Generations((3, 9))
    for key in range(1, 7):
        generations = generations.push(joins(state, key))
    recent, more = generations.kept
    assert (recent.parts[A].covered, more.parts[A].covered) == (((5, 6),), ((1, 6),))
    assert generations.covering(B, {A: 4, B: 0}, state.clock) == recent
    assert generations.covering(B, {A: 3, B: 0}, state.clock) == more


def test_a_request_from_before_all_generations_is_not_answered() -> None:
    state, generations = State(A), Generations((2, 4))
    for key in range(9):
        generations = generations.push(joins(state, key))
    assert generations.covering(B, {A: 1}, state.clock) is None
    assert Generations((2, 4)).covering(B, {A: 0}, {A: 1}) is None


def test_a_generation_with_a_gap_answers_only_who_has_seen_what_is_missing() -> None:
    generations = Generations((9,)).push(Delta({A: part(1, 2)})).push(Delta({A: part(4, 5)}))
    assert generations.covering(B, {A: 3}, {A: 5}) == generations.kept[0]
    assert generations.covering(B, {A: 1}, {A: 5}) is None
    assert generations.push(Delta({A: part(3)})).covering(B, {A: 1}, {A: 5}) is not None


def test_an_answer_holds_nothing_of_who_asked_and_of_replicas_it_does_not_know() -> None:
    generations = Generations((9,)).push(Delta({A: part(1), B: part(1, replica=B), C: part(1, replica=C)}))
    clock = {A: 1, B: 1, C: 1}
    assert generations.covering(B, {A: 0, B: 0}, clock) == Delta({A: part(1)})
    assert generations.covering(B, clock, clock) == Delta()


def test_a_delta_too_large_for_a_generation_is_left_out_of_it() -> None:
    generations = Generations((2, 9)).push(Delta({A: part(1)})).push(Delta({A: part(2, 3, 4)}))
    assert [generation.parts[A].covered for generation in generations.kept] == [((1, 1),), ((1, 4),)]


def test_a_replica_that_is_gone_for_good_is_gone_from_all_generations() -> None:
    generations = Generations((5, 9)).push(Delta({A: part(1), B: part(1, replica=B)})).without(A)
    assert [generation.parts.keys() for generation in generations.kept] == [{B}, {B}]


def test_churn_costs_a_generation_nothing() -> None:
    state, generations = State(A), Generations((10,))
    for key in range(1000):
        state.join("anna", "room", key, {})
        state.leave("anna")
        generations = generations.push(joins(state))
    assert generations.kept[0] == Delta({A: Part(((1, 2000),), {})})


def answers_are_whole(cluster: Cluster, seen: int, limits: list[int], kind: type[Generations]) -> None:
    deltas = [delta for delta, _ in cluster.messages]
    state, generations = observer(), kind(tuple(sorted(limits)))
    for delta in deltas:
        state.merge(delta)
        generations = kind(generations.limits, generations.push(delta).kept)
        assert all(one.size <= limit for one, limit in zip(generations.kept, generations.limits, strict=True))
    asker = observer(*deltas[:seen])
    answer = generations.covering(asker.replica, asker.clock, state.clock)
    if answer is None:
        return
    asker.merge(answer)
    assert dominates_or_equal(asker.clock, state.clock)
    # What was seen out of order may be missing; it is no part of a clock.
    for replica, part in whole(state).parts.items():
        assert len(part.covered) > 1 or whole(asker).parts[replica] == part


requests = st.integers(0, 50), st.lists(st.integers(1, 30), min_size=1, max_size=3, unique=True)


def test_who_is_answered_from_a_generation_misses_nothing() -> None:
    CHECKED(given(histories, *requests, st.just(Generations))(answers_are_whole))()


class Hasty(Generations):
    """Answers from the smallest generation, however far back it reaches."""

    def covering(self, remote: Replica, remote_clock: Clock, clock: Clock) -> Delta | None:
        return self.kept[0]


def test_an_answer_that_misses_something_is_caught() -> None:
    with pytest.raises(AssertionError):
        PLANTED(given(histories, *requests, st.just(Hasty))(answers_are_whole))()
