"""How far a partition is settled, against a model that looks at every position."""

from __future__ import annotations

import ast
from math import inf
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from eventstore.subscriptions import progress as room
from eventstore.subscriptions.progress import NotInFlight, NotSettled, OutOfOrder, Progress
from tests.hunt.racing import times

HUNTED = settings(max_examples=times(60, 10_000), stateful_step_count=40, deadline=None)
PLANTED = settings(HUNTED, max_examples=2000, database=None, phases=[Phase.generate], report_multiple_bugs=False)
steps = st.integers(1, 3)


class Partition(RuleBasedStateMachine):
    """One partition whose positions are looked at one by one."""

    kind: type[Progress] = Progress

    @initialize(checkpoint=st.integers(0, 5))
    def begin(self, checkpoint: int) -> None:
        self.progress = self.kind(checkpoint)
        self.start_after(checkpoint)
        self.asked: int | None = None

    def start_after(self, checkpoint: int) -> None:
        self.base = self.checkpoint = self.read = self.highest = checkpoint
        self.taken: set[int] = set()
        self.acked: set[int] = set()

    @property
    def unacked(self) -> list[int]:
        return sorted(self.taken - self.acked)

    @property
    def settled(self) -> int:
        """The model: one position after the other, until one is taken and not acknowledged."""
        at = self.base
        while at < self.read and (at + 1 not in self.taken or at + 1 in self.acked):
            at += 1
        return at

    @rule(gaps=st.lists(steps, max_size=4))
    def take(self, gaps: list[int]) -> None:
        positions = [self.read + sum(gaps[: n + 1]) for n in range(len(gaps))]
        self.progress.took(positions)
        self.taken.update(positions)
        self.read = max([self.read, *positions])

    @precondition(lambda self: self.unacked)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(self.unacked))
        assert self.progress.ack(position)
        self.acked.add(position)

    @precondition(lambda self: self.acked)
    @rule(data=st.data())
    def ack_once_more(self, data: st.DataObject) -> None:
        assert not self.progress.ack(data.draw(st.sampled_from(sorted(self.acked))))

    @rule(beyond=steps)
    def ack_what_was_not_taken(self, beyond: int) -> None:
        with pytest.raises(NotInFlight):
            self.progress.ack(self.read + beyond)

    @rule(beyond=st.integers(-3, 5))
    def scan(self, beyond: int) -> None:
        self.progress.scanned(self.read + beyond)
        self.read = max(self.read, self.read + beyond)

    @rule()
    def ask(self) -> None:
        self.asked = self.progress.settled
        assert self.asked == self.settled

    @precondition(lambda self: self.asked is not None)
    @rule()
    def store(self) -> None:
        assert self.asked is not None
        self.progress.stored(self.asked, 0)
        self.checkpoint = max(self.checkpoint, self.asked)
        self.read = max(self.read, self.checkpoint)
        self.asked = None

    @rule()
    def lose_the_connection(self) -> None:
        self.asked = None
        self.read = max([self.checkpoint, *self.taken])
        self.highest = min(self.highest, self.settled)
        assert self.progress.reread() == self.read

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        checkpoint = data.draw(st.integers(0, self.read))
        self.progress.rewound(checkpoint)
        self.start_after(checkpoint)
        self.asked = None

    @rule()
    def finish(self) -> None:
        for position in self.unacked:
            self.progress.ack(position)
            self.acked.add(position)
        assert self.progress.settled == self.read

    @invariant()
    def it_agrees_with_the_model(self) -> None:
        assert self.progress.settled == self.settled
        assert all(self.progress.settled < position for position in self.unacked)
        assert self.progress.settled >= self.highest
        self.highest = self.progress.settled

    @invariant()
    def it_counts_what_a_crash_costs(self) -> None:
        assert self.progress.checkpoint == self.checkpoint
        assert self.progress.in_flight == len(self.unacked)
        assert self.progress.unstored == sum(position > self.checkpoint for position in self.taken)
        assert self.progress.held == sum(position >= min(self.unacked, default=inf) for position in self.taken)


TestPartition = Partition.TestCase
TestPartition.settings = HUNTED


class TakesTheHighest(Progress):
    """The low-water mark is the highest acknowledged."""

    __slots__ = ()

    @property
    def settled(self) -> int:
        return max([super().settled, *self._acked])


class CountsAcks(Progress):
    """One acknowledgement out of order settles the lowest event in flight."""

    __slots__ = ()

    @property
    def settled(self) -> int:
        return self._waiting[len(self._acked)] - 1 if self._waiting else self._read


class JumpsOverInFlight(Progress):
    __slots__ = ("jumped",)

    def rewound(self, checkpoint: int, now: float = -inf) -> None:
        super().rewound(checkpoint, now)
        self.jumped = checkpoint

    def scanned(self, position: int) -> None:
        super().scanned(position)
        self.jumped = max(self.jumped, position)

    @property
    def settled(self) -> int:
        return max(super().settled, self.jumped)


