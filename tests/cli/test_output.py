"""What is printed where: tables and progress on a terminal only, quiet ends of pipes."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from eventstore.cli import output
from eventstore.cli.failures import OutputClosed
from eventstore.cli.output import Events, Rows, cell, json_line, progress
from eventstore.events import Event, uuid7

TIME = datetime(2025, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def event(data: Any = None) -> Event:
    return Event(uuid7(), "T", data, {}, (), "s", 1, 7, 0, TIME, TIME)


def shown(columns: tuple[str, ...], *added: dict[str, Any], as_json: bool = False) -> str:
    """What `Rows` prints on a terminal, without its bold letters."""
    with redirect_stdout(Terminal()) as screen, Rows(as_json, columns) as rows:
        for row in added:
            rows.add(row)
    return re.sub(r"\x1b\[\d*m", "", screen.getvalue())


def test_rows_are_a_table_with_a_header_on_a_terminal() -> None:
    text = shown(("name", "version"), {"name": "order-1", "version": 12, "unseen": 1})
    assert [line.split() for line in text.splitlines()] == [["name", "version"], ["order-1", "12"]]


def test_of_a_time_nothing_is_cut_off_however_narrow_the_terminal_is() -> None:
    text = shown(("at", "who", "what"), {"at": TIME, "who": "ada" * 30, "what": "x" * 90})
    assert text.splitlines()[1].split()[0] == "2025-01-31T12:00:00Z"


def test_markup_in_a_name_is_text() -> None:
    assert "[bold]x[/bold]" in shown(("name",), {"name": "[bold]x[/bold]"})


def test_a_long_list_is_printed_as_several_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "TABLE_ROWS", 2)
    assert shown(("n",), {"n": 0}, {"n": 1}, {"n": 2}).split() == ["n", "0", "1", "n", "2"]


def test_json_stays_json_on_a_terminal() -> None:
    assert shown(("n",), {"n": 1}, as_json=True) == '{"n":1}\n'


def test_events_fit_the_width_of_a_terminal() -> None:
    with redirect_stdout(Terminal()) as screen:
        Events(False).add(event("x" * 200))
    (line,) = screen.getvalue().splitlines()
    assert len(line) == 80
    assert line.split()[:5] == ["7", "2025-01-31T12:00:00.000Z", "s", "1", "T"]


def test_an_event_without_a_stream_has_a_dash_for_it_on_a_terminal() -> None:
    with redirect_stdout(Terminal()) as screen:
        Events(False).add(replace(event(1), stream=None, version=None))
    assert screen.getvalue().split()[2:4] == ["–", "T"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("a\tb\n", "a\\tb\\n"), ("\x1b[31m", "\\x1b[31m"), ({"ü": [2**64]}, '{"ü":[18446744073709551616]}'),
     (TIME, "2025-01-31T12:00:00.000000Z"), (True, "true"), (1.5, "1.5")],
    ids=repr,
)  # fmt: skip
def test_a_cell_is_printable_text_on_one_line(value: Any, text: str) -> None:
    assert cell(value) == text


def test_times_and_ids_are_text_in_json() -> None:
    identity = uuid7()
    assert json_line({"id": identity, "at": TIME}) == f'{{"id":"{identity}","at":"2025-01-31T12:00:00.000000Z"}}'


def test_what_is_not_json_is_never_printed_as_if_it_were() -> None:
    with pytest.raises(TypeError):
        json_line({"x": object()})


def test_a_closed_pipe_is_no_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(OutputClosed):
        output.write_line("x")


def test_progress_is_silent_unless_stderr_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("importing", total=2) as done:
            done(2)
        assert ("importing" in stream.getvalue()) is drawn


@pytest.mark.parametrize(("of_bytes", "shown"), [(True, "1.5/3.0 MB"), (False, "1500000/3000000")])
def test_progress_in_bytes_is_shown_in_larger_units(
    monkeypatch: pytest.MonkeyPatch, of_bytes: bool, shown: str
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("importing", total=3_000_000, of_bytes=of_bytes) as done:
        done(1_500_000)
    assert shown in re.sub(r"\x1b\[[\d;]*m", "", sys.stderr.getvalue())  # type: ignore[attr-defined]


def test_a_file_named_like_markup_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("importing [/b].csv"):
        pass
    assert "importing [/b].csv" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_time_zone_does_not_change_the_time() -> None:
    assert cell(TIME) == cell(TIME.astimezone(UTC))
