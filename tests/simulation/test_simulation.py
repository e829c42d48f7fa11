"""Whatever happens to nodes and the server, the engine keeps what it promises; and the checks notice bugs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hunt.racing import FULL, times
from tests.simulation import playing
from tests.simulation.history import quietly, run
from tests.simulation.planted import PLANTED, Planted
from tests.simulation.playing import many
from tests.simulation.watch import Faulty

ROOT = Path(__file__).parents[2]
SEEDS = range(1, times(60, 10_000) + 1)


@pytest.fixture(autouse=True)
def _quietly():
    with quietly():
        yield


@pytest.mark.hunt
@pytest.mark.parametrize("tenth", range(10))
def test_any_history_is_safe_and_ends_with_everything_handled(tenth: int) -> None:
    for seed in SEEDS[tenth::10]:
        run(seed)


def test_one_seed_is_one_history() -> None:
    first, again, other = (run(seed, trace=True) for seed in (7, 7, 8))
    assert first.trace == again.trace != other.trace
    assert first.hash() == again.hash() != other.hash()


@pytest.mark.parametrize("hashing", ["1", "2"])
def test_one_seed_is_one_history_in_every_process(hashing: str) -> None:
    program = "from tests.simulation.history import run; print(*(run(seed, trace=True).hash() for seed in (5, 7, 26)))"
    environment = {**os.environ, "PYTHONHASHSEED": hashing}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().split() == [run(seed, trace=True).hash() for seed in (5, 7, 26)]


def test_histories_hold_all_that_can_happen() -> None:
    """Or the checks would hold of nothing."""
    text = "\n".join(line[10:] for seed in range(1, 16) for line in run(seed, trace=True).trace or ())
    happens = (
        "crash", "freeze", "thaw", "jump", "drain", "server crash", "lose connections", "roll back",
        "resize_subscription_v1", "pause_subscription_v1", "rewind_subscription_v1", "replay_parked_v1",
        "release_partitions_v1", "leave_node_v1", "failed",
    )  # fmt: skip
    assert [what for what in happens if len(re.findall(rf"^{what}", text, re.M)) < 3] == []


def test_a_failure_names_its_seed() -> None:
    greedy = next(one for one in PLANTED if one.name == "Greedy")
    with pytest.raises(Faulty, match=greedy.said) as found:
        hunt(greedy)
    seed = int(str(found.value).removeprefix("seed ").split(",")[0])
    with pytest.raises(Faulty, match=re.escape(str(found.value))):
        run(seed, greedy.kind)


def hunt(bug: Planted) -> None:
    """Play histories until one is faulty as expected: a bug may show in several ways."""
    with bug.engine():
        for seed in range(1, bug.seeds + 1):
            try:
                run(seed, bug.kind)
            except Faulty as found:
                if re.search(bug.said, str(found)):
                    raise


@pytest.mark.hunt
@pytest.mark.parametrize("bug", [one for one in PLANTED if FULL or not one.rare], ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: Planted) -> None:
    with pytest.raises(Faulty, match=bug.said):
        hunt(bug)


def test_many_histories_are_counted_and_the_faulty_ones_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert many(range(1, 4), 2) == 0
    assert "3 of 3 seeds, 0 faulty" in capsys.readouterr().out
    greedy = next(one for one in PLANTED if one.name == "Greedy")
    monkeypatch.setattr(playing, "run", lambda seed: run(seed, greedy.kind))
    _, said, _ = playing.play(range(1, 11))
    assert re.match(r"seed \d+, after", said[0])
