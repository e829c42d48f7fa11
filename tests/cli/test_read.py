from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from eventstore import EventStore, NewEvent, Settings
from tests.cli.conftest import Run, failure, rows
from tests.conftest import Databases

FIELDS = ["id", "type", "stream", "version", "position", "data", "metadata", "tags", "created_at", "recorded_at"]
BIG = {"n": 2**80, "small": -(2**53) - 1, "float": 1e16, "zero": -0.0, "text": "\u2028\x1b[31m"}


@pytest.fixture(scope="module")
def filled(databases: Databases, pg: Any) -> Iterator[str]:
    """DSN of five events in two streams: versions and positions a1 b1 a2 b2 a3. They are only read."""
    kinds = ["Even" if number % 2 else "Odd" for number in range(5)]
    events = [NewEvent(kind, {"n": n}, tags=[f"n:{n}", "all"]) for n, kind in enumerate(kinds)]

    async def fill(dsn: str) -> None:
        async with EventStore(dsn, settings=Settings(listen=False)) as store:
            await store.append_known(list("ababa"), events)

    with databases.fresh(f"{pg.dbname}_read") as dsn:
        asyncio.run(fill(dsn))
        yield dsn


@pytest.fixture
def shop(filled: str, plain: Run) -> Run:
    """Run a command on these events."""
    return partial(plain, "--dsn", filled)


def positions(run: Run, *args: str) -> list[int]:
    return [event["position"] for event in rows(run("read", *args, "--json"))]


def test_a_row_has_all_fields_in_utc(shop: Run) -> None:
    event = rows(shop("read", "a", "--json"))[0]
    assert list(event) == FIELDS
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event[name]) for name in FIELDS[-2:])


def test_json_data_is_exact(cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent("T", BIG))
    (event,) = rows(cli("read", "--json"))
    assert repr(event["data"]) == repr(BIG)


def test_piped_text_is_tab_separated(shop: Run) -> None:
    fields = shop("read", "a").stdout.splitlines()[1].split("\t")
    assert fields[0] == "3"
    assert fields[2:] == ["a", "2", "Odd", '{"n":2}']


def test_an_event_without_a_stream_has_null_in_json_and_empty_fields_in_text(
    cli: Run, append: Callable[..., None]
) -> None:
    append(None, NewEvent("T", 1))
    (event,) = rows(cli("read", "--json"))
    assert (event["position"], event["stream"], event["version"]) == (1, None, None)
    assert cli("read").stdout.rstrip("\n").split("\t")[2:] == ["", "", "T", "1"]


def test_tail_prints_events_without_a_stream_among_the_others(cli: Run, append: Callable[..., None]) -> None:
    for stream in (None, "s", None):
        append(stream, NewEvent("T", tags=["a"]))
    printed = rows(cli("tail", "--after", "0", "--limit", "3", "--tag", "a", "--json"))
    assert [(event["stream"], event["version"]) for event in printed] == [(None, None), ("s", 1), (None, None)]


@pytest.mark.parametrize(("args", "expected"), [(("--type", "T"), [1, 2]), (("--stream", "s"), [2])], ids=str)
def test_events_without_a_stream_are_in_no_stream(
    cli: Run, append: Callable[..., None], args: tuple[str, ...], expected: list[int]
) -> None:
    append(None, NewEvent("T"))
    append("s", NewEvent("T"))
    assert positions(cli, *args) == expected
    assert positions(cli, "--pattern", "*") == [2]


def test_control_characters_do_not_reach_the_terminal(cli: Run, append: Callable[..., None]) -> None:
    append("evil\x1b[2J\n", NewEvent("tab\there", {"\x9b": "\u202e"}))
    (line,) = cli("read").stdout.splitlines()
    assert line.isprintable() or line.replace("\t", "").isprintable()


@pytest.mark.parametrize(
    ("args", "expected"),
    [((), [1, 3, 5]), (("--after", "1"), [3, 5]), (("--before", "3"), [1, 3]), (("--limit", "2"), [1, 3]),
     (("--backwards",), [5, 3, 1]), (("--after", "1", "--before", "3"), [3]), (("--limit", "0"), [])],
    ids=str,
)  # fmt: skip
def test_one_stream_is_bounded_by_versions(shop: Run, args: tuple[str, ...], expected: list[int]) -> None:
    assert positions(shop, "a", *args) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [((), [1, 2, 3, 4, 5]), (("--after", "2", "--before", "5"), [3, 4]), (("--backwards", "--limit", "2"), [5, 4]),
     (("--type", "Odd"), [1, 3, 5]), (("--type", "Odd", "--type", "Even"), [1, 2, 3, 4, 5]),
     (("--stream", "b"), [2, 4]), (("--pattern", "[!]*"), []), (("--pattern", "a*"), [1, 3, 5]),
     (("--pattern", '{"type": "Even", "stream": "b"}'), [2, 4]), (("--payload", '{"n": {"$gte": 3}}'), [4, 5]),
     (("--tag", "n:1"), [2]), (("--tag", "n:1", "--tag", "all"), [2]),
     (("--tag", "n:1", "--tag", "n:2", "--match", "any"), [2, 3]), (("--tag", "n:1", "--tag", "n:2"), []),
     (("--stream", "a", "--payload", '{"n": {"$lt": 3}}', "--type", "Odd"), [1, 3]),
     (("--selector", '{"kind": "or", "of": [{"kind": "stream", "stream": "b"}, {"kind": "tags", "tags": ["n:0"]}]}'),
      [1, 2, 4]),
     (("--since", "2020-01-01"), [1, 2, 3, 4, 5]), (("--since", "2999-01-01"), []), (("--until", "2020-01-01"), [])],
    ids=lambda value: " ".join(map(str, value))[:40],
)  # fmt: skip
def test_the_log_is_read_by_selector(shop: Run, args: tuple[str, ...], expected: list[int]) -> None:
    assert positions(shop, *args) == expected


def test_a_stream_that_does_not_exist_is_not_found(cli: Run) -> None:
    assert failure(cli("read", "nobody", "--json")) == (6, "StreamNotFound")


def test_a_stream_with_nothing_to_show_is_found(shop: Run) -> None:
    assert rows(shop("read", "a", "--after", "9", "--json")) == []


def test_an_empty_log_is_no_error(cli: Run) -> None:
    assert rows(cli("read", "--json")) == []


@pytest.mark.parametrize(
    "args",
    [("--payload", '{"n": {"$near": 1}}'), ("--selector", '{"kind": "nonsense"}'), ("--selector", "{"),
     ("--type", ""), ("--stream", ""), ("--tag", ""), ("--pattern", "")],
    ids=" ".join,
)  # fmt: skip
def test_a_selector_that_means_nothing_is_named(cli: Run, args: tuple[str, ...]) -> None:
    assert failure(cli("read", *args, "--json")) == (2, "InvalidSelector")


@pytest.mark.parametrize(
    "args",
    [("--payload", "{"), ("--pattern", "{"), ("--match", "any"), ("s", "--type", "T"), ("s", "--since", "2020-01-01"),
     ("--since", "yesterday"), ("--after", "-1"), ("--after", "9" * 30), ("--limit", "x"), ("--match", "some")],
    ids=" ".join,
)  # fmt: skip
def test_options_that_make_no_sense_are_usage_errors(plain: Run, args: tuple[str, ...]) -> None:
    assert plain("read", *args).exit_code == 2


def test_an_empty_stream_name_is_refused(cli: Run) -> None:
    assert failure(cli("read", "", "--json")) == (2, "InvalidEvent")
