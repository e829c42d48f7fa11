"""What the set of presences promises, over histories with lost, late and repeated messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from eventstore.tracker.clocks import Clock, Replica, Runs, runs_of
from eventstore.tracker.deltas import Delta, Part, Presence, Tag
from eventstore.tracker.listing import Diff
from eventstore.tracker.state import State
from tests.faults.figures import tally as tally
from tests.hunt.racing import times
from tests.tracker.reference import KEYS, NOBODY, OWNERS, TOPICS, Cluster, Node, listed, whole

A, B, C = (Replica(name, "1") for name in "abc")
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
ORDERED = settings(max_examples=times(70, 10_000), deadline=None, suppress_health_check=QUIET)
CHECKED = settings(ORDERED, max_examples=times(70, 2000))
HUNTED = settings(ORDERED, max_examples=times(70, 1000), stateful_step_count=40)
# Enough to catch what is planted whatever the seed: some seeds take thousands, those named below show it mostly soon.
PLANTED = settings(HUNTED, max_examples=10_000, database=None, phases=[Phase.generate], report_multiple_bugs=False)

nodes, ages = st.integers(0, 4), st.integers(0, 200) | st.integers(0, 3)
elements = st.tuples(st.sampled_from(OWNERS), st.sampled_from(TOPICS), st.sampled_from(KEYS))
verbs = st.sampled_from(["join", "join", "leave"])
steps = st.one_of(
    st.tuples(verbs, nodes, elements),
    st.tuples(st.sampled_from(["send", "send", "send_all"]), nodes),
    st.tuples(st.just("deliver"), nodes, ages),
    st.tuples(st.just("transfer"), nodes, nodes),
)


def play(history: list[tuple[Any, ...]], kind: type[State] = State) -> Cluster:
    """A cluster after *history*, whose messages are all sent and partly delivered."""
    cluster = Cluster(5, kind)
    for verb, at, *rest in history:
        node = cluster.nodes[at]
        match verb:
            case "join" | "leave":
                getattr(cluster, verb)(node, *rest[0])
            case "deliver":
                cluster.deliver(node, rest[0])
            case "transfer":
                cluster.transfer(node, cluster.nodes[rest[0]])
            case _:
                getattr(cluster, verb)(node)
    for node in cluster.nodes:
        cluster.send(node)
    return cluster


unplayed = st.lists(steps, min_size=5, max_size=60)
histories = unplayed.map(play)
chances = st.randoms(use_true_random=False)


def observer(*deltas: Delta, kind: type[State] = State) -> State:
    """A state of its own that knows all replicas and merged *deltas*."""
    state = kind(NOBODY)
    for name in "abcde":
        state.replica_up(Replica(name, "1"))
    for delta in deltas:
        state.merge(delta)
    return state


def same(one: State, other: State) -> bool:
    return (whole(one), one.clock, listed(one)) == (whole(other), other.clock, listed(other))


def pair(kind: type[State] = State) -> tuple[State, State]:
    """Two states that know each other."""
    one, other = kind(A), kind(B)
    one.replica_up(B)
    other.replica_up(A)
    return one, other


def sent(state: State) -> Delta:
    delta = state.delta()
    state.reset_delta()
    return delta


# -- laws


def order_does_not_matter(cluster: Cluster, chance: random.Random, kind: type[State]) -> None:
    deltas = [delta for delta, _ in cluster.messages]
    shuffled = deltas + chance.sample(deltas, len(deltas) // 2)
    chance.shuffle(shuffled)
    assert same(observer(*deltas, kind=kind), observer(*shuffled, kind=kind))


def a_union_is_its_parts(cluster: Cluster, chance: random.Random, kind: type[State]) -> None:
    deltas = [delta for delta, _ in cluster.messages]
    chance.shuffle(deltas)
    united = reduce(Delta.union, deltas, Delta())
    assert same(observer(*deltas, kind=kind), observer(united, kind=kind))
    assert united == reduce(lambda one, other: other.union(one), reversed(deltas), Delta())


def again_changes_nothing(cluster: Cluster, chance: random.Random, kind: type[State]) -> None:
    deltas = [delta for delta, _ in cluster.messages]
    state = observer(*deltas, kind=kind)
    before = whole(state)
    assert {repr(state.merge(delta)) for delta in [*deltas, before]} == {repr(Diff())}
    assert whole(state) == before


def transfers_converge(history: list[tuple[Any, ...]], chance: random.Random, kind: type[State]) -> None:
    cluster = play(history, kind)
    cluster.settle()
    cluster.check()
    assert len({repr((listed(node.state), sorted(node.state.clock.items()))) for node in cluster.nodes}) == 1


Law = Callable[..., None]


def judge(law: Law, how: Callable[[Law], Law], kind: type[State]) -> int:
    """Check *law* on many histories; returns on how many."""
    played, judged = unplayed if law is transfers_converge else histories, 0

    def counting(history: Any, chance: random.Random, state: type[State]) -> None:
        nonlocal judged
        judged += 1
        law(history, chance, state)

    how(given(played, chances, st.just(kind))(counting))()
    return judged


@pytest.mark.parametrize(
    "law", [order_does_not_matter, a_union_is_its_parts, again_changes_nothing, transfers_converge]
)
def test_any_history_obeys(law: Law, tally: Counter[str]) -> None:
    if law is order_does_not_matter:
        tally["merge_orders"] += judge(law, ORDERED, State)
    else:
        tally["histories_of_other_laws"] += judge(law, CHECKED, State)


# -- against the reference


class Histories(RuleBasedStateMachine):
    """All that can happen to some nodes; each lists what its reference lists, and was told of it by diffs."""

    kind: type[State] = State

    @initialize(count=st.sampled_from([2, 3, 5]))
    def start(self, count: int) -> None:
        self.cluster = Cluster(count, self.kind)

    def node(self, number: int) -> Node:
        return self.cluster.nodes[number % len(self.cluster.nodes)]

    @rule(at=nodes, changes=st.lists(st.tuples(elements, verbs, st.booleans()), min_size=1, max_size=5))
    def change(self, at: int, changes: list[Any]) -> None:
        for element, verb, send in changes:
            # Leave with all of the owner, or with one presence.
            getattr(self.cluster, verb)(self.node(at), *element[: 1 if verb == "leave" and send else 3])
            if send:
                self.cluster.send(self.node(at))

    @rule(at=nodes)
    def send_all(self, at: int) -> None:
        self.cluster.send_all(self.node(at))

    @rule(to=nodes, age=ages)
    def deliver(self, to: int, age: int) -> None:
        self.cluster.deliver(self.node(to), age)

    @rule(source=nodes, to=nodes)
    def transfer(self, source: int, to: int) -> None:
        self.cluster.transfer(self.node(source), self.node(to))

    @rule(at=nodes, other=nodes, verb=st.sampled_from(["up", "up", "down", "remove"]))
    def judge(self, at: int, other: int, verb: str) -> None:
        getattr(self.cluster, verb)(self.node(at), self.node(other).replica)

    @invariant()
    def nodes_list_what_the_reference_lists(self) -> None:
        self.cluster.check()


TestHistories = Histories.TestCase
TestHistories.settings = HUNTED


class WithoutCloud(State):
    """Forgets what arrived out of order."""

    def _learn(self, replica: Replica, covered: Runs) -> None:
        super()._learn(replica, covered)
        self._cloud.pop(replica, None)


class Resurrecting(State):
    """Takes every join for a new one."""

    def _knows(self, replica: Replica, dot: int) -> bool:
        return dot in self._values[replica]


class Skipping(State):
    """Believes to have seen all that came before what it sees."""

    def _learn(self, replica: Replica, covered: Runs) -> None:
        super()._learn(replica, ((1, covered[-1][1]),))


class Remembering(State):
    """Listens to replicas that are gone for good."""

    def remove_replica(self, replica: Replica) -> Diff:
        diff = super().remove_replica(replica)
        self.replica_up(replica)
        return diff


class Obedient(State):
    """Believes others about its own presences."""

    def _hears(self, replica: Replica) -> bool:
        return replica in self._clock


class Withholding(State):
    """Hands over presences, but not which have left."""

    def extract(self, remote: Replica, remote_clock: Clock) -> Delta:
        parts = super().extract(remote, remote_clock).parts
        dots = {one: runs_of((dot, dot) for dot in part.values) for one, part in parts.items()}
        return Delta({one: Part(runs, parts[one].values) for one, runs in dots.items() if runs})


@pytest.mark.parametrize(
    ("kind", "number"), [(WithoutCloud, 7), (Resurrecting, 5), (Skipping, 2), (Remembering, 12), (Withholding, 2)]
)
def test_the_reference_catches_a_planted_bug(kind: type[State], number: int) -> None:
    machine = seed(number)(type("Planted", (Histories,), {"kind": kind}))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=PLANTED)


@pytest.mark.parametrize(
    ("law", "kind", "number"),
    [
        (order_does_not_matter, WithoutCloud, 37),
        (order_does_not_matter, Resurrecting, 3),
        (order_does_not_matter, Skipping, 37),
        (a_union_is_its_parts, WithoutCloud, 37),
        (a_union_is_its_parts, Skipping, 37),
        (again_changes_nothing, Resurrecting, 29),
        (transfers_converge, Withholding, 2),
    ],
)
def test_a_law_catches_a_planted_bug(law: Law, kind: type[State], number: int) -> None:
    with pytest.raises(AssertionError):
        judge(law, lambda found: PLANTED(seed(number)(found)), kind)


# -- single sentences


def test_a_join_bumps_the_clock_once_and_an_update_twice() -> None:
    state = State(A)
    state.join("anna", "room", "k", {})
    assert state.clock == {A: 1}
    state.update("anna", "room", "k", {"away": True})
    assert state.clock == {A: 3}
    state.leave("anna")
    assert state.clock == {A: 4}


def test_an_update_is_one_diff_with_the_leave_and_the_join() -> None:
    one, other = pair()
    (old,) = one.join("anna", "room", "k", {"n": 1}).joins
    other.merge(sent(one))
    diff = one.update("anna", "room", "k", {"n": 2})
    assert diff == ((Presence("room", "anna", "k", {"n": 2}, Tag(A, 3)),), (old,))
    assert other.merge(sent(one)) == diff


def test_joining_twice_and_updating_nothing_are_refused() -> None:
    state = State(A)
    state.join("anna", "room", "k", {})
    with pytest.raises(ValueError, match="already"):
        state.join("anna", "room", "k", {})
    with pytest.raises(KeyError):
        state.update("bert", "room", "k", {})
    assert (state.leave("bert"), state.leave("anna", "hall", "k"), state.clock) == (Diff(), Diff(), {A: 1})


def test_an_owner_leaves_one_key_one_topic_or_all() -> None:
    one, other = pair()
    other.join("anna", "room", 1, {})
    one.merge(sent(other))
    for topic, key in [("room", 1), ("room", 2), ("room", 3), ("hall", 1), ("yard", 1)]:
        one.join("anna", topic, key, {})
    assert [len(leave.leaves) for leave in (one.leave("anna", "room", 2), one.leave_topic("anna", "room"))] == [1, 2]
    assert [presence.topic for presence in one.own()] == ["hall", "yard"]
    assert (len(one.leave("anna").leaves), one.own(), len(one.get_by_owner("anna"))) == (2, (), 1)


def test_a_join_wins_over_a_concurrent_leave() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {})
    other.merge(sent(one))
    other.join("anna", "room", "k", {"n": 2})
    one.leave("anna")
    one.join("anna", "room", "k", {"n": 3})
    mine, theirs = sent(one), sent(other)
    one.merge(theirs)
    other.merge(mine)
    assert listed(one) == listed(other)
    assert [presence.meta for presence in listed(one)] == [{"n": 3}, {"n": 2}]


def test_an_old_delta_that_arrives_late_resurrects_nothing() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {})
    late = sent(one)
    one.leave("anna")
    other.merge(sent(one))
    assert (other.merge(late), listed(other), other.clock[A]) == (Diff(), [], 2)


def test_a_gap_is_listed_but_not_in_the_clock_until_it_is_filled() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {})
    lost = sent(one)
    one.join("bert", "room", "k", {})
    other.merge(sent(one))
    assert ([presence.owner for presence in listed(other)], other.clock[A]) == (["bert"], 0)
    other.merge(lost)
    assert ([presence.owner for presence in listed(other)], other.clock[A]) == (["anna", "bert"], 2)
    assert not other._cloud


def test_of_two_known_presences_of_an_element_the_newest_is_listed() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {"n": 1})
    first = sent(one)
    one.leave("anna")
    sent(one)
    one.join("anna", "room", "k", {"n": 2})
    second = sent(one)
    assert other.merge(second).joins == one.get_by_topic("room")
    assert other.merge(first) == Diff()
    one.leave("anna")
    # The first leave is still not known.
    assert [presence.meta for presence in other.merge(sent(one)).joins] == [{"n": 1}]
    assert other.merge(whole(one)).leaves[0].meta == {"n": 1}


def keeps_its_own(kind: type[State]) -> None:
    one, _ = pair(kind)
    one.join("anna", "room", "k", {})
    lie = Delta({A: Part(((1, 9),), {5: Presence("room", "bert", "k", {}, Tag(A, 5))})})
    assert one.merge(lie) == Diff()
    assert (len(listed(one)), one.clock[A]) == (1, 1)


def test_nobody_else_removes_a_replicas_own_presences() -> None:
    keeps_its_own(State)
    with pytest.raises(AssertionError):
        keeps_its_own(Obedient)


def test_a_transfer_says_nothing_about_who_asked() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {})
    other.join("bert", "room", "k", {})
    other.merge(sent(one))
    assert other.extract(A, {A: 0, B: 0}).parts.keys() == {B}
    assert other.extract(A, {A: 0}) == other.extract(A, one.clock | other.clock) == Delta()


def test_down_hides_and_up_restores() -> None:
    one, other = pair()
    joined = one.join("anna", "room", "k", {}).joins
    other.merge(sent(one))
    assert other.replica_down(A) == Diff((), joined)
    assert (other.get_by_topic("room"), other.get_by_owner("anna"), other.advertised) == ((), (), {B: 0})
    assert (other.replica_up(A), other.get_by_key("room", "k")) == (Diff(joined), joined)


def test_what_is_heard_of_a_replica_that_is_down_shows_when_it_is_up() -> None:
    one, other = pair()
    other.replica_down(A)
    joined = one.join("anna", "room", "k", {}).joins
    assert other.merge(sent(one)) == Diff()
    assert other.replica_up(A) == Diff(joined)


def test_a_stale_delta_of_a_removed_replica_is_ignored() -> None:
    one, other = pair()
    one.join("anna", "room", "k", {})
    stale = sent(one)
    other.merge(stale)
    assert len(other.remove_replica(A).leaves) == 1
    assert (other.merge(stale), other.clock, listed(other)) == (Diff(), {B: 0}, [])


def test_a_replica_that_was_removed_and_is_up_again_is_learnt_from_the_start() -> None:
    one, other = pair()
    joined = one.join("anna", "room", "k", {}).joins
    other.merge(sent(one))
    other.remove_replica(A)
    assert (other.replica_up(A), other.clock[A]) == (Diff(), 0)
    assert other.merge(one.extract(B, other.clock)) == Diff(joined)


def test_a_replica_is_never_down_to_itself() -> None:
    for judge in (State(A).replica_down, State(A).remove_replica):
        with pytest.raises(ValueError, match="itself"):
            judge(A)


def test_what_joins_and_leaves_within_a_delta_is_not_sent() -> None:
    state = State(A)
    assert (state.has_delta, state.delta()) == (False, Delta())
    state.join("anna", "room", "k", {})
    state.leave("anna")
    assert state.has_delta
    assert state.delta() == Delta({A: Part(((1, 2),), {})})
    state.reset_delta()
    assert (state.has_delta, state.delta()) == (False, Delta())


def held(thing: object) -> int:
    """How many things are inside."""
    if isinstance(thing, dict):
        return len(thing) + sum(map(held, thing.values()))
    if isinstance(thing, (list, tuple, set)):
        return len(thing) + sum(map(held, thing))
    return sum(held(getattr(thing, name)) for name in getattr(type(thing), "__slots__", ()))


def churn(kind: type[State], batches: int, backwards: bool) -> None:
    one, other = pair(kind)
    before = held(one), held(other)
    for batch in range(batches):
        for n in range(1000):
            one.join(f"owner {n % 100}", "room", (batch, n), {})
        deltas = [sent(one)]
        for n in range(100):
            one.leave(f"owner {n}")
        deltas.append(sent(one))
        for delta in reversed(deltas) if backwards else deltas:
            other.merge(delta)
    assert (held(one), held(other)) == before
    assert (one.clock[A], other.clock[A]) == (batches * 2000, batches * 2000)


class Hoarding(State):
    """Never moves dots into the clock."""

    def _learn(self, replica: Replica, covered: Runs) -> None:
        clock = self._clock[replica]
        super()._learn(replica, covered)
        self._cloud[replica] = runs_of(self._seen(replica), covered)
        self._clock[replica] = clock


@pytest.mark.parametrize("backwards", [False, True])
def test_a_state_is_as_small_after_churn_as_before(backwards: bool, tally: Counter[str]) -> None:
    batches = times(20, 100)
    churn(State, batches, backwards)
    tally["presences_churned"] += 1000 * batches
    with pytest.raises(AssertionError):
        churn(Hoarding, 1, backwards)


def test_a_removed_replica_leaves_nothing_behind() -> None:
    one, other = pair()
    before = held(State(B))
    for n in range(9):
        one.join("anna", "room", n, {})
        if n % 3:
            other.merge(sent(one))
    other.remove_replica(A)
    assert held(other) == before


def test_a_large_state_does_not_slow_a_small_merge() -> None:
    looked: list[int] = []

    class Counting(dict[int, Presence]):
        def __iter__(self) -> Any:
            looked.append(len(self))
            return super().__iter__()

        def keys(self) -> Any:
            looked.append(len(self))
            return super().keys()

    one, other = pair()
    for n in range(1000):
        one.join("anna", "room", n, {})
    other.merge(sent(one))
    other._values[A] = Counting(other._values[A])
    one.leave("anna", "room", 5)
    assert len(other.merge(sent(one)).leaves) == 1
    assert not looked
