"""What a run of the demo found, as one JSON object or in words."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from eventstore.demo.checker import Verdict
from eventstore.demo.plan import Planned
from eventstore.demo.run import Outcome
from eventstore.demo.source import Source

__all__ = ["as_json", "judgement", "table", "what_next"]

HEADINGS = (
    ("", "subscription"),
    ("", "emitters"),
    ("", "delivered"),
    ("", "expected"),
    ("order", "violations"),
    ("", "duplicates"),
    ("median", "ms"),
    ("p99", "ms"),
    ("", ""),
)


def as_json(outcome: Outcome, events: int, import_seconds: float, schema: str) -> dict[str, Any]:
    """Return everything as one row."""
    return {
        "ok": outcome.ok,
        "complete": outcome.complete,
        "schema": schema,
        "events": events,
        "live_events": outcome.live,
        "import_seconds": round(import_seconds, 3),
        "replay_seconds": round(outcome.replay_seconds, 3),
        "live_seconds": round(outcome.live_seconds, 3),
        "subscriptions": [_row(planned, verdict) for planned, verdict in outcome.verdicts],
    }


def _row(planned: Planned, verdict: Verdict) -> dict[str, Any]:
    return {
        "subscription": planned.name,
        "selector": planned.shown,
        "pool_size": planned.pool_size,
        "delivered": verdict.delivered,
        "expected": verdict.expected,
        "missing": verdict.missing,
        "unexpected": verdict.unexpected,
        "altered": verdict.altered,
        "order_violations": verdict.order_violations,
        "duplicates": verdict.duplicates,
        "latency_ms": {"median": _rounded(verdict.median), "p99": _rounded(verdict.p99)},
        "ok": verdict.ok,
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)


def table(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of a table; the selectors, which may be long, stand on lines of their own."""
    rows = [_cells(planned, verdict) for planned, verdict in outcome.verdicts]
    columns = zip(*zip(*HEADINGS, strict=True), *rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    for line in (0, 1):
        yield _aligned([heading[line] for heading in HEADINGS], widths)
    yield "─" * (sum(widths) + len(widths) - 1)
    for (planned, _), row in zip(outcome.verdicts, rows, strict=True):
        yield _aligned(row, widths)
        yield f"  {planned.shown}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, remark = row
    aligned = (number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True))
    return " ".join((first.ljust(widths[0]), *aligned, remark)).rstrip()


def _cells(planned: Planned, verdict: Verdict) -> tuple[str, ...]:
    numbers = (planned.pool_size, verdict.delivered, verdict.expected, verdict.order_violations, verdict.duplicates)
    times = ("–" if time is None else f"{time:.1f}" for time in (verdict.median, verdict.p99))
    problems = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in verdict.problems.items())
    return planned.name, *(f"{number:,}" for number in numbers), *times, f"WRONG: {problems}" if problems else "ok"


def judgement(outcome: Outcome, patience: float) -> str:
    """Return what it all amounts to, in a sentence."""
    if not outcome.complete:
        return f"FAILED: not everything was delivered within {patience:g} s; the table shows what was."
    if not outcome.ok:
        return "FAILED: what was delivered differs from what plain Python counts."
    return (
        "Every subscription got exactly the events that plain Python counts: each once, each stream in order.\n"
        "Times are live latency, from the call of append() to the first line of the handler."
    )


def what_next(source: Source, options: Sequence[str]) -> Iterator[str]:
    """Yield commands to go on with; *options* lead to the demo's log."""
    first = source.history[0]
    program = _program()
    there = shlex.join(options)
    yield "Try next:"
    yield f"  {program} read {shlex.quote(first.stream)} {there}"
    yield f"  {program} read --type {shlex.quote(first.event.type)} --limit 5 --json {there}"
    yield f"  {program} subscription list {there}"
    yield f"  {program} tail {there}"
    yield f"  {program} dashboard {there}  # with the extra dashboard: pip install '.[dashboard]'"
    yield f"  {program} export demo.ndjson.gz {there}"


def _program() -> str:
    """Return what runs this program again when it is pasted into the same shell."""
    called = sys.argv[0]
    name = os.path.basename(called)
    if name == "__main__.py":
        return shlex.join([sys.executable, "-m", "eventstore.cli"])
    if os.path.splitext(name)[0] != "eventstore":  # another program calls the command line
        return "eventstore"
    found = shutil.which(name)
    return name if found is not None and os.path.realpath(found) == os.path.realpath(called) else shlex.quote(called)
