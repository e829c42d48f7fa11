from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, failure, rows


@pytest.fixture
def log(append: Callable[..., None], cli: Run) -> Run:
    """Twelve events, every third of type Rare, and the subscription rare to these."""
    append("s", *(NewEvent("Often" if n % 3 else "Rare", {"n": n}) for n in range(12)))
    cli("subscription", "create", "rare", "--type", "Rare", "--pool-size", "2")
    return cli


def explained(cli: Run, *args: str) -> dict[str, Any]:
    (row,) = rows(cli("subscription", "explain", *args, "--json"))
    return row


def test_a_subscription_is_explained(log: Run) -> None:
    row = explained(log, "rare")
    assert (row["name"], row["pool_size"], row["checkpoints"], row["horizon"]) == ("rare", 2, [0, 0], 12)
    assert row["selector"] == {"kind": "event_type", "types": ["Rare"]}
    assert (row["keys"], row["residual"]) == ([{"key": 'type = "Rare"', "residual": False}], False)
    assert row["plan"]["narrows"] is True
    assert row["sample"] == {"positions": 12, "looked_at": 12, "matched": 4, "ratio": 3.0}
    assert (row["remaining"]["events"], row["remaining"]["exact"]) == (4, True)
    assert [event["data"]["n"] for event in row["events"]] == [0, 3, 6, 9]


def test_a_selector_that_is_not_stored_is_tried(log: Run) -> None:
    row = explained(log, "--payload", '{"n": {"$gt": 4}}', "--after", "7", "--events", "2")
    assert (row["name"], row["residual"], row["plan"]["narrows"]) == (None, True, False)
    assert row["remaining"]["events"] == 5
    assert [event["position"] for event in row["events"]] == [8, 9]
    assert len(rows(log("subscription", "list", "--json"))) == 1


def test_counting_ends_at_the_limit(log: Run) -> None:
    assert explained(log, "--type", "Often", "--limit", "0")["remaining"]["exact"] is False


def test_as_text_each_line_says_what_it_is_about(log: Run) -> None:
    lines = log("subscription", "explain", "rare", "--events", "1").stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "selector",
        "stands",
        "router",
        "index",
        "plan",
        "sample",
        "remaining",
        "next",
    ]
    assert "remaining   4 events, most of a partition 4" in lines
    assert lines[-1].split() == ["next", "1", "s", "1", "Rare", '{"n":0}']


@pytest.mark.parametrize(
    "args", [(), ("rare", "--type", "Rare"), ("rare", "--after", "3")], ids=["neither", "both", "after"]
)
def test_it_is_a_name_or_a_selector(log: Run, args: tuple[str, ...]) -> None:
    assert log("subscription", "explain", *args).exit_code == 2


def test_an_unknown_subscription_is_not_found(cli: Run) -> None:
    assert failure(cli("subscription", "explain", "nobody", "--json")) == (6, "SubscriptionNotFound")


def test_a_missing_schema_is_told(cli: Run) -> None:
    result = cli("subscription", "explain", "--type", "A", "--schema", "elsewhere", "--json")
    assert failure(result) == (4, "MigrationRequired")


def test_a_selector_that_is_none_is_refused(cli: Run) -> None:
    result = cli("subscription", "explain", "--selector", '{"kind": "no"}', "--json")
    assert failure(result) == (2, "InvalidSelector")
