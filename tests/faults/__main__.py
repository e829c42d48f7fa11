"""``python -m tests.faults``: run rows of the test plan and the soak; write docs/reliability.md of what came out."""

from __future__ import annotations

import argparse
import random
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.faults.report import write
from tests.faults.rows import ROWS, Row
from tests.faults.running import ROOT, Result, keep, kept, run_row
from tests.faults.soaking import run_soak

RESULTS = ROOT / "docs" / "reliability.json"
REPORT = ROOT / "docs" / "reliability.md"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 if all that ran held."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # also in the background: servers and nodes are not left behind
        signal.signal(ending, signal.default_int_handler)
    options = _parser().parse_args(arguments)
    if options.do == "report":
        write(kept(options.results), REPORT)
        return 0
    seed = options.seed or random.randrange(1, 1 << 32)
    logs = options.logs or Path(mkdtemp(prefix="reliability-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; what the processes say is in {logs}", flush=True)
    if options.do == "soak":
        return _told(options.results, run_soak(options.minutes, seed, logs, options.only))
    return max(_one(row, options.results, seed, logs) for row in chosen(options.only))


def chosen(only: str) -> list[Row]:
    """The rows of a list of numbers such as ``5,7``; all if it is empty."""
    numbers = {int(number) for number in only.split(",") if number}
    if unknown := numbers - {row.number for row in ROWS}:
        raise SystemExit(f"there is no row {', '.join(map(str, sorted(unknown)))}")
    return [row for row in ROWS if not numbers or row.number in numbers]


def _one(row: Row, results: Path, seed: int, logs: Path) -> int:
    print(f"row {row.number}, about {row.minutes:g} minutes: {row.done}", flush=True)
    return _told(results, run_row(row, seed, logs))


def _told(results: Path, result: Result) -> int:
    keep(results, result)
    print(f"row {result.row} {'held' if result.held else 'MISSED'} in {result.seconds:.0f} s", flush=True)
    for problem in (*result.failed, *result.skipped):
        print(f"  {problem}", flush=True)
    return 0 if result.held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--logs", type=Path, help="a directory for what processes say")
    commands = parser.add_subparsers(dest="do", required=True)
    rows = commands.add_parser("rows", help="run rows at full length")
    rows.add_argument("--only", default="", metavar="5,7", help="these rows")
    soak = commands.add_parser("soak", help="run every fault at once")
    soak.add_argument("--minutes", type=float, default=30.0)
    soak.add_argument("--only", default="", metavar="NAMES", help="these faults")
    for command in (rows, soak):
        command.add_argument("--seed", type=int, help="to repeat a run; drawn otherwise")
    commands.add_parser("report", help="write docs/reliability.md from the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
