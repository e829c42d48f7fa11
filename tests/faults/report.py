"""Writes docs/reliability.md: what is promised, what was done to break it, what came out, and what nobody tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.rows import ROWS, Row
from tests.faults.running import Result

__all__ = ["SOAK_ROW", "render", "write"]

SOAK_ROW = Row(
    29, "P1 to P8", "everything at once: nodes, connections, the server, handlers and the network fail, by one seed",
    "no anomaly; memory, files and connections are as many at the end as at the start", (), 30,
    control="appends that look for no ids or lock no stream, a hasty server, a naive reader, an owner of before who is"
    " believed, a projection that forgets; samples that grow",
    caught_by=("tests/faults/test_planted.py",
               "tests/faults/test_soak.py::test_what_grows_after_the_warm_up_is_not_flat"),
)  # fmt: skip

PROMISES = (
    ("P1", "An acknowledged append survives what Postgres survives with `fsync` and `synchronous_commit` on."),
    ("P2", "Versions of a stream have no gaps; an event id exists once; an append repeated gets its first result."),
    ("P3", "A subscription gets every committed event that it wants at least once, in order within a stream."),
    ("P4", "A projection is exactly-once: its rows and its checkpoint are one transaction."),
    ("P5", "One owner of a partition can write. Who held it before changes nothing, whatever he believes."),
    ("P6", "Signals are hints. Losing all of them costs the poll interval and nothing else."),
    ("P7", "Nothing is skipped silently: what is parked, skipped or halted is recorded and can be listed."),
    ("P8", "Every refusal has a named error that says what to do."),
)  # fmt: skip

UNITS = {"s": "s", "ms": "ms", "mib": "MiB", "percent": "%"}

HEAD = """# Reliability

What is promised, what was done to break it, and what came out. Everything below the promises is generated from runs
that anybody can repeat: `python -m tests.faults report` writes this page from [reliability.json](reliability.json), and
a test fails if it says anything else.

## Promises

"""

HOW = """
A row is missed if any of its tests fails, or is skipped, for instance because the machine lacks what it needs. Figures
are what the tests counted and timed in that run; most of the times depend on the machine. What is planted to see
that a row would be missed is listed [below](#controls). The last column names the code that ran: the hash that
`git rev-parse HEAD:eventstore` gives for the library, the same for as long as none of its files changes.
"""

CONTROLS = """
## Controls

A check that finds nothing may be blind. So a bug is planted, in the library, in the database or in what a check is
given, and a test demands that the row's own check finds it.

| # | planted | in |
|---:|---|---|
"""

TAIL = """
## What is not tested

- **Power loss.** Killing every process of Postgres loses no page that the kernel has; a disk that lies about `fsync`,
  and torn pages, are left to Postgres and whoever runs it.
- **Network storage and other file systems** than those of the machine that ran this.
- **macOS and Windows.** Everything here ran on Linux, client and server on one machine; the network between them is a
  namespace or a proxy. Real latency and real routers are not in it.
- **Other servers than the version named in the logs of a run**; the suite runs on the embedded one.
- **Clocks of the server.** Leases count by the database's clock. A server whose clock jumps makes leases longer or
  shorter; fencing does not depend on it. Simulations cover that, real servers do not.
- **Nodes of an older release.** There is none yet. What stands for one is today's code that believes in an earlier
  revision, on schemas of every revision.
- **Weeks.** The longest run is the soak.

## Running it

```
make faults        # the soak of FAULTS_MINUTES, 30 unless set
make reliability   # every row at full length, the soak, and this page: some two hours on two cores
make hunt          # the hunts alone
```

`python -m tests.faults rows --only 5,7 --seed 1` repeats two rows with a seed of its own. A seed fixes what is done and
in which order, not how processes and the server happen to interleave: a failure may take several runs to come back.
"""


def write(results: Mapping[int, Result], path: Path) -> None:
    """Write the page."""
    path.write_text(render(results))


def render(results: Mapping[int, Result]) -> str:
    """Return the page as Markdown."""
    rows = (*ROWS, SOAK_ROW)
    held = sum(row.number in results and results[row.number].held for row in rows)
    promises = "".join(f"- **{name}** {text}\n" for name, text in PROMISES)
    summary = f"\n## What came out\n\n{held} of {len(rows)} rows held.\n{HOW}\n"
    return HEAD + promises + summary + _table(rows, results) + _misses(rows, results) + _controls(rows) + TAIL


def _table(rows: Iterable[Row], results: Mapping[int, Result]) -> str:
    head = (
        "| # | about | what is done | held means | what came out | seed | minutes | code |\n|---:|"
        + "---|" * 5
        + "---:|---|\n"
    )
    return head + "".join(_line(row, results.get(row.number)) for row in rows)


def _line(row: Row, result: Result | None) -> str:
    done = (str(row.number), row.promises, row.done, row.held)
    if result is None:
        return _cells(*done, "**not run**", "", "", "")
    came = "; ".join(("held" if result.held else "**missed**", *figures(result.figures)))
    return _cells(*done, came, str(result.seed), f"{result.seconds / 60:.1f}", f"{result.date[:10]} {result.code}")


def _controls(rows: Iterable[Row]) -> str:
    """Which bugs are planted, and what nobody has been seen to catch."""
    lines = [f"| {row.number} | {row.control} | {_tests(row)} |\n" for row in rows if row.control]
    without = ", ".join(str(row.number) for row in rows if not row.control)
    return CONTROLS + "".join(lines) + (f"\nThere is none for: {without}.\n" if without else "")


def _tests(row: Row) -> str:
    return ", ".join(f"`{test.rpartition('::')[2]}`" for test in row.caught_by)


def _cells(*texts: str) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |\n"


def _misses(rows: Iterable[Row], results: Mapping[int, Result]) -> str:
    missed = [line for row in rows for line in _why(row, results.get(row.number))]
    found = "".join(missed) or "None in these runs.\n"
    return "\n## Misses\n\n" + found


def _why(row: Row, result: Result | None) -> list[str]:
    if result is None:
        return [f"- Row {row.number} was not run.\n"]
    if result.held:
        return []
    reasons = [*(f"failed: {one}" for one in result.failed), *(f"skipped: {one}" for one in result.skipped)]
    return [f"- Row {row.number}, {one}\n" for one in reasons or ["nothing was run"]]


def figures(told: Iterable[Mapping[str, Any]]) -> list[str]:
    """What tests told, a text for each test."""
    return [", ".join(_figure(name, one[name]) for name in one if _shown(name, one[name])) for one in told]


def _shown(name: str, value: Any) -> bool:
    return name not in ("test", "seed") and not isinstance(value, Mapping)


def _figure(name: str, value: Any) -> str:
    words = name.split("_")
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    shown = f"{value:,}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return f"{' '.join(words[:-1])} {shown} {unit}" if unit else f"{' '.join(words)} {shown}"
