"""The picture that ``eventstore top`` draws of an overview, as lines that fit a terminal; nothing is printed here.

What comes from events, streams and errors goes through `cell`: it is text of others, and must not command a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from eventstore.cli.output import cell

if TYPE_CHECKING:
    from eventstore.reports.overview import Failure, LogHead, NodeState, Overview, Waiting

__all__ = ["Line", "Look", "frame", "plain", "sparkline", "styled"]

Part: TypeAlias = tuple[str, str]
"""Text, and how rich calls its style."""

Line: TypeAlias = list[Part]

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"

LEAST = 3
"""Rows of each list that are shown before one of them gets more."""

STYLES = {"active": "green", "paused": "cyan", "halted": "bold red", "unowned": "yellow", "behind": "yellow"}


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has found.

    Attributes:
        place: which log it is.
        rates: events a second of the looks until now, the latest last.
        problem: why the database could not be asked; the overview is the last one that it answered, *since* then.
    """

    place: str
    overview: Overview
    rates: Sequence[float]
    problem: str | None
    since: datetime


def frame(look: Look, width: int, height: int, *, blocks: bool = True) -> list[Line]:
    """Return the lines of a look, at most *height* of at most *width* cells each."""
    seen = look.overview
    head = [
        _head(look, width),
        _rate(seen.log, look.rates, width, blocks),
        _horizon(seen.log),
        _subscriptions(seen),
    ]
    if seen.parked:
        head.append(_parked(seen))
    if look.problem is not None:
        head.insert(1, [(f"not answered since {look.since:%H:%M:%S}Z: {cell(look.problem)}", "bold red")])
    lists = [
        _table("FURTHEST BEHIND", ("subscription", "status", "positions", "for"), map(_waiting, seen.waiting)),
        _table(
            f"NODES  {seen.nodes_alive:,} of {seen.nodes_total:,} alive",
            ("node", "lease", "partitions", "subscriptions"),
            map(_node, seen.nodes),
        ),
        _table("LATEST ERRORS", ("at", "subscription", "where", "error"), map(_failure, seen.failures)),
    ]
    lines = head + _shared(lists, height - len(head), width)
    return [_cut(line, width) for line in lines[:height]]


def _head(look: Look, width: int) -> Line:
    from rich.cells import cell_len, set_cell_size

    time = f"  {look.overview.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    room = max(0, width - len(time))
    fits = cell_len(look.place) <= room or not room
    place = look.place if fits else set_cell_size(look.place, room - 1) + "…"
    return [(place, "bold"), (time, "dim")]


def _rate(log: LogHead, rates: Sequence[float], width: int, blocks: bool) -> Line:
    number = "-" if log.per_second is None else f"{log.per_second:,.1f}"
    text = f"events/s      {'at least ' if log.at_least else ''}{number}  "
    return [(text, "bold"), (sparkline(rates, max(0, width - len(text)), BLOCKS if blocks else ASCII), "green")]


def sparkline(values: Sequence[float], width: int, signs: str = BLOCKS) -> str:
    """Return the last *width* values as a row of signs, the highest of them as the last sign."""
    shown = list(values)[-width:] if width else []
    most = max(shown, default=0.0)
    if most <= 0:
        return signs[0] * len(shown)
    return "".join(signs[min(len(signs) - 1, round(value / most * (len(signs) - 1)))] for value in shown)


def _horizon(log: LogHead) -> Line:
    from eventstore.reports.horizon import HELD, HELD_LONG, describe

    line: Line = [(f"horizon       {log.horizon:,}", "bold")]
    if log.holder is None:
        return [*line, ("  nothing holds it", "dim")]
    held = 0.0 if log.held_for is None else log.held_for
    style = "bold red" if held >= HELD_LONG else "yellow" if held >= HELD else "dim"
    since = "" if log.held_for is None else f" for {_period(log.held_for)}"
    text = f"  {log.last_position - log.horizon:,} positions held back{since} by {cell(describe(log.holder))}"
    return [*line, (text, style)]


def _subscriptions(seen: Overview) -> Line:
    line: Line = [(f"subscriptions {seen.subscriptions_total:,}", "bold")]
    for status, style in STYLES.items():
        if count := seen.subscriptions.get(status):
            line.append((f"  {count:,} {status}", style))
    return line


