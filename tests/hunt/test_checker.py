"""Each check catches the bug it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.hunt.checker import check
from tests.hunt.journal import Entry

WRITES = [Entry("append", "w", id=str(n), position=n, stream="s", version=n) for n in (1, 2, 3)]
READS = [replace(write, kind="read", process="r") for write in WRITES]


def test_a_clean_history_has_no_anomaly() -> None:
    assert check(WRITES + READS) == {}


@pytest.mark.parametrize(
    ("reads", "caught"),
    [
        (READS[:2], {"unseen"}),
        ([READS[0], READS[2], READS[1]], {"nonmonotonic_poll", "version_inversion"}),
        ([*READS, READS[2]], {"duplicate_read", "nonmonotonic_poll", "version_inversion"}),
        ([*READS, replace(READS[2], id="ghost", position=4, version=4)], {"aborted_read"}),
        ([READS[0], replace(READS[1], version=3), replace(READS[2], version=2)], {"version_inversion"}),
        ([*READS[:2], replace(READS[2], position=2, id="?")], {"unseen", "position_conflict", "nonmonotonic_poll"}),
    ],
)
def test_a_planted_anomaly_is_caught_by_name(reads: list[Entry], caught: set[str]) -> None:
    ghost = Entry("append", "w", outcome="fail", id="ghost")
    assert check([*WRITES, ghost, *reads]).keys() == caught
