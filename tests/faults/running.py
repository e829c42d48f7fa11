"""Runs rows at full length, each in a process of its own, and keeps what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults.rows import Row

__all__ = ["Result", "code", "keep", "kept", "run_row"]

ROOT = Path(__file__).parents[2]

PATIENCE = 4
"""A row may take so many times the minutes that are expected of it, and five more."""


@dataclass(frozen=True)
class Result:
    """What came out of a row.

    Attributes:
        date: of its start, in UTC.
        code: the library that was tested, by git's hash of it, which no other history changes; a plus: it was edited.
        command: repeats it.
        passed: how many tests.
        failed: each test that failed, with the reason.
        skipped: likewise.
        figures: what tests told; see `tests.faults.figures`.
    """

    row: int
    date: str
    code: str
    seed: int
    command: str
    seconds: float
    passed: int
    failed: list[str]
    skipped: list[str]
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Everything was run, and passed."""
        return self.passed > 0 and not self.failed and not self.skipped


def code() -> str:
    """The library as it is checked out."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "eventstore")
    return git("rev-parse", "--short=10", "HEAD:eventstore") + ("+" if changed else "")


def run_row(row: Row, seed: int, logs: Path) -> Result:
    """Run *row* at full length; what its process prints goes to a file in *logs*."""
    with TemporaryDirectory(prefix="row-") as directory:
        report, figures = Path(directory, "report.xml"), Path(directory, "figures.jsonl")
        environment = os.environ | {
            "HUNT": "full", "HUNT_SEED": str(seed), "FAULTS_RESULTS": str(figures), "PYTHONPATH": str(ROOT)
        }  # fmt: skip
        began, started = time.monotonic(), datetime.now(UTC)
        with (logs / f"row-{row.number}.log").open("wb") as log:
            ended = _ended(command_of(row, seed, report), environment, log, 60 * (PATIENCE * row.minutes + 5))
        passed, failed, skipped = (int(ended == "0"), [], []) if row.command else outcomes(report)
        if ended != "0" and not failed:
            failed = [f"the process ended with {ended}"]
        return Result(
            row.number, started.isoformat(timespec="minutes"), code(), seed,
            f"python -m tests.faults rows --only {row.number} --seed {seed}", round(time.monotonic() - began, 1),
            passed, failed, skipped, list(told(figures)),
        )  # fmt: skip


def command_of(row: Row, seed: int, report: Path) -> list[str]:
    """What the process of a row is."""
    if row.command:
        return [sys.executable, *(part.format(seed=seed) for part in row.command)]
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *row.tests]


def _ended(command: list[str], environment: dict[str, str], log: Any, within: float) -> str:
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        return str(process.wait(within))
    except subprocess.TimeoutExpired:
        process.terminate()
        return f"nothing within {within / 60:.0f} minutes"
    finally:
        process.wait(60)


def outcomes(report: Path) -> tuple[int, list[str], list[str]]:
    """How many tests passed, which failed and which were skipped, by pytest's report."""
    failed, skipped, cases = [], [], []
    if report.exists():
        cases = list(xml.parse(report).getroot().iter("testcase"))
    for case in cases:
        for kind, some in ("failure", failed), ("error", failed), ("skipped", skipped):
            some += [f"{case.get('name')}: {_first_line(one)}" for one in case.iter(kind)]
    return sum(len(case) == 0 or not _went_wrong(case) for case in cases), failed, skipped


def _went_wrong(case: xml.Element) -> bool:
    return any(one.tag in ("failure", "error", "skipped") for one in case)


def _first_line(problem: xml.Element) -> str:
    return (problem.get("message") or "").strip().split("\n")[0][:200]


def told(path: Path) -> Iterator[dict[str, Any]]:
    """What tests told with `tests.faults.figures.note`."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


# -- what is kept


def kept(path: Path) -> dict[int, Result]:
    """The latest result of each row, by its number."""
    if not path.exists():
        return {}
    return {one["row"]: Result(**one) for one in json.loads(path.read_text())}


def keep(path: Path, result: Result) -> None:
    """Store *result* in place of an earlier one of its row."""
    results = kept(path) | {result.row: result}
    path.write_text(json.dumps([asdict(results[number]) for number in sorted(results)], indent=1) + "\n")
