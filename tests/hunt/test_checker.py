"""Each check catches the bug it is there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.hunt.checker import check, check_all, check_deliveries
from tests.hunt.journal import Entry

WRITES = [Entry("append", "w", id=str(n), position=n, stream="s", version=n, value=n) for n in (1, 2, 3)]
READS = [replace(write, kind="read", process="r") for write in WRITES]
LOG = [replace(write, kind="stored", process="log") for write in WRITES]


def test_a_clean_history_has_no_anomaly() -> None:
    assert check(WRITES + READS) == check(WRITES + READS + LOG) == {}


PASSED = {"skipped_poll", "nonmonotonic_poll", "inverted_order"}


@pytest.mark.parametrize(
    ("reads", "caught"),
    [
        (READS[:2], {"unseen"}),
        ([READS[0], READS[2]], {"unseen", "skipped_poll", "inverted_order"}),
        ([READS[0], READS[2], READS[1]], PASSED),
        ([*READS, READS[2]], {"duplicate", "nonmonotonic_poll", "inverted_order"}),
        ([*READS, replace(READS[2], id="ghost", position=4, version=4)], {"aborted_read"}),
        ([READS[0], replace(READS[1], version=3), replace(READS[2], version=2)],
         {"inverted_order", "position_conflict"}),
        ([*READS[:2], replace(READS[2], position=2, id="?")],
         {"unseen", "position_conflict", "nonmonotonic_poll"}),
    ],
    ids=["unseen", "passed over for good", "came later", "twice", "rolled back", "versions", "position held two"],
)  # fmt: skip
def test_a_planted_anomaly_is_caught_by_name(reads: list[Entry], caught: set[str]) -> None:
    ghost = Entry("append", "w", outcome="fail", id="ghost")
    assert check([*WRITES, ghost, *reads]).keys() == caught


# -- the log in the end

INVOKED = [replace(write, outcome="invoke", position=0, version=0, append="w-1") for write in WRITES]
FAILED = [replace(one, outcome="fail") for one in INVOKED]
UNKNOWN = [replace(one, outcome="unknown") for one in INVOKED]
STRANGE = replace(LOG[0], id="strange", position=4, version=4)


@pytest.mark.parametrize("log", [LOG, [replace(STRANGE, version=1)]], ids=["it happened", "it did not"])
@pytest.mark.parametrize("word", [[], UNKNOWN, UNKNOWN + FAILED], ids=["killed", "no answer", "then refused"])
def test_an_append_of_unknown_outcome_may_be_there_or_not(word: list[Entry], log: list[Entry]) -> None:
    assert check([*INVOKED, *word, *log]) == {}


@pytest.mark.parametrize(
    ("written", "log", "caught"),
    [
        (WRITES, LOG[:2], {"lost_write"}),
        (INVOKED, LOG[:2], {"torn_append"}),
        (INVOKED + FAILED, LOG, {"aborted_read"}),
        (WRITES, [*LOG, replace(LOG[0], position=4, version=4)], {"duplicate", "position_conflict"}),
        (WRITES, [*LOG[:2], replace(LOG[2], position=4)], {"position_conflict"}),
        (WRITES, [replace(LOG[1], position=1, version=1), replace(LOG[0], position=2, version=2), LOG[2]],
         {"position_conflict"}),
        (WRITES, [*LOG[:2], replace(LOG[2], version=4)], {"inverted_order", "position_conflict"}),
    ],
    ids=["acknowledged and gone", "half of it", "refused and there", "stored twice", "elsewhere", "swapped", "a gap"],
)  # fmt: skip
def test_a_planted_anomaly_of_the_log_is_caught_by_name(
    written: list[Entry], log: list[Entry], caught: set[str]
) -> None:
    assert check([*written, *log]).keys() == caught


def test_an_event_that_was_read_and_is_not_in_the_log_was_never_written() -> None:
    assert check([*WRITES[:2], *READS, *LOG[:2]]).keys() == {"aborted_read"}


def follows(*reads: Entry, after: int = 0, begins: str = "", end: int | None = None) -> list[Entry]:
    ended = [] if end is None else [Entry("end", "r", position=end)]
    return [Entry("follow", "r", position=after, stream=begins), *reads, *ended, *LOG]


@pytest.mark.parametrize(
    ("history", "caught"),
    [
        (follows(*READS[1:], after=1, end=3), set()),
        (follows(begins="t", end=3), set()),
        (follows(*READS[:2]), set()),
        (follows(*READS[:2], end=3), {"unseen"}),
        (follows(READS[2], after=1), {"unseen", "skipped_poll"}),
        (follows(READS[1], READS[2], begins="s", end=3), {"unseen", "skipped_poll", "inverted_order"}),
    ],
    ids=["joined late", "wants none", "killed", "left too early", "killed, and had passed over", "of some streams"],
)
def test_readers_are_held_to_what_they_were_to_see(history: list[Entry], caught: set[str]) -> None:
    assert check(history).keys() == caught


@pytest.mark.parametrize(
    ("row", "caught"), [((3, 6, 3), set()), ((4, 6, 3), {"misfolded"}), ((3, 8, 3), {"misfolded"})]
)
def test_a_projection_is_what_the_log_folds_to(row: tuple[int, int, int], caught: set[str]) -> None:
    count, total, last = row
    assert check([*LOG, Entry("folded", "p", stream="s", count=count, value=total, version=last)]).keys() == caught


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
SOUND = [*LOG, CLAIM, *DELIVERIES, *STATES, END]


def without(*entries: Entry) -> list[Entry]:
    return [one for one in SOUND if one not in entries]


def by(name: str, epoch: int, entries: list[Entry], later: float = 0.0) -> list[Entry]:
    return [replace(one, process=name, epoch=epoch, at=one.at + later) for one in entries]


def test_sound_deliveries_have_no_anomaly() -> None:
    assert check_deliveries(SOUND, ["s"], window=2) == check_all([*WRITES, *SOUND], ["s"], window=2) == {}


def test_an_event_that_is_tried_again_is_no_anomaly() -> None:
    again = delivered("begin", WRITES[2], 31, attempt=2)
    assert check_deliveries([*SOUND, again], ["s"], window=2) == {}


def test_a_first_attempt_may_be_made_again_elsewhere_if_it_failed_and_only_then() -> None:
    moved = [*without(*DELIVERIES[5:], STATES[3], END), Entry("released", "a", subscription="s", epoch=1, at=35)]
    moved += [replace(CLAIM, process="b", epoch=2, at=36), replace(STATES[3], epoch=2, at=90)]
    moved += [*by("b", 2, DELIVERIES[4:], 40), replace(END, process="b"), END]
    assert check_deliveries([*moved, delivered("failed", WRITES[2], 31)], ["s"], window=2) == {}
    for kind in ("begin", "handled", "parked"):
        assert "repeated" in check_deliveries([*moved, delivered(kind, WRITES[2], 32, attempt=2)], ["s"], window=2)


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
        (without(*DELIVERIES[4:], STATES[3]), {"unseen"}),
        (without(*DELIVERIES), {"unseen", "settled_unhandled"}),
        ([*SOUND, delivered("begin", replace(WRITES[2], id="ghost", version=4, position=4), 40)], {"aborted_read"}),
        ([*without(END), *by("a", 1, DELIVERIES[4:], 9), END], {"repeated", "inverted_order"}),
        ([*SOUND, *by("b", 2, DELIVERIES, 50)], {"repeated"}),
        ([*without(*DELIVERIES[2:4], STATES[2], STATES[3]), *by("a", 1, DELIVERIES[2:4], 40)], {"inverted_order"}),
        ([*SOUND, replace(STATES[2], at=60)], {"checkpoint_fell"}),
        ([*SOUND, replace(STATES[3], epoch=0, at=60)], {"epoch_fell"}),
        ([*without(STATES[2], STATES[3]), replace(STATES[3], at=25)], {"settled_unhandled"}),
        ([*without(STATES[3]), replace(STATES[2], epoch=2, at=26), replace(STATES[3], epoch=2)], {"stale_write"}),
    ],
    ids=["unseen", "settled and never handled", "not in the log", "twice by itself", "twice after a clean end",
         "out of order", "checkpoint falls", "epoch falls", "settled before it is handled",
         "settled for the owner before"],
)  # fmt: skip
def test_a_planted_delivery_bug_is_caught_by_name(history: list[Entry], caught: set[str]) -> None:
    assert check_deliveries(history, ["s"], window=2).keys() == caught
