"""Printing: NDJSON with ``--json``, tables on a terminal, tab-separated lines everywhere else; progress on stderr.

Times are UTC in ISO format. JSON is exact: integers of any size are printed as they are stored.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self
from uuid import UUID

from eventstore.cli.failures import OutputFailed, output_error

if TYPE_CHECKING:
    from eventstore.events import Event

__all__ = ["Events", "Rows", "cell", "event_row", "json_line", "open_output", "progress", "result", "write_line"]

TABLE_ROWS = 500
"""Rows of one table on a terminal; longer lists are printed as several, so that none has to fit into memory."""


def write_line(text: str, *, flush: bool = False) -> None:
    """Write one line to stdout; `OutputClosed` if nobody reads it any more, `OutputFailed` if it cannot be."""
    try:
        sys.stdout.write(text + "\n")
        if flush:
            sys.stdout.flush()
    except OSError as error:
        raise output_error(error) from None


def open_output(path: str | Path, mode: Literal["w", "x"], *, name: str) -> IO[bytes]:
    """Open a file to write to, which errors call *name*.

    Raises:
        ConfigurationError: it cannot be opened. What cannot be written later is `OutputFailed`.
    """
    from eventstore.errors import ConfigurationError

    try:
        return io.BufferedWriter(_Named(path, mode, name))
    except OSError as error:
        raise ConfigurationError(f"cannot write {name}: {error.strerror}") from None


class _Named(io.FileIO):
    """A file whose failures have a name, also those of a flush or close much later."""

    def __init__(self, path: str | Path, mode: str, name: str) -> None:
        super().__init__(path, mode)
        self._asked = name

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputFailed(self._asked, error) from None


def json_line(row: Mapping[str, Any]) -> str:
    """Return *row* as one line of printable JSON.

    By the standard library's encoder: others round or refuse large integers.
    """
    from eventstore.codec import printable

    return printable(json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def cell(value: Any) -> str:
    """Return *value* as text on one line; control characters are escaped, for they would command a terminal."""
    if value is None:
        return ""
    if isinstance(value, (datetime, UUID)):
        return str(_plain(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def result(as_json: bool, row: Mapping[str, Any], sentence: str) -> None:
    """Print the one result of a command: *row* as JSON, or *sentence*."""
    write_line(json_line(row) if as_json else sentence, flush=True)


class Rows:
    """Prints rows of the same columns: ``with Rows(session.json, ("name", "version")) as rows: rows.add({...})``.

    Columns are those of the table and of the tab-separated lines; JSON has every key of the row.
    """

    def __init__(self, as_json: bool, columns: Sequence[str]) -> None:
        self._json, self._columns = as_json, columns
        self._table = not as_json and sys.stdout.isatty()
        self._waiting: list[list[str]] = []
        self._whole: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._print_table()

    def add(self, row: Mapping[str, Any]) -> None:
        """Print *row*, or keep it for the table."""
        if self._json:
            write_line(json_line(row))
            return
        if not self._table:
            write_line("\t".join(cell(row[column]) for column in self._columns))
            return
        # Of a time that does not fit, the end would be cut off; its seconds are told to people, and nothing is cut.
        times = {column for column in self._columns if isinstance(row[column], datetime)}
        self._whole |= times
        self._waiting.append([_short(row[one]) if one in times else cell(row[one]) for one in self._columns])
        if len(self._waiting) == TABLE_ROWS:
            self._print_table()

    def _print_table(self) -> None:
        if not self._waiting:
            return
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        columns = [Column(name, no_wrap=name in self._whole, min_width=20 * (name in self._whole) or None)
                   for name in self._columns]  # fmt: skip
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for cells in self._waiting:
            table.add_row(*map(Text, cells))
        Console().print(table)
        self._waiting.clear()


def event_row(event: Event) -> dict[str, Any]:
    """Return a stored event as the row that ``--json`` prints and ``append --file`` takes."""
    return {
        "id": event.id,
        "type": event.type,
        "stream": event.stream,
        "version": event.version,
        "position": event.position,
        "data": event.data,
        "metadata": event.metadata,
        "tags": event.tags,
        "created_at": event.created_at,
        "recorded_at": event.recorded_at,
    }


class Events:
    """Prints events, each at once: they may be many, or come live.

    Args:
        live: write every event through, for a reader who waits for it.
    """

    COLUMNS = ("position", "recorded_at", "stream", "version", "type", "data")

    def __init__(self, as_json: bool, *, live: bool = False) -> None:
        self._live = live
        self._line: Callable[[dict[str, Any]], str] = json_line if as_json else self._tabs
        if not as_json and sys.stdout.isatty():
            self._line = self._aligned

    def add(self, event: Event) -> None:
        """Print *event*."""
        write_line(self._line(event_row(event)), flush=self._live)

    def _tabs(self, row: dict[str, Any]) -> str:
        return "\t".join(cell(row[column]) for column in self.COLUMNS)

    def _aligned(self, row: dict[str, Any]) -> str:
        position, time, stream, version, kind, data = (cell(row[column]) for column in self.COLUMNS)
        place = f"{stream} {version}".strip() or "–"
        line = f"{position:>8}  {time[:23]}Z  {place:<20}  {kind:<20}  {data}"
        width = shutil.get_terminal_size().columns
        return line if len(line) <= width else line[: width - 1] + "…"


@contextmanager
def progress(label: str, total: int | None = None, *, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with how many more are done; draws a bar on stderr if that is a terminal.

    Counts of bytes are shown in kB, MB and so on.

    ::

        with progress("importing", total=size) as done:
            done(1000)
    """
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    counted = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), counted, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