def _parked(seen: Overview) -> Line:
    return [(f"parked        {seen.parked:,} events of {seen.parked_subscriptions:,} subscriptions", "magenta")]


# -- lists


@dataclass(frozen=True, slots=True)
class _List:
    title: str
    columns: Sequence[str]
    rows: Sequence[Line]


def _table(title: str, columns: Sequence[str], rows: Any) -> _List:
    return _List(title, columns, list(rows))


def _waiting(one: Waiting) -> Line:
    return [(cell(one.name), ""), (one.status, STYLES[one.status]), (f"{one.behind:,}", ""), (_period(one.seconds), "")]


def _node(one: NodeState) -> Line:
    lease = ("alive", "green") if one.alive else ("expired", "bold red")
    return [(cell(one.name), ""), lease, (f"{one.partitions:,}", ""), (f"{one.subscriptions:,}", "")]


def _failure(one: Failure) -> Line:
    where = f"partition {one.partition}" if one.position is None else f"position {one.position:,}"
    where += f" and {one.count - 1:,} more" if one.count > 1 else ""
    message = f"{one.error or 'halted'}: {one.message or ''}".rstrip(": ")
    style = "bold red" if one.kind == "halted" else ""
    return [
        (f"{one.at.astimezone(UTC):%m-%d %H:%M:%S}", "dim"),
        (cell(one.subscription), ""),
        (f"{one.kind} {where}", style),
        (cell(message), style),
    ]


def _shared(lists: Sequence[_List], height: int, width: int) -> list[Line]:
    """Return the lists that have rows below each other; each gets a few rows before one of them gets more."""
    shown = [one for one in lists if one.rows]
    # A blank line, a title and the names of the columns.
    left = height - 3 * len(shown)
    counts = [min(LEAST, len(one.rows)) for one in shown]
    left -= sum(counts)
    while left > 0 and any(count < len(one.rows) for count, one in zip(counts, shown, strict=True)):
        for number, one in enumerate(shown):
            if left > 0 and counts[number] < len(one.rows):
                counts[number] += 1
                left -= 1
    lines: list[Line] = []
    for count, one in zip(counts, shown, strict=True):
        hidden = len(one.rows) - count
        lines += [[], [(one.title, "bold"), (f"  {hidden:,} more below" if hidden else "", "dim")]]
        lines += _aligned(one, count, width)
    return lines


def _aligned(one: _List, count: int, width: int) -> list[Line]:
    """Return names of columns and rows, each column as wide as it needs to be, the first at most half of all."""
    from rich.cells import cell_len, set_cell_size

    rows = [[(name, "dim") for name in one.columns], *one.rows[:count]]
    widths = [max(cell_len(row[number][0]) for row in rows) for number in range(len(one.columns))]
    others = sum(widths[1:]) if len(one.columns) < 4 or widths[-1] < width // 2 else sum(widths[1:-1])
    names = 0 if one.columns[0] != "at" else 1
    widths[names] = min(widths[names], max(12, width // 2, width - others - 2 * len(widths)))
    fit: Callable[[str, int], str] = lambda text, size: (  # noqa: E731
        text if cell_len(text) <= size else set_cell_size(text, size - 1) + "…"
    )
    return [
        [(set_cell_size(fit(text, size), size) + "  ", style) for (text, style), size in zip(row, widths, strict=True)]
        for row in rows
    ]


def _cut(line: Line, width: int) -> Line:
    """Return *line* without what goes beyond *width* cells."""
    from rich.cells import cell_len, set_cell_size

    cut: Line = []
    for text, style in line:
        room = width - sum(cell_len(one) for one, _ in cut)
        cut.append((text if cell_len(text) <= room else set_cell_size(text, max(0, room)), style))
    return cut


def _period(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size or size == 60:
            return f"{seconds / size:,.0f} {name}"
    raise AssertionError


def plain(lines: Sequence[Line]) -> str:
    """Return *lines* as text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def styled(lines: Sequence[Line]) -> Any:
    """Return *lines* for rich; nothing in them is taken for markup."""
    from rich.text import Text

    whole = Text(no_wrap=True, overflow="crop")
    for number, line in enumerate(lines):
        whole.append("\n" if number else "")
        for text, style in line:
            whole.append(text, style or None)
    return whole
