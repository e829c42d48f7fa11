from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.cli.conftest import Run, failure, rows

ID = "018f0000-0000-7000-8000-000000000001"


def lines(*events: Any) -> str:
    return "".join(event if isinstance(event, str) else json.dumps(event) + "\n" for event in events)


def test_one_event_is_appended_from_options(cli: Run) -> None:
    result = cli("append", "order-1", "--type", "Placed", "--data", '{"total": 9}', "--tag", "a", "--tag", "b")
    assert (result.exit_code, result.stdout) == (0, "appended 1 event to order-1: version 1, position 1\n")
    (event,) = rows(cli("read", "order-1", "--json"))
    assert (event["type"], event["data"], event["tags"]) == ("Placed", {"total": 9}, ["a", "b"])


def test_the_result_as_json_is_all_of_it(cli: Run) -> None:
    (result,) = rows(cli("append", "s", "--type", "T", "--json"))
    assert result == {"stream": "s", "idempotent": False} | dict.fromkeys(
        ("version", "position", "first_version", "first_position"), 1
    )


def test_data_is_null_unless_given(cli: Run) -> None:
    cli("append", "s", "--type", "T", "--metadata", '{"by": "me"}')
    (event,) = rows(cli("read", "s", "--json"))
    assert (event["data"], event["metadata"]) == (None, {"by": "me"})


def test_repeating_an_append_with_its_id_changes_nothing(cli: Run) -> None:
    append = ("append", "s", "--type", "T", "--id", ID, "--json")
    first, second = rows(cli(*append)), rows(cli(*append, "--expected", "none"))
    assert second == [first[0] | {"idempotent": True}]


def test_an_id_with_other_content_is_a_conflict(cli: Run) -> None:
    cli("append", "s", "--type", "T", "--id", ID)
    assert failure(cli("append", "s", "--type", "Other", "--id", ID, "--json")) == (5, "DuplicateEventId")


@pytest.mark.parametrize("expected", ["exists", "1", "7"])
def test_a_wrong_expectation_is_a_conflict(cli: Run, expected: str) -> None:
    result = cli("append", "new", "--type", "T", "--expected", expected, "--json")
    assert failure(result) == (5, "WrongExpectedVersion")


@pytest.mark.parametrize("expected", ["any", "exists", "1"])
def test_a_right_expectation_holds(cli: Run, expected: str) -> None:
    cli("append", "s", "--type", "T", "--expected", "none")
    assert cli("append", "s", "--type", "T", "--expected", expected).exit_code == 0


@pytest.mark.parametrize("expected", ["-1", "some", "1.5", "", "²", "9" * 30])
def test_an_expectation_that_means_nothing_is_a_usage_error(plain: Run, expected: str) -> None:
    assert plain("append", "s", "--type", "T", f"--expected={expected}").exit_code == 2


def test_events_are_taken_from_stdin(cli: Run) -> None:
    result = cli("append", "s", input=lines({"type": "A", "id": ID}, "\n", {"type": "B", "data": [1]}))
    assert result.stdout == "appended 2 events to s: version 2, position 2\n"
    first, second = rows(cli("read", "s", "--json"))
    assert (first["id"], second["data"]) == (ID, [1])


