from __future__ import annotations

from collections.abc import Callable

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, rows


@pytest.fixture
def two(append: Callable[..., None]) -> None:
    append("order-1", NewEvent("T"), NewEvent("T"))
    append("user-1", NewEvent("T"))


def test_streams_are_listed_by_name(cli: Run, two: None) -> None:
    listed = rows(cli("streams", "--json"))
    assert [(row["stream"], row["version"]) for row in listed] == [("order-1", 2), ("user-1", 1)]
    assert listed[0]["created_at"].endswith("Z")


def test_a_prefix_chooses_streams(cli: Run, two: None) -> None:
    assert [row["stream"] for row in rows(cli("streams", "--prefix", "user-", "--json"))] == ["user-1"]


def test_text_is_tab_separated_without_a_header(cli: Run, two: None) -> None:
    assert [line.split("\t")[:2] for line in cli("streams").stdout.splitlines()] == [["order-1", "2"], ["user-1", "1"]]


def test_no_streams_print_nothing(cli: Run) -> None:
    assert cli("streams").output == ""
