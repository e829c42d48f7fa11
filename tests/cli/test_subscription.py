from __future__ import annotations

from collections.abc import Callable

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, failure, rows

CREATE = ("subscription", "create", "billing", "--type", "Placed", "--pool-size", "2")


def test_a_subscription_is_created_shown_and_listed(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert (created["name"], created["pool_size"], created["after"], created["start_position"]) == ("billing", 2, 0, 0)
    assert [created] == rows(cli("subscription", "show", "billing", "--json"))
    assert [created] == rows(cli("subscription", "list", "--json"))


def test_the_selector_is_printed_as_json(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert created["selector"] == {"kind": "event_type", "types": ["Placed"]}


def test_partitions_are_shown(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert [(one["number"], one["checkpoint"], one["state"]) for one in created["partitions"]] == [
        (0, 0, "idle"),
        (1, 0, "idle"),
    ]


def test_without_selector_options_it_wants_everything(cli: Run) -> None:
    assert rows(cli("subscription", "create", "audit", "--json"))[0]["selector"] == {"kind": "all"}


def test_creating_the_same_again_is_fine(cli: Run) -> None:
    assert rows(cli(*CREATE, "--json")) == rows(cli(*CREATE, "--json"))


def test_another_definition_under_the_name_is_a_conflict(cli: Run) -> None:
    cli(*CREATE)
    assert failure(cli("subscription", "create", "billing", "--json")) == (5, "SubscriptionExists")


@pytest.mark.parametrize(("after", "start"), [("current", 2), ("1", 1), ("2020-01-01", 0)])
def test_it_begins_where_it_is_told(cli: Run, append: Callable[..., None], after: str, start: int) -> None:
    append("s", NewEvent("T"), NewEvent("T"))
    assert rows(cli("subscription", "create", "x", "--after", after, "--json"))[0]["start_position"] == start


@pytest.mark.parametrize("args", [("--pool-size", "0"), ("--pool-size", "2000"), ("--after", "99")], ids=" ".join)
def test_values_out_of_range_are_refused(cli: Run, args: tuple[str, ...]) -> None:
    assert failure(cli("subscription", "create", "x", *args, "--json")) == (2, "ConfigurationError")
    assert rows(cli("subscription", "list", "--json")) == []


def test_an_empty_name_is_refused(cli: Run) -> None:
    assert failure(cli("subscription", "create", "", "--json")) == (2, "ConfigurationError")


@pytest.mark.parametrize("command", [("show",), ("delete", "--yes")], ids=" ".join)
def test_an_unknown_subscription_is_not_found(cli: Run, command: tuple[str, ...]) -> None:
    assert failure(cli("subscription", *command, "nobody", "--json")) == (6, "SubscriptionNotFound")


def test_a_subscription_is_deleted_after_confirmation(cli: Run) -> None:
    cli(*CREATE)
    result = cli("subscription", "delete", "billing", input="y\n")
    assert (result.exit_code, result.stdout) == (0, "deleted subscription billing\n")
    assert result.stderr == "Delete subscription billing and its checkpoints? [y/N] "
    assert rows(cli("subscription", "list", "--json")) == []


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "sure\n"])
def test_without_confirmation_nothing_is_deleted(cli: Run, answer: str) -> None:
    cli(*CREATE)
    assert cli("subscription", "delete", "billing", input=answer).exit_code == 1
    assert len(rows(cli("subscription", "list", "--json"))) == 1


def test_an_error_after_the_end_of_input_has_a_line_of_its_own(cli: Run) -> None:
    result = cli("subscription", "delete", "billing", input="")
    assert result.stderr.splitlines()[1:] == ["Error: not confirmed, nothing was deleted; --yes does not ask"]


def test_yes_does_not_ask(cli: Run) -> None:
    cli(*CREATE)
    result = cli("subscription", "delete", "billing", "--yes", "--json")
    assert (rows(result), result.stderr) == ([{"name": "billing", "deleted": True}], "")


def test_show_as_text_has_facts_and_partitions(cli: Run) -> None:
    cli(*CREATE)
    lines = cli("subscription", "show", "billing").stdout.splitlines()
    assert "pool_size       2" in lines
    assert lines[-1].split("\t")[:3] == ["1", "0", "idle"]
