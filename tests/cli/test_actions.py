"""`actions`: what operators did, and that the command line records what it does."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import pytest

from eventstore import NewEvent
from eventstore.reports.actions import operator
from tests.cli.conftest import Run, failure, rows


def actions(cli: Run, *args: str) -> list[dict[str, Any]]:
    return rows(cli("actions", "--json", *args))


@pytest.fixture
def billing(cli: Run) -> None:
    assert cli("subscription", "create", "billing").exit_code == 0


def test_nothing_was_done_yet(cli: Run) -> None:
    assert actions(cli) == []


@pytest.mark.usefixtures("billing")
def test_what_is_done_to_a_subscription_is_recorded(cli: Run) -> None:
    for args in (
        "pause billing", "resume billing", "rewind billing --after 0 --yes", "resize billing 2",
        "update billing --attempts 2", "delete billing --yes",
    ):  # fmt: skip
        assert cli("subscription", *args.split()).exit_code == 0
    done = list(reversed(actions(cli)))
    assert [one["action"] for one in done] == ["pause", "resume", "rewind", "resize", "update", "delete"]
    assert {(one["who"], one["via"], one["subject"], one["outcome"]) for one in done} == {
        (operator(), "cli", "billing", "done")
    }
    assert [done[number]["arguments"] for number in (2, 3, 4)] == [
        {"after": 0}, {"pool_size": 2}, {"changed": ["policy"]}
    ]  # fmt: skip


@pytest.mark.usefixtures("billing")
def test_what_is_done_to_parked_events_and_streams_is_recorded(cli: Run, append: Callable[..., None]) -> None:
    append("order-1", NewEvent(type="A"))
    for args in (
        "parked replay billing --all", "parked discard billing --all --yes", "stream delete order-1 --yes",
        "stream tombstone order-1 --yes", "scavenge", "scavenge --dry-run",
    ):  # fmt: skip
        assert cli(*args.split()).exit_code == 0
    assert [(one["action"], one["subject"]) for one in reversed(actions(cli))] == [
        ("replay", "billing"), ("discard", "billing"), ("delete stream", "order-1"), ("tombstone stream", "order-1"),
        ("scavenge", "eventstore"),
    ]  # fmt: skip


def test_what_fails_is_recorded_with_its_error(cli: Run) -> None:
    assert failure(cli("subscription", "pause", "none", "--json")) == (6, "SubscriptionNotFound")
    (one,) = actions(cli)
    assert one["outcome"] == "failed"
    assert one["error"].startswith("SubscriptionNotFound: ")


@pytest.mark.usefixtures("billing")
def test_they_are_listed_by_subject_and_number(cli: Run) -> None:
    for _ in range(3):
        cli("subscription", "pause", "billing")
    cli("subscription", "pause", "other")
    assert [one["id"] for one in actions(cli, "--subject", "billing")] == [3, 2, 1]
    assert [one["id"] for one in actions(cli, "--before", "3", "--limit", "1")] == [2]


@pytest.mark.usefixtures("billing")
def test_as_text_they_are_lines_of_cells(cli: Run) -> None:
    cli("subscription", "pause", "billing")
    (line,) = cli("actions").stdout.splitlines()
    assert line.split("\t")[2:8] == [operator(), "cli", "pause", "billing", "{}", "done"]


@pytest.mark.usefixtures("billing")
def test_a_role_that_may_not_record_acts_all_the_same(
    plain: Run, cli: Run, db: str, execute: Callable[[str], None]
) -> None:
    execute(
        "drop role if exists mute; create role mute login; grant usage on schema eventstore to mute;"
        "grant execute on all functions in schema eventstore to mute;"
        "revoke execute on function eventstore.begin_action_v1 from mute"
    )
    try:
        done = plain("--dsn", db.replace("//postgres@", "//mute@"), "subscription", "pause", "billing")
        assert (done.exit_code, done.stdout) == (0, "subscription billing is paused\n")
        assert "this is not recorded" in done.stderr
        assert actions(cli) == []
    finally:
        execute("drop owned by mute; drop role mute")


def test_a_user_without_a_name_is_recorded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert operator().startswith("uid ")
