"""What the soak does beside the checker: it draws faults, moves clocks, and judges what grows."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.nemeses import NEMESES
from tests.faults.resources import ENOUGH, judged
from tests.faults.soak import rounds, soak
from tests.hunt.delivering import ROOT


@pytest.mark.parametrize(
    ("sample", "flat"),
    [(lambda n: 100 + n % 3, True), (lambda n: 100 + n / 2, False), (lambda n: 200 if n < 20 else 100, True)],
    ids=["steady", "grows", "warms up"],
)
def test_what_grows_after_the_warm_up_is_not_flat(sample: Callable[[int], float], flat: bool) -> None:
    samples = [(5.0 * n, float(sample(n))) for n in range(ENOUGH)]
    assert judged(samples, 2.0).flat is flat
    assert judged(samples[1:], 2.0).flat is None


def test_a_seed_draws_every_fault_once_and_then_the_same_ones_again() -> None:
    names = list(NEMESES)
    one, two = (list(islice(rounds(random.Random(7), names), 50)) for _ in range(2))
    assert one == two
    assert sorted(name for (name,) in one[: len(names)]) == sorted(names)


async def test_a_fault_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="earthquake"):
        await soak(1, 1, tmp_path, ["cut", "earthquake"])


MOVED = """
import sys
import tests.hunt.journal as journal
from tests.faults.clocks import mend_datetimes, set_clock
set_clock(sys.argv[1])
from eventstore import NewEvent
mend_datetimes()
made = [NewEvent("T") for _ in range(2)]
print(made[0].created_at.timestamp() - journal.now(), made[0].id < made[1].id)
"""


@pytest.mark.parametrize(("clock", "off"), [("", 0), ("ahead", 3600), ("behind", -3600), ("backwards", 0)])
def test_a_clock_is_wrong_for_events_and_right_for_journals(clock: str, off: float) -> None:
    told = subprocess.check_output([sys.executable, "-c", MOVED, clock], text=True, cwd=ROOT).split()
    assert abs(float(told[0]) - off) < 60
    assert told[1] == "True"
