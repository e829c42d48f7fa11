"""The page says what the results say, and nothing that is missing or was skipped counts as held."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import report, soak
from tests.faults.__main__ import REPORT, RESULTS, chosen
from tests.faults.figures import note
from tests.faults.report import PROMISES, SOAK_ROW, render
from tests.faults.resources import Measure
from tests.faults.rows import ROWS, Row
from tests.faults.running import ROOT, Result, keep, kept, run_row, told
from tests.faults.soaking import result_of

RESULT = Result(
    2, "2026-01-01T00:00+00:00", "abc", 7, "python …", 90.0, 1, [], [], [{"test": "t", "seed": 7, "took_s": 1.5}]
)


def test_the_page_is_what_the_stored_results_say() -> None:
    assert REPORT.read_text() == render(kept(RESULTS))


def test_every_promise_has_a_row_and_rows_are_numbered_without_gaps() -> None:
    assert [row.number for row in (*ROWS, SOAK_ROW)] == list(range(1, 30))
    assert {name for name, _ in PROMISES} == {name for row in ROWS for name in row.promises.split()}


def test_every_row_names_tests_that_exist() -> None:
    wanted = sorted({test for row in (*ROWS, SOAK_ROW) for test in (*row.tests, *row.caught_by)})
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", *wanted],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_control_names_its_tests_and_is_run_with_its_row() -> None:
    for row in (*ROWS, SOAK_ROW):
        assert bool(row.control) == bool(row.caught_by), row.number
        for test in row.caught_by if row.tests else ():
            assert any(f"{test}::".startswith((f"{one}::", f"{one}/")) for one in row.tests), test


def test_a_row_without_a_control_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is none for" not in render({})
    monkeypatch.setattr(report, "ROWS", (replace(ROWS[0], control=""), *ROWS[1:]))
    assert "\nThere is none for: 1.\n" in render({})
    monkeypatch.undo()
    assert "| 1 | a cursor without a horizon | `test_the_same_hunt_catches" in render({})


def test_a_row_that_held_is_shown_with_its_figures_seed_and_minutes() -> None:
    text = render({2: RESULT})
    assert "1 of 29 rows held" in text
    assert "| held; took 1.5 s | 7 | 1.5 | 2026-01-01 abc |" in text
    assert "Row 2," not in text
    assert "Row 2 was" not in text
    assert "- Row 3 was not run." in text


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (replace(RESULT, failed=["test_x: it broke"]), "- Row 2, failed: test_x: it broke"),
        (replace(RESULT, skipped=["test_x: no pgbouncer"]), "- Row 2, skipped: test_x: no pgbouncer"),
        (replace(RESULT, passed=0), "- Row 2, nothing was run"),
    ],
)
def test_what_failed_was_skipped_or_did_not_run_is_a_miss(wrong: Result, shown: str) -> None:
    text = render({2: wrong})
    assert "0 of 29 rows held" in text
    assert "| **missed**" in text
    assert shown in text


PLANTED = """
import pytest
from tests.faults.figures import note

def test_holds():
    note(repeats=3)

def test_fails():
    assert 1 == 2

@pytest.mark.skip(reason="there is no network")
def test_is_skipped(): ...
"""


def test_a_run_tells_what_passed_failed_and_was_skipped_and_why(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    result = run_row(Row(1, "P1", "", "", (str(tmp_path / "test_planted.py"),), 1), 42, tmp_path)
    assert not result.held
    assert (result.passed, result.failed) == (1, ["test_fails: assert 1 == 2"])
    assert result.skipped == ["test_is_skipped: there is no network"]
    assert [(one["repeats"], one["seed"]) for one in result.figures] == [(3, 42)]


def test_a_command_that_fails_is_a_miss(tmp_path: Path) -> None:
    row = Row(23, "P5", "", "", (), 1, ("-c", "import sys; sys.exit({seed})"))
    assert run_row(row, 0, tmp_path).held
    assert run_row(row, 3, tmp_path).failed == ["the process ended with 3"]


def test_the_latest_result_of_a_row_is_kept(tmp_path: Path) -> None:
    for result in (RESULT, replace(RESULT, row=1), replace(RESULT, seed=8)):
        keep(tmp_path / "results.json", result)
    assert {number: one.seed for number, one in kept(tmp_path / "results.json").items()} == {1: 7, 2: 8}


def test_figures_are_told_to_whom_asks_for_them_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTS_RESULTS", raising=False)
    note(lost=1)
    monkeypatch.setenv("FAULTS_RESULTS", str(tmp_path / "figures"))
    note(lost=2)
    (one,) = told(tmp_path / "figures")
    assert (one["lost"], one["test"].split("::")[1]) == (
        2,
        "test_figures_are_told_to_whom_asks_for_them_alone",
    )


def test_an_anomaly_or_a_resource_that_grows_makes_a_soak_a_miss() -> None:
    sound = soak.Result(7, 60.0, events={"stored": 10}, faults={"crash": soak.Fault(times=3)})
    row = result_of(sound, "2026-01-01T00:00+00:00", "python …")
    assert (row.held, row.figures[0]["faults"], row.figures[0]["events"]) == (True, 3, 10)
    lost = replace(sound, anomalies={"lost_write": ["an event"]}, counts={"lost_write": 2})
    leaking = replace(sound, resources={"node": {"fds": Measure(10, 20, 30, 60.0, flat=False)}})
    for wrong, why in ((lost, "lost_write, 2 times: an event"), (leaking, "fds of node grew from 20 to 30")):
        assert result_of(wrong, "2026-01-01T00:00+00:00", "python …").failed == [why]


def test_a_row_that_does_not_exist_is_refused() -> None:
    assert [row.number for row in chosen("7,5")] == [5, 7]
    with pytest.raises(SystemExit, match="no row 99"):
        chosen("99")