def test_events_are_taken_from_a_file(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(lines({"type": "Größe", "created_at": "2025-01-31T12:00:00+01:00"}), encoding="utf-8")
    assert cli("append", "s", "--file", str(file)).exit_code == 0
    (event,) = rows(cli("read", "s", "--json"))
    assert (event["type"], event["created_at"]) == ("Größe", "2025-01-31T11:00:00.000000Z")


def test_what_read_prints_append_takes(cli: Run) -> None:
    cli("append", "s", "--type", "T", "--data", str(2**80), "--tag", "x", "--id", ID)
    printed = cli("read", "s", "--json").stdout
    assert rows(cli("append", "s", "--file", "-", "--json", input=printed))[0]["idempotent"]


@pytest.mark.parametrize(
    "line",
    ['{"type": "T"', "[]", "7", '{"data": 1}', '{"type": "T", "dta": 1}', '{"type": ""}', '{"type": 7}',
     '{"type": "T", "data": NaN}', '{"type": "T", "data": 1e999}', '{"type": "a\\u0000b"}', '{"type": "\\ud800"}',
     '{"type": "T", "id": "7"}', '{"type": "T", "id": 7}', '{"type": "T", "created_at": "today"}',
     '{"type": "T", "created_at": 5}', '{"type": "T", "tags": "x"}', '{"type": "T", "metadata": []}',
     '{"type": "T", "data": ' + "[" * 100_000 + "}", '{"type": "T", "data": ' + "9" * 5000 + "}"],
    ids=lambda line: line[:40],
)  # fmt: skip
def test_a_malformed_line_is_named_and_nothing_is_appended(cli: Run, line: str) -> None:
    result = cli("append", "s", "--json", input=lines({"type": "Fine"}, line + "\n"))
    assert failure(result) == (2, "InvalidEvent")
    assert json.loads(result.stderr)["message"].startswith("line 2: ")
    assert rows(cli("streams", "--json")) == []


def test_lines_that_are_not_utf_8_are_refused(cli: Run) -> None:
    assert failure(cli("append", "s", "--json", input=b'{"type": "\xff"}\n')) == (2, "InvalidEvent")


def test_two_mebibytes_are_too_much_for_one_event(cli: Run) -> None:
    result = cli("append", "s", "--json", input=lines({"type": "T", "data": "x" * (2 << 20)}))
    assert failure(result) == (2, "PayloadTooLarge")
    assert rows(cli("read", "--json")) == []


def test_a_thousand_events_are_appended_and_one_more_is_refused(cli: Run) -> None:
    event = lines({"type": "T"})
    assert failure(cli("append", "s", "--json", input=event * 1001)) == (2, "InvalidEvent")
    assert rows(cli("append", "s", "--json", input=event * 1000))[0]["version"] == 1000


@pytest.mark.parametrize(
    "args",
    [("--type", "T", "--data", "{nope"), ("--type", "T", "--data", "NaN"), ("--type", "T", "--id", "x"), ("--type", ""),
     ("--type", "T", "--metadata", "3"), ("--data", "1"), ("--tag", "x"),
     ("--type", "T", "--file", "-"), ("--type", "T", "--tag", ""), ("--file", "/nowhere/at/all"), ()],
    ids=" ".join,
)  # fmt: skip
def test_bad_options_are_refused_and_leave_nothing(cli: Run, args: tuple[str, ...]) -> None:
    assert cli("append", "s", *args).exit_code == 2
    assert rows(cli("read", "--json")) == []


# -- without a stream


def test_events_are_appended_without_a_stream(cli: Run) -> None:
    result = cli("append", "--no-stream", "--type", "T", "--tag", "a")
    assert (result.exit_code, result.stdout) == (0, "appended 1 event without a stream: position 1\n")
    (event,) = rows(cli("read", "--tag", "a", "--json"))
    assert (event["stream"], event["version"], event["position"]) == (None, None, 1)


def test_the_result_without_a_stream_has_neither_stream_nor_versions(cli: Run) -> None:
    (result,) = rows(cli("append", "--no-stream", "--json", input=lines({"type": "A"}, {"type": "B"})))
    assert (result["first_position"], result["position"], result["idempotent"]) == (1, 2, False)
    assert [result[name] for name in ("stream", "version", "first_version")] == [None] * 3


def test_repeating_an_append_without_a_stream_changes_nothing(cli: Run) -> None:
    append = ("append", "--no-stream", "--type", "T", "--id", ID, "--json")
    first, second = rows(cli(*append)), rows(cli(*append))
    assert second == [first[0] | {"idempotent": True}]


@pytest.mark.parametrize(
    ("args", "message"),
    [((), "name the STREAM"), (("s", "--no-stream"), "one of them"),
     (("--no-stream", "--expected", "none"), "--expected is about a stream"),
     (("--no-stream", "--expected", "3"), "--expected is about a stream")],
    ids=str,
)  # fmt: skip
def test_a_place_that_is_missing_or_contradictory_is_a_usage_error(
    plain: Run, args: tuple[str, ...], message: str
) -> None:
    result = plain("append", *args, "--type", "T")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


# -- on a condition


@pytest.fixture
def names(cli: Run) -> None:
    """Three events without a stream, and one in a stream."""
    for name, kind in ("ada", "Taken"), ("bob", "Taken"), ("ada", "Freed"):
        cli("append", "--no-stream", "--type", kind, "--tag", f"name:{name}", "--tag", "names")
    cli("append", "s", "--type", "Other")


@pytest.mark.parametrize(
    ("unless", "position"),
    [(("tag", "name:ada"), 1), (("type", "Freed"), 3), (("stream", "s"), 4),
     (("type", "Freed", "type", "Taken", "tag", "name:bob"), 2), (("tag", "name:bob", "tag", "names"), 2),
     (("tag", "nobody", "tag", "name:bob", "match", "any"), 2), (("selector", '{"kind": "all"}'), 1),
     (("selector", '{"kind": "tags", "tags": ["names"]}', "type", "Freed"), 3)],
    ids=str,
)  # fmt: skip
def test_an_append_fails_if_an_event_matches_its_condition(
    cli: Run, names: None, unless: tuple[str, ...], position: int
) -> None:
    options = [f"--unless-{word}" if place % 2 == 0 else word for place, word in enumerate(unless)]
    result = cli("append", "--no-stream", "--type", "T", *options)
    assert (result.exit_code, result.stderr.startswith("AppendConditionFailed: ")) == (5, True), result.stderr
    assert f"the event at position {position} matches" in result.stderr
    assert rows(cli("read", "--type", "T", "--json")) == []


@pytest.mark.parametrize(
    "unless",
    [("tag", "name:eve"), ("type", "Freed", "tag", "name:bob"), ("tag", "name:ada", "tag", "name:bob"),
     ("stream", "nowhere"), ("stream", "s", "type", "Taken")],
    ids=" ".join,
)  # fmt: skip
def test_an_append_happens_if_no_event_matches_its_condition(cli: Run, names: None, unless: tuple[str, ...]) -> None:
    options = [f"--unless-{word}" if place % 2 == 0 else word for place, word in enumerate(unless)]
    assert rows(cli("append", "s", "--type", "T", *options, "--json"))[0]["version"] == 2


def test_a_condition_does_not_mind_what_was_known(cli: Run, names: None) -> None:
    known = rows(cli("read", "--tag", "name:ada", "--json"))[-1]["position"]
    append = ("append", "--no-stream", "--type", "T", "--tag", "name:ada", "--unless-tag", "name:ada")
    assert cli(*append, "--after", str(known - 1)).exit_code == 5
    assert cli(*append, "--after", str(known)).exit_code == 0
    assert cli(*append, "--after", str(known)).exit_code == 5


def test_an_append_of_a_file_has_a_condition_for_all_of_it(cli: Run, names: None) -> None:
    two = lines({"type": "A"}, {"type": "B"})
    assert cli("append", "s", "--unless-tag", "names", input=two).exit_code == 5
    assert cli("append", "s", "--unless-tag", "other", input=two).stdout.startswith("appended 2 events to s")


@pytest.mark.parametrize(
    ("args", "message"),
    [(("--after", "3"), "--after says from where on the --unless options look"),
     (("--unless-match", "any"), "give --unless-tag too"), (("--unless-tag", "a", "--after", "-1"), "'--after'"),
     (("--unless-tag", "a", "--after", "9" * 30), "'--after'"), (("--unless-tag", ""), "InvalidSelector"),
     (("--unless-selector", "{"), "InvalidSelector"), (("--timeout", "0"), "'--timeout'"),
     (("--unless-selector", '{"kind": "event_pattern", "pattern": {"type": "A"}}'), "not of EventPattern")],
    ids=str,
)  # fmt: skip
def test_a_condition_that_means_nothing_is_refused_by_name(plain: Run, args: tuple[str, ...], message: str) -> None:
    result = plain("append", "--no-stream", "--type", "T", *args)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


# -- in time


@pytest.fixture
def locked(db: str) -> Iterator[None]:
    """Nobody gets at the events as long as the test runs."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(db))
        runner.run(connection.execute("begin; lock table eventstore.events in access exclusive mode"))
        yield
        runner.run(connection.close())


def test_an_append_without_an_answer_in_time_says_how_to_find_out(cli: Run, locked: None) -> None:
    result = cli("append", "s", "--type", "T", "--timeout", "0.3")
    assert (result.exit_code, result.stdout) == (3, "")
    assert re.fullmatch(r"OutcomeUnknown: no answer within 0\.3 s; .*; its id is [0-9a-f-]{36}\n", result.stderr)


@pytest.mark.parametrize("timeout", ["nan", "inf", "1e9"])
def test_a_time_that_is_none_is_refused(cli: Run, timeout: str) -> None:
    result = cli("append", "s", "--type", "T", "--timeout", timeout, "--json")
    assert failure(result) == (2, "ConfigurationError")
    assert rows(cli("read", "--json")) == []


def test_time_enough_changes_nothing(cli: Run) -> None:
    assert rows(cli("append", "s", "--type", "T", "--timeout", "60", "--json"))[0]["position"] == 1


# -- refused


def test_an_empty_stream_name_is_refused(cli: Run) -> None:
    assert failure(cli("append", "", "--type", "T", "--json")) == (2, "InvalidEvent")


def test_an_id_is_made_where_none_is_given(cli: Run) -> None:
    cli("append", "s", "--type", "T")
    (event,) = rows(cli("read", "--json"))
    assert UUID(event["id"]).version == 7


def test_an_empty_standard_input_says_what_to_give(plain: Run) -> None:
    result = plain("append", "s", input="")
    assert (result.exit_code, "give --type, or NDJSON on standard input" in result.stderr) == (2, True)
