"""Replicas in virtual time keep what the tracker promises, whatever the network does; and the checks notice bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Part, Presence
from eventstore.tracker.listing import Changes, Diff
from eventstore.tracker.protocol import Message, Outcome, Protocol
from eventstore.tracker.state import State
from tests.faults.figures import tally as tally
from tests.hunt.racing import times
from tests.tracker.simulation import CHAOS, Faulty, Simulation, run

ROOT = Path(__file__).parents[2]
SEEDS = range(1, times(30, 1000) + 1)


@pytest.mark.hunt
@pytest.mark.parametrize("tenth", range(10))
def test_any_history_is_safe_and_ends_in_agreement(tenth: int, tally: Counter[str]) -> None:
    for seed in SEEDS[tenth::10]:
        run(seed)
        tally["simulated_histories"] += 1


def test_one_seed_is_one_history() -> None:
    first, again, other = (run(seed, trace=True).trace for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize("hashing", ["1", "2"])
def test_one_seed_is_one_history_in_every_process(hashing: str) -> None:
    program = "from tests.tracker.simulation import run; print('\\n'.join(run(7, trace=True).trace))"
    environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == "\n".join(run(7, trace=True).trace or ()).splitlines()


def test_histories_hold_all_that_can_happen() -> None:
    """Or the checks would hold of nothing."""
    played = [run(seed, trace=True) for seed in range(1, 21)]
    lines = [line.split()[1] for simulation in played for line in simulation.trace or ()]
    for what in ("join", "update", "leave", "end", "permdown", "pause", "cut", "calm", "told", "deliver"):
        assert lines.count(what) >= 10, what
    assert all(sum(one.counts[name] for one in played) > 100 for name in played[0].counts)


def test_a_failure_names_its_seed() -> None:
    with pytest.raises(Faulty, match="seed 3, "):
        run(3, Deaf)


# -- planted bugs: protocols, and states for `over`


class Deaf(Protocol):
    """Never asks for what it missed."""

    def _request(self, outcome: Outcome) -> None:
        self._clocks = {}


class Mute(Protocol):
    """Never answers who asks."""

    def receive(self, message: Message, now: float) -> Outcome:
        return Outcome() if message[0] == "transfer_req" else super().receive(message, now)


class Callous(Protocol):
    """Forgets a node that says it ends, in whichever life."""

    def receive(self, message: Message, now: float) -> Outcome:
        if message[0] == "permdown" and (peer := self._peers.get(message[1][0])) is not None:
            message = ("permdown", list(peer.replica))
        return super().receive(message, now)


class Forgetful(Protocol):
    """Does not remember who is gone."""

    def receive(self, message: Message, now: float) -> Outcome:
        self._gone.clear()
        return super().receive(message, now)


class Unforgiving(Protocol):
    """Never again listens to a vsn that was replaced, though its messages may have been overtaken."""

    def receive(self, message: Message, now: float) -> Outcome:
        outcome = super().receive(message, now)
        self._gone = dict.fromkeys(self._gone, now + 1000)
        return outcome


class Resentful(Protocol):
    """Never again listens to who was silent for too long."""

    def _detect(self, now: float, outcome: Outcome) -> None:
        before = {peer.replica for peer in self._peers.values()}
        super()._detect(now, outcome)
        self._gone.update(dict.fromkeys(before - {peer.replica for peer in self._peers.values()}, now + 1000))


class Patient(Protocol):
    """Notices no silence."""

    def _detect(self, now: float, outcome: Outcome) -> None:
        pass


class Restless(Protocol):
    """Believes that others have seen more, for ever."""

    def _request(self, outcome: Outcome) -> None:
        for peer in self._clocks:
            self._clocks[peer] = {self.replica: 1 << 40, peer: 1 << 40}
        super()._request(outcome)


class Keeping(State):
    """Merges joins, not leaves."""

    def _merge(self, replica: Replica, part: Part, changes: Changes) -> None:
        values = self._values[replica]
        kept = {dot: values[dot] for dot in values.keys() - part.values.keys()}
        super()._merge(replica, Part(part.covered, {**part.values, **kept}), changes)


class Dropping(State):
    """Throws away what a replica that is down had, but not that it has seen it."""

    def replica_down(self, replica: Replica) -> Diff:
        diff = super().replica_down(replica)
        self._listing.forget(replica, self._values[replica].values())
        self._values[replica] = {}
        self._listing.down.add(replica)
        return diff


class Halving(State):
    """Reports only the join of an update."""

    def update(self, *arguments: Any) -> Diff:
        return super().update(*arguments)._replace(leaves=())


class Whispering(State):
    """Reports no joins of who is up again."""

    def replica_up(self, replica: Replica) -> Diff:
        super().replica_up(replica)
        return Diff()


class Stepping(State):
    """Updates in two steps, of which the first can be seen alone."""

    def update(self, owner: Any, topic: str, key: Any, meta: Any) -> Diff:
        self.leave(owner, topic, key)
        return self.join(owner, topic, key, meta)


class Relisting(State):
    """Takes every join for a new one."""

    def _knows(self, replica: Replica, dot: int) -> bool:
        return dot in self._values[replica]


class Doubling(State):
    """Lists older presences of an element, too."""

    def _add(self, presence: Presence, changes: Changes) -> None:
        super()._add(presence, changes)
        hidden = self._listing._older.get((presence.tag.replica, presence.owner, presence.topic, presence.key), {})
        if presence.tag.clock not in hidden:
            for older in hidden.values():
                self._listing._show(older, changes)


class Forging(State):
    """Lets presences of others change on their way."""

    def _add(self, presence: Presence, changes: Changes) -> None:
        if presence.tag.replica != self.replica and presence.tag.clock % 16 == 0:
            presence = presence._replace(meta={**presence.meta, "n": 0})
        super()._add(presence, changes)


def over(kind: type[State]) -> type[Protocol]:
    """A protocol over a state with a bug."""

    def start(self: Protocol, *arguments: Any) -> None:
        Protocol.__init__(self, *arguments)
        self.state = kind(self.state.replica)

    return type(kind.__name__, (Protocol,), {"__init__": start})


def hunt(kind: type[Protocol], noticed: str) -> None:
    """Play histories until one is faulty as expected: a bug may show in several ways."""
    for seed in range(1, 301):
        try:
            run(seed, kind)
        except Faulty as found:
            if noticed in str(found):
                raise


@pytest.mark.parametrize(
    ("kind", "noticed"),
    [
        (Deaf, "still misses"),
        (Mute, "still misses"),
        (Callous, "still misses"),
        (Forgetful, "lists again"),
        (Unforgiving, "still misses"),
        (Resentful, "still misses"),
        (Patient, "in vain"),
        (Restless, "asked for although nothing is missing"),
        (over(Keeping), "in vain"),
        (over(Dropping), "still misses"),
        (over(Halving), "one leave and one join"),
        (over(Whispering), "add up to"),
        (over(Stepping), "one leave and one join"),
        (over(Relisting), "lists again"),
        (over(Doubling), "lists two presences"),
        (over(Forging), "never made"),
    ],
)
def test_a_planted_bug_is_noticed(kind: type[Protocol], noticed: str) -> None:
    with pytest.raises(Faulty, match=noticed):
        hunt(kind, noticed)


def test_a_silence_longer_than_permdown_period_fits_into_the_chaos() -> None:
    assert all(Simulation(seed).options.permdown_period * 1.2 < CHAOS for seed in SEEDS)
