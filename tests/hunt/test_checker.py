"""Each check catches the bug it is there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.hunt.checker import check, check_deliveries
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


# -- deliveries


def delivered(kind: str, write: Entry, at: float, **fields: Any) -> Entry:
    return replace(write, kind=kind, process="a", subscription="s", epoch=1, at=at, **fields)


CLAIM = Entry("claimed", "a", subscription="s", epoch=1, at=1)
DELIVERIES = [delivered(kind, one, 10.0 * one.position) for one in WRITES for kind in ("begin", "handled")]
STATES = [
    Entry("moved", "database", subscription="s", position=n, epoch=1 if n else 0, pool_size=1, at=10.0 * n + 5)
    for n in range(4)
]
END = Entry("end", "a", at=100)
SOUND = [*WRITES, CLAIM, *DELIVERIES, *STATES, END]


def without(*entries: Entry) -> list[Entry]:
    return [one for one in SOUND if one not in entries]


def by(name: str, epoch: int, entries: list[Entry], later: float = 0.0) -> list[Entry]:
    return [replace(one, process=name, epoch=epoch, at=one.at + later) for one in entries]


def test_sound_deliveries_have_no_anomaly() -> None:
    assert check_deliveries(SOUND, ["s"], window=2) == {}


def test_an_event_that_is_tried_again_is_no_anomaly() -> None:
    again = delivered("begin", WRITES[2], 31, attempt=2)
    assert check_deliveries([*SOUND, again], ["s"], window=2) == {}


def test_a_crash_may_repeat_a_window_and_no_more() -> None:
    crashed = [*without(END), replace(CLAIM, process="b", epoch=2, at=49), *by("b", 2, DELIVERIES[2:], 40)]
    crashed.append(replace(END, process="b"))
    assert check_deliveries(crashed, ["s"], window=2) == {}
    assert check_deliveries(crashed, ["s"], window=1).keys() == {"repeated"}


def test_what_a_halted_process_delivers_late_is_no_anomaly_but_what_another_does_is() -> None:
    both = [*without(END), replace(CLAIM, process="b", epoch=2, at=22), *by("b", 2, DELIVERIES[2:4], 3)]
    late = [one for one in both if one.kind != "moved"]
    assert check_deliveries(late, ["s"], window=2).keys() == {"overlapping"}
    assert check_deliveries([*late, Entry("stop", "a", at=22)], ["s"], window=2) == {}


@pytest.mark.parametrize(
    ("history", "caught"),
    [
        (without(*DELIVERIES[4:], STATES[3]), {"lost"}),
        (without(*DELIVERIES), {"lost", "settled_unhandled"}),
        ([*without(END), *by("a", 1, DELIVERIES[4:], 9), END], {"repeated", "inverted"}),
        ([*SOUND, *by("b", 2, DELIVERIES, 50)], {"repeated"}),
        ([*without(*DELIVERIES[2:4], STATES[2], STATES[3]), *by("a", 1, DELIVERIES[2:4], 40)], {"inverted"}),
        ([*SOUND, replace(STATES[2], at=60)], {"checkpoint_fell"}),
        ([*SOUND, replace(STATES[3], epoch=0, at=60)], {"epoch_fell"}),
        ([*without(STATES[2], STATES[3]), replace(STATES[3], at=25)], {"settled_unhandled"}),
        ([*without(STATES[3]), replace(STATES[2], epoch=2, at=26), replace(STATES[3], epoch=2)], {"settled_unhandled"}),
    ],
    ids=["lost", "settled and never handled", "twice by itself", "twice after a clean end", "out of order",
         "checkpoint falls", "epoch falls", "settled before it is handled", "settled for the owner before"],
)  # fmt: skip
def test_a_planted_delivery_bug_is_caught_by_name(history: list[Entry], caught: set[str]) -> None:
    assert check_deliveries(history, ["s"], window=2).keys() == caught