class SettlesTheLowestInFlight(Progress):
    __slots__ = ()

    @property
    def settled(self) -> int:
        return self._waiting[0] if self._waiting else self._read


class NeverScans(Progress):
    __slots__ = ()

    def scanned(self, position: int) -> None:
        pass


class TrustsWhatItLookedAt(Progress):
    __slots__ = ()

    def reread(self) -> int:
        return self._read


class KeepsWhatIsInFlightOverARewind(Progress):
    __slots__ = ()

    def rewound(self, checkpoint: int, now: float = -inf) -> None:
        before = getattr(self, "_flying", set[int]())
        super().rewound(checkpoint, now)
        self._flying = before


class StoresBackwards(Progress):
    __slots__ = ()

    def stored(self, position: int, now: float) -> None:
        super().stored(position, now)
        self.checkpoint = position - 1


PLANTS = [
    TakesTheHighest,
    CountsAcks,
    JumpsOverInFlight,
    SettlesTheLowestInFlight,
    NeverScans,
    TrustsWhatItLookedAt,
    KeepsWhatIsInFlightOverARewind,
    StoresBackwards,
]


@pytest.mark.parametrize("planted", PLANTS, ids=lambda kind: kind.__name__)
def test_a_planted_bug_is_caught(planted: type[Progress]) -> None:
    with pytest.raises(AssertionError):
        run(seed(1)(type("Planted", (Partition,), {"kind": planted})), settings=PLANTED)


@settings(deadline=None)
@given(st.permutations(range(1, 9)))
def test_any_order_of_acknowledgements_ends_at_the_end(order: list[int]) -> None:
    progress, acked = Progress(0), set()
    progress.took(range(1, 9))
    for position in order:
        progress.ack(position)
        acked.add(position)
        assert progress.settled == min({*range(1, 10)} - acked) - 1
    assert (progress.settled, progress.in_flight, progress.unstored) == (8, 0, 8)


def test_what_does_not_match_is_settled_up_to_the_lowest_in_flight() -> None:
    progress = Progress(0)
    progress.scanned(10)
    assert progress.settled == 10
    progress.take(20)
    progress.scanned(30)
    assert progress.settled == 19
    progress.ack(20)
    assert progress.settled == 30


@pytest.mark.parametrize("positions", [(10,), (5, 11), (12, 12), (12, 11)])
def test_taking_at_or_below_what_was_read_is_refused_and_takes_nothing(positions: tuple[int, ...]) -> None:
    progress = Progress(0)
    progress.scanned(10)
    with pytest.raises(OutOfOrder, match="increasing"):
        progress.took(positions)
    assert (progress.in_flight, progress.unstored, progress.settled) == (0, 0, 10)


def test_an_acknowledgement_from_before_a_rewind_is_refused() -> None:
    progress = Progress(0)
    progress.took([5, 6])
    progress.rewound(2)
    with pytest.raises(NotInFlight, match="rewound"):
        progress.ack(5)
    assert progress.settled == 2


def test_an_acknowledgement_below_a_checkpoint_that_was_raised_changes_nothing() -> None:
    progress = Progress(0)
    progress.take(5)
    progress.rewound(9)
    assert not progress.ack(5)
    assert progress.settled == 9


def test_a_checkpoint_beyond_what_is_settled_is_refused() -> None:
    progress = Progress(0)
    progress.took([3, 4])
    progress.ack(4)
    with pytest.raises(NotSettled, match="only 2"):
        progress.stored(4, 0)
    assert (progress.checkpoint, progress.unstored) == (0, 2)


def test_an_older_answer_does_not_move_the_checkpoint_back() -> None:
    progress = Progress(0)
    progress.scanned(9)
    progress.stored(9, 1)
    progress.stored(4, 2)
    assert (progress.checkpoint, progress.stored_at) == (9, 1)


def test_what_was_only_looked_at_is_read_again_after_a_lost_connection() -> None:
    progress = Progress(0)
    progress.take(5)
    progress.ack(5)
    progress.scanned(9)
    assert (progress.reread(), progress.settled) == (5, 5)
    progress.take(7)
    assert progress.settled == 6


def test_a_store_that_had_succeeded_counts_although_the_reader_went_back() -> None:
    progress = Progress(0)
    progress.scanned(9)
    due = progress.settled
    progress.reread()
    assert due == 9
    progress.stored(due, 0)
    assert (progress.checkpoint, progress.settled) == (9, 9)


@pytest.mark.parametrize("name", ["progress", "policy"])
def test_the_pure_rooms_know_no_tasks_no_database_no_clock_and_no_dice(name: str) -> None:
    tree = ast.parse((Path(room.__file__).parent / f"{name}.py").read_text())
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not {each.split(".")[0] for each in named} & {"asyncio", "asyncpg", "time", "datetime", "random"}
