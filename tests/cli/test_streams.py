from __future__ import annotations

import os
import pty
import re
from collections.abc import Callable

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, Spawn, failure, rows


@pytest.fixture
def two(append: Callable[..., None]) -> None:
    append("order-1", NewEvent("T"), NewEvent("T"))
    append("user-1", NewEvent("T"))


def names(cli: Run, *args: str) -> list[str]:
    return [row["stream"] for row in rows(cli("streams", *args, "--json"))]


# -- streams


def test_streams_are_listed_by_name(cli: Run, two: None) -> None:
    listed = rows(cli("streams", "--json"))
    assert [(row["stream"], row["version"]) for row in listed] == [("order-1", 2), ("user-1", 1)]
    assert listed[0]["created_at"].endswith("Z")


def test_a_prefix_chooses_streams(cli: Run, two: None) -> None:
    assert names(cli, "--prefix", "user-") == ["user-1"]


def test_text_is_tab_separated_without_a_header(cli: Run, two: None) -> None:
    lines = [line.split("\t")[:4] for line in cli("streams").stdout.splitlines()]
    assert lines == [["order-1", "2", "live", "1"], ["user-1", "1", "live", "1"]]


def test_no_streams_print_nothing(cli: Run) -> None:
    assert cli("streams").output == ""


def test_deleted_streams_are_listed_with_all(cli: Run, two: None) -> None:
    cli("stream", "delete", "order-1", "--yes")
    cli("stream", "tombstone", "never", "--yes")
    assert names(cli) == ["user-1"]
    listed = rows(cli("streams", "--all", "--json"))
    assert [(row["stream"], row["state"], row["first_version"]) for row in listed] == [
        ("never", "tombstoned", None),
        ("order-1", "deleted", None),
        ("user-1", "live", 1),
    ]


# -- info and set


def test_a_stream_is_shown_with_its_limits(cli: Run, two: None) -> None:
    cli("stream", "set", "order-1", "--max-count", "1", "--custom", '{"by": "me"}')
    (row,) = rows(cli("stream", "info", "order-1", "--json"))
    assert {key: row[key] for key in row if key != "created_at"} == {
        "stream": "order-1",
        "version": 2,
        "state": "live",
        "first_version": 2,
        "events": 1,
        "max_age": None,
        "max_count": 1,
        "truncate_before": None,
        "custom": {"by": "me"},
    }


def test_a_stream_is_shown_as_text(cli: Run, two: None) -> None:
    lines = cli("stream", "info", "order-1").stdout.splitlines()
    assert lines[:5] == [
        "stream          order-1",
        "version         2",
        "state           live",
        "first_version   1",
        "events          2",
    ]


@pytest.mark.parametrize("command", [("info",), ("delete", "--yes")], ids=" ".join)
def test_an_unknown_stream_is_not_found(cli: Run, command: tuple[str, ...]) -> None:
    assert failure(cli("stream", *command, "nobody", "--json")) == (6, "StreamNotFound")


@pytest.mark.parametrize(
    ("age", "seconds"), [("90", 90), ("1.5m", 90), ("2h", 7200), ("30d", 2_592_000), ("1w", 604_800)]
)
def test_an_age_is_seconds_or_has_a_unit(cli: Run, age: str, seconds: float) -> None:
    assert rows(cli("stream", "set", "s", "--max-age", age, "--json"))[0]["max_age"] == seconds


def test_setting_changes_only_what_is_named(cli: Run, two: None) -> None:
    cli("stream", "set", "order-1", "--max-count", "5", "--truncate-before", "2", "--custom", '{"a": 1}')
    (row,) = rows(cli("stream", "set", "order-1", "--max-age", "1d", "--clear", "truncate-before", "--json"))
    assert (row["max_age"], row["max_count"], row["truncate_before"], row["custom"]) == (86_400, 5, None, {"a": 1})
    result = cli("stream", "set", "order-1", "--clear", "max-age", "--clear", "max-count", "--clear", "custom")
    assert result.stdout == "stream order-1: no limits\n"


def test_what_was_set_is_told(cli: Run) -> None:
    result = cli("stream", "set", "s", "--max-age", "1h", "--max-count", "3")
    assert result.stdout == "stream s: max-age 3600.0, max-count 3\n"


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--max-age", "soon"),
        ("--max-age", "0"),
        ("--max-age", "nan"),
        ("--max-age", "5dd"),
        ("--max-count", "0"),
        ("--truncate-before", str(1 << 63)),
        ("--custom", "{"),
        ("--custom", "[]"),
        ("--clear", "state"),
        ("--max-count", "1", "--clear", "max-count"),
    ],
    ids=" ".join,
)
def test_settings_that_make_no_sense_are_refused(cli: Run, args: tuple[str, ...]) -> None:
    result = cli("stream", "set", "s", *args, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert names(cli, "--all") == []


def test_an_empty_stream_name_is_refused(cli: Run) -> None:
    assert failure(cli("stream", "info", "", "--json")) == (2, "InvalidEvent")


# -- delete and tombstone


def test_a_deleted_stream_is_revived_by_an_append(cli: Run, two: None) -> None:
    assert cli("stream", "delete", "order-1", "--expected", "2", "--yes").stdout == "deleted stream order-1\n"
    assert failure(cli("read", "order-1", "--json")) == (6, "StreamNotFound")
    assert rows(cli("append", "order-1", "--type", "T", "--json"))[0]["version"] == 3
    assert [row["version"] for row in rows(cli("read", "order-1", "--json"))] == [3]


def test_deleting_again_says_that_there_is_nothing(cli: Run, two: None) -> None:
    cli("stream", "delete", "order-1", "--yes")
    result = cli("stream", "delete", "order-1", "--yes")
    assert (result.exit_code, result.stdout) == (0, "stream order-1 has nothing to delete\n")
    assert rows(cli("stream", "delete", "order-1", "--yes", "--json")) == [{"stream": "order-1", "deleted": False}]


@pytest.mark.parametrize("command", ["delete", "tombstone"])
def test_another_version_than_expected_is_a_conflict(cli: Run, two: None, command: str) -> None:
    assert failure(cli("stream", command, "order-1", "--expected", "1", "--yes", "--json")) == (
        5,
        "WrongExpectedVersion",
    )


def test_a_tombstone_is_told_and_told_again(cli: Run, two: None) -> None:
    assert cli("stream", "tombstone", "order-1", "--yes").stdout == "stream order-1 is closed for good\n"
    assert cli("stream", "tombstone", "order-1", "--yes").stdout == "stream order-1 was already closed for good\n"
    assert failure(cli("append", "order-1", "--type", "T", "--json"))[1] == "StreamDeleted"


@pytest.mark.parametrize("command", ["delete", "tombstone"])
def test_without_a_terminal_it_takes_yes(cli: Run, two: None, command: str) -> None:
    result = cli("stream", command, "order-1", input="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes" in result.stderr
    assert names(cli) == ["order-1", "user-1"]


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, ["user-1"]), ("n", 1, ["order-1", "user-1"])])
@pytest.mark.parametrize("command", ["delete", "tombstone"])
def test_on_a_terminal_it_asks(
    cli: Run, spawn: Spawn, two: None, command: str, answer: str, code: int, left: list[str]
) -> None:
    ours, theirs = pty.openpty()
    process = spawn("stream", command, "order-1", stdin=theirs)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    _, stderr = process.communicate(timeout=120)
    os.close(ours)
    assert (process.returncode, names(cli)) == (code, left)
    assert re.match(r"(Delete|Close) .*order-1.*\? .*\[y/N\] ", stderr)
