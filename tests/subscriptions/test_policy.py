"""What follows a failure, and that no event of a key overtakes another, whatever is parked and replayed."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from pydantic import TypeAdapter

from eventstore.errors import ConfigurationError
from eventstore.subscriptions.policy import (
    FailurePolicy,
    Halt,
    KeyGate,
    KeyState,
    NotPending,
    NotReplaying,
    Park,
    Retry,
    Skip,
    Step,
    dump,
    load,
)
from tests.hunt.racing import times

HUNTED = settings(max_examples=times(60, 10_000), stateful_step_count=50, deadline=None)
PLANTED = settings(HUNTED, max_examples=2000, database=None, phases=[Phase.generate], report_multiple_bugs=False)
KEYS = ("a", "b", "c")
keys, chances = st.sampled_from(KEYS), st.floats(0, 1)

policies = st.builds(
    FailurePolicy,
    attempts=st.none() | st.integers(1, 20),
    delay=st.floats(0.001, 10),
    delay_max=st.floats(10, 1000),
    factor=st.floats(1, 1000),
    timeout=st.none() | st.floats(0.001, 1000),
    then=st.sampled_from(["park_key", "park_event", "skip", "halt"]),
)


def least() -> float:
    return 0.0


def most() -> float:
    return 1.0


# -- the policy


@settings(deadline=None)
@given(policies, st.integers(1, 10_000), chances)
def test_a_retry_comes_after_at_least_half_the_delay_and_at_most_the_longest(
    policy: FailurePolicy, attempt: int, chance: float
) -> None:
    match policy.next_step(attempt, lambda: chance):
        case Retry(seconds):
            assert policy.attempts is None or attempt < policy.attempts
            assert policy.delay / 2 <= seconds <= policy.delay_max
        case _:
            assert policy.attempts is not None
            assert attempt >= policy.attempts


@settings(deadline=None)
@given(policies, st.integers(1, 30), chances)
def test_delays_grow(policy: FailurePolicy, attempt: int, chance: float) -> None:
    now, next_ = (policy.next_step(n, lambda: chance) for n in (attempt, attempt + 1))
    if isinstance(now, Retry) and isinstance(next_, Retry):
        assert now.seconds <= next_.seconds


def test_each_pause_is_the_factor_longer_up_to_the_longest() -> None:
    policy = FailurePolicy(attempts=None, delay=1, factor=2, delay_max=5)
    assert [policy.next_step(n, most) for n in (1, 2, 3, 4)] == [Retry(1), Retry(2), Retry(4), Retry(5)]
    assert policy.next_step(3, least) == Retry(2)


def test_attempts_are_counted_from_the_first_delivery() -> None:
    policy = FailurePolicy(attempts=3)
    assert [type(policy.next_step(n, most)) for n in (1, 2, 3, 4)] == [Retry, Retry, Park, Park]
    assert FailurePolicy(attempts=1).next_step(1, most) == Park(key=True)
    with pytest.raises(ValueError, match="from 1"):
        policy.next_step(0, most)


def test_five_attempts_are_the_default_and_then_the_key_is_parked() -> None:
    assert isinstance(FailurePolicy().next_step(4, most), Retry)
    assert FailurePolicy().next_step(5, most) == Park(key=True)


@pytest.mark.parametrize(
    ("then", "step"),
    [("park_key", Park(key=True)), ("park_event", Park(key=False)), ("skip", Skip()), ("halt", Halt())],
)
def test_each_policy_ends_in_its_own_step(then: Any, step: Step) -> None:
    assert FailurePolicy(attempts=2, then=then).next_step(2, most) == step


def test_chance_is_asked_only_for_a_retry() -> None:
    def rolled() -> float:
        raise AssertionError("no retry, no chance")

    assert FailurePolicy(attempts=1, then="skip").next_step(1, rolled) == Skip()


def test_without_a_limit_it_is_tried_for_ever() -> None:
    assert FailurePolicy(attempts=None, factor=1000).next_step(10**9, most) == Retry(30.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("attempts", value) for value in (0, -1, True, 2.0, "5")],
        *[("delay", value) for value in (0, -1, float("nan"), float("inf"), None, "1", True)],
        *[("delay_max", value) for value in (0, 0.05, None, 1e6)],
        *[("factor", value) for value in (0.9, 1001, float("nan"), None)],
        *[("timeout", value) for value in (0, -1, "1", False)],
        *[("then", value) for value in ("", "park", None, 3, [])],
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field} must"):
        FailurePolicy(**{field: value})
    with pytest.raises(ConfigurationError, match=f"^{field} must"):
        load({field: value})


@settings(deadline=None)
@given(policies)
def test_a_policy_comes_back_as_it_was_stored(policy: FailurePolicy) -> None:
    assert load(dump(policy)) == policy
    adapter = TypeAdapter(FailurePolicy)
    assert adapter.validate_json(adapter.dump_json(policy)) == policy


def test_only_what_differs_from_the_defaults_is_stored() -> None:
    assert dump(FailurePolicy()) == {}
    assert dump(FailurePolicy(attempts=None, then="skip")) == {"attempts": None, "then": "skip"}


@pytest.mark.parametrize("source", [None, [], "park_key", {"retries": 3}, {3: 1}])
def test_what_is_no_policy_is_refused(source: object) -> None:
    with pytest.raises(ConfigurationError, match="a failure policy"):
        load(source)


# -- the gate


class Partition(RuleBasedStateMachine):
    """One partition of three keys, the queues of their parked events, and answers that come late.

    Events are numbers that increase; what is done must increase in each key.
    """

    kind: type[KeyGate] = KeyGate

    @initialize()
    def begin(self) -> None:
        self.gate = self.kind()
        self.appended = 0
        self.sent: deque[tuple[str, int]] = deque()
        self.queues: defaultdict[str, list[int]] = defaultdict(list)
        self.answers: dict[str, tuple[int, int | None]] = {}
        self.done: defaultdict[str, list[int]] = defaultdict(list)
        self.failed: set[str] = set()
        self.events: defaultdict[str, list[int]] = defaultdict(list)

    @rule(key=keys, fails=st.booleans())
    def append(self, key: str, fails: bool) -> None:
        self.appended += 1
        self.events[key].append(self.appended)
        if self.gate.state(key) == "open" and not fails:
            self.done[key].append(self.appended)
        else:
            self.failed |= {key} if fails else set()
            self.gate.park(key)
            self.sent.append((key, self.appended))

    @precondition(lambda self: self.sent)
    @rule()
    def write(self) -> None:
        key, event = self.sent.popleft()
        self.queues[key].append(event)
        self.gate.written(key)

    @rule(key=keys)
    def replay(self, key: str) -> None:
        before = self.gate.state(key)
        if before != "open":
            assert self.gate.replay(key) == (before == "parked")

    @rule(key=keys)
    def ask(self, key: str) -> None:
        if self.gate.state(key) == "replaying" and key not in self.answers:
            self.answers[key] = (self.gate.mark(), next(iter(self.queues[key]), None))

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), fails=st.booleans())
    def answer(self, data: st.DataObject, fails: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.answers)))
        mark, event = self.answers.pop(key)
        if event is None:
            self.gate.drained(key, mark)
        elif event in self.queues[key]:
            self.settle(key, event, fails)

    def settle(self, key: str, event: int, fails: bool) -> None:
        if fails:
            self.gate.parked_again(key)
        else:
            self.done[key].append(event)
            self.queues[key].remove(event)

    @rule(key=keys)
    def discard(self, key: str) -> None:
        """An operator discards the queue on another node: nobody here knows."""
        for event in self.queues[key]:
            self.events[key].remove(event)
        self.queues[key].clear()

    @rule()
    def crash(self) -> None:
        """The next owner knows what is stored; what was on its way comes again, because it was not settled."""
        again, self.sent = self.sent, deque()
        self.answers.clear()
        self.gate = self.kind(key for key, queue in self.queues.items() if queue)
        for key, event in again:
            if self.gate.state(key) == "open":
                self.done[key].append(event)
            else:
                self.gate.park(key)
                self.sent.append((key, event))

    @invariant()
    def no_event_of_a_key_overtakes_another(self) -> None:
        for key in KEYS:
            done = self.done[key]
            assert done == sorted(set(done)), f"{key} was done in the order {done}"
            assert not (queued := self.queues[key]) or not done or done[-1] < min(queued)

    @invariant()
    def a_key_is_closed_while_its_queue_holds_events_and_no_other_key_is(self) -> None:
        for key in KEYS:
            on_their_way = [event for each, event in self.sent if each == key]
            if self.queues[key] or on_their_way:
                assert self.gate.state(key) != "open"
            if key not in self.failed:
                assert self.gate.state(key) == "open"
                assert self.done[key] == self.events[key]

    def teardown(self) -> None:
        while self.sent:
            self.write()
        for key in KEYS:
            self.gate.replay(key)
            while self.queues[key]:
                self.settle(key, self.queues[key][0], fails=False)
            assert self.gate.drained(key, self.gate.mark())
            assert self.gate.state(key) == "open"
            assert self.done[key] == self.events[key]
        assert len(self.gate) == 0


TestPartition = Partition.TestCase
TestPartition.settings = HUNTED


class OpensWithEventsOnTheirWay(KeyGate):
    __slots__ = ()

    def drained(self, key: Any, mark: int) -> bool:
        if (closed := self._keys.get(key)) is not None:
            closed.pending = 0
        return super().drained(key, mark)


class BelievesAnOldAnswer(KeyGate):
    __slots__ = ()

    def drained(self, key: Any, mark: int) -> bool:
        return super().drained(key, self.mark())


class LetsNewEventsPassAReplay(KeyGate):
    __slots__ = ()

    def state(self, key: Any) -> KeyState:
        return "open" if super().state(key) == "replaying" else super().state(key)


class ParksTheEventAlone(KeyGate):
    __slots__ = ()

    def park(self, key: Any) -> None:
        if key in self._keys:
            super().park(key)

    def written(self, key: Any, count: int = 1) -> None:
        if key in self._keys:
            super().written(key, count)


class ClosesAllKeys(KeyGate):
    __slots__ = ()

    def state(self, key: Any) -> KeyState:
        return "parked" if self._keys else "open"


class OpensAfterOneEvent(KeyGate):
    __slots__ = ()

    def written(self, key: Any, count: int = 1) -> None:
        super().written(key, count)
        if self.state(key) == "replaying":
            del self._keys[key]


class ForgetsWhatWasParkedBefore(KeyGate):
    __slots__ = ()

    def __init__(self, parked: Any = ()) -> None:
        super().__init__()


@pytest.mark.parametrize(
    "planted",
    [LetsNewEventsPassAReplay, ParksTheEventAlone, ClosesAllKeys, OpensAfterOneEvent, ForgetsWhatWasParkedBefore],
    ids=lambda kind: kind.__name__,
)
def test_a_planted_bug_is_caught(planted: type[KeyGate]) -> None:
    with pytest.raises((AssertionError, NotReplaying, NotPending)):
        run(seed(1)(type("Planted", (Partition,), {"kind": planted})), settings=PLANTED)


STEPS: dict[str, Any] = {
    "append": lambda one: one.append("a", False),
    "fail": lambda one: one.append("a", True),
    "write": lambda one: one.write(),
    "replay": lambda one: one.replay("a"),
    "ask": lambda one: one.ask("a"),
    "answer": lambda one: one.answer(SimpleNamespace(draw=lambda _: "a"), False),
}
RARE = {
    OpensWithEventsOnTheirWay: "fail replay ask answer",
    BelievesAnOldAnswer: "fail write replay ask answer ask append write answer",
}
"""With the history it takes: drawn by chance, thousands may hold none."""


def play(kind: type[KeyGate], history: str) -> None:
    one = type("Played", (Partition,), {"kind": kind})()
    one.begin()
    for step in history.split():
        STEPS[step](one)
        one.no_event_of_a_key_overtakes_another()
        one.a_key_is_closed_while_its_queue_holds_events_and_no_other_key_is()
    one.teardown()


@pytest.mark.parametrize(("planted", "history"), RARE.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_rare_bug_is_caught_in_the_history_it_takes(planted: type[KeyGate], history: str) -> None:
    play(KeyGate, history)
    with pytest.raises(AssertionError):
        play(planted, history)


def test_a_parked_key_is_closed_and_the_others_are_open() -> None:
    gate = KeyGate(["a"])
    gate.park("b")
    assert [gate.state(key) for key in KEYS] == ["parked", "parked", "open"]
    assert len(gate) == 2


def test_new_events_queue_behind_a_replay_until_it_is_drained() -> None:
    gate = KeyGate(["a"])
    assert gate.replay("a")
    assert gate.state("a") == "replaying"
    gate.park("a")
    assert not gate.drained("a", gate.mark())
    gate.written("a")
    assert gate.drained("a", gate.mark())
    assert gate.state("a") == "open"


def test_an_answer_from_before_an_event_was_queued_does_not_open_the_key() -> None:
    gate = KeyGate(["a"])
    gate.replay("a")
    mark = gate.mark()
    gate.park("a")
    gate.written("a")
    assert not gate.drained("a", mark)
    assert gate.drained("a", gate.mark())


def test_an_event_that_fails_again_parks_its_key_again() -> None:
    gate = KeyGate(["a"])
    gate.replay("a")
    gate.parked_again("a")
    assert gate.state("a") == "parked"
    assert gate.replay("a")


def test_a_key_under_replay_is_not_replayed_twice() -> None:
    gate = KeyGate(["a"])
    assert (gate.replay("a"), gate.replay("a")) == (True, False)


def test_an_open_key_is_closed_while_events_set_aside_alone_are_replayed() -> None:
    gate = KeyGate()
    assert gate.replay("a")
    assert gate.state("a") == "replaying"
    assert gate.drained("a", gate.mark())
    assert gate.state("a") == "open"


def test_a_parked_key_whose_queue_was_discarded_opens() -> None:
    gate = KeyGate(["a"])
    assert gate.drained("a", gate.mark())
    assert gate.drained("never parked", gate.mark())
    assert len(gate) == 0


def test_what_does_not_fit_the_state_of_a_key_is_refused_by_name() -> None:
    gate = KeyGate(["a"])
    with pytest.raises(NotPending, match="park"):
        gate.written("a")
    with pytest.raises(NotPending):
        gate.written("b")
    for key in ("a", "b"):
        with pytest.raises(NotReplaying, match="replay"):
            gate.parked_again(key)
