"""The table, ratios first, and the facts without which no figure means anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.model import Metric, Outcome
from benchmarks.run import Result

__all__ = ["report"]

_UNITS: dict[Metric, str] = {"rate": "/s", "p50": " ms", "p99": " ms", "errors": ""}
_LABELS: dict[Metric, str] = {"rate": "rate", "p50": "median latency", "p99": "p99 latency", "errors": "errors"}
_MET = {True: "met", False: "MISSED", None: ""}


def report(results: list[Result], facts: dict[str, Any]) -> str:
    """Return everything as text."""
    rows = [row for result in results for row in _rows(result)]
    heads = ("ratio", "interval", "target", "", "work", "what", "ours", "base")
    notes = [f"  {result.work.name}: {note}" for result in results for note in result.notes]
    misses = sum(outcome.met is False for result in results for outcome in result.outcomes)
    targets = sum(outcome.met is not None for result in results for outcome in result.outcomes)
    parts = [
        _table([heads, *rows]),
        "ratio: median over the rounds of ours / base; interval: order statistics of the rounds' ratios that hold the\n"
        "true median with the coverage given in the JSON; ours, base: medians over the rounds. Without a base the\n"
        "interval and the target are about ours.",
        *(["\n".join(["notes", *notes])] if notes else []),
        *_missing(results),
        _facts(facts),
        f"{targets - misses} of {targets} targets met",
    ]
    return "\n\n".join(parts)


def _rows(result: Result) -> Iterable[tuple[str, ...]]:
    for outcome in result.outcomes:
        comparison = outcome.comparison
        unit = _UNITS[comparison.metric]
        yield (
            _value(outcome),
            f"{_figure(outcome.value.low)}–{_figure(outcome.value.high)}"
            if comparison.base is None
            else f"{outcome.value.low:.2f}–{outcome.value.high:.2f}",
            comparison.target,
            _MET[outcome.met],
            result.work.name,
            " / ".join(filter(None, (comparison.ours, comparison.base))) + f", {_LABELS[comparison.metric]}",
            f"{_figure(outcome.ours.median)}{unit}",
            f"{_figure(outcome.base.median)}{unit}" if outcome.base else "",
        )


def _value(outcome: Outcome) -> str:
    if outcome.comparison.metric == "errors":
        return f"{outcome.value.most:.0f}"
    return "" if outcome.comparison.base is None else f"{outcome.value.median:.2f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {0, 1, 2, 6, 7}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _missing(results: list[Result]) -> Iterable[str]:
    skipped = [f"  {r.work.name}: {r.skipped}\n    {r.cure}" for r in results if r.skipped]
    failed = [f"  {r.work.name}: {r.failed}" for r in results if r.failed]
    if skipped:
        yield "\n".join(["skipped", *skipped])
    if failed:
        yield "\n".join(["FAILED", *failed])


def _facts(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"{part}: " + ", ".join(f"{name} {value}" for name, value in facts[part].items())
        for part in ("machine", "versions", "settings")
    )
