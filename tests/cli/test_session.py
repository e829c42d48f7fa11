"""The shared options: before or after the command, or from the environment."""

from __future__ import annotations

import click
import pytest

from eventstore.cli.session import Session
from eventstore.schema import migrate
from tests.cli.conftest import Run, rows


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The session a command was given, which then does nothing."""
    caught: list[Session] = []

    def run(session: Session, work: object) -> None:
        caught.append(session)
        work.close()  # type: ignore[attr-defined]

    monkeypatch.setattr(Session, "run", run)
    return caught


@pytest.mark.parametrize(
    "args",
    [("--dsn", "x", "--schema", "y", "--json", "-v", "read", "s"),
     ("read", "s", "-v", "--json", "--schema", "y", "--dsn", "x"),
     ("--dsn", "x", "-v", "read", "--schema", "y", "s", "--json")],
    ids=" ".join,
)  # fmt: skip
def test_shared_options_stand_before_or_after_the_command(
    plain: Run, seen: list[Session], args: tuple[str, ...]
) -> None:
    assert plain(*args).exit_code == 0
    assert seen == [Session(dsn="x", schema="y", json=True, verbose=1)]


@pytest.mark.parametrize(
    "args", [("--dsn", "a", "read", "--dsn", "b"), ("read", "--dsn", "b"), ("--dsn", "b", "read")], ids=" ".join
)
def test_the_option_nearest_to_the_command_wins(plain: Run, seen: list[Session], args: tuple[str, ...]) -> None:
    plain(*args, env={"EVENTSTORE_DSN": "c"})
    assert seen[0].location == ("b", None)


@pytest.mark.parametrize("by", ["options", "environment"])
def test_two_places_are_refused_by_the_names_they_were_given_by(plain: Run, by: str) -> None:
    given = {"EVENTSTORE_DSN": "a", "EVENTSTORE_DATA_DIR": "b"} if by == "environment" else {}
    args = () if given else ("--dsn", "a", "--data-dir", "b")
    result = plain("read", *args, env=given)
    names = "EVENTSTORE_DSN and EVENTSTORE_DATA_DIR" if given else "--dsn and --data-dir"
    assert (result.exit_code, names in result.stderr) == (2, True)


def test_options_stand_between_a_group_and_its_command(plain: Run, seen: list[Session]) -> None:
    plain("subscription", "--dsn", "b", "show", "x")
    assert seen[0].dsn == "b"


def test_the_environment_says_where_the_store_is(db: str, plain: Run) -> None:
    migrate(db, "mine")
    environment = {"EVENTSTORE_DSN": db, "EVENTSTORE_SCHEMA": "mine"}
    plain("append", "s", "--type", "T", env=environment)
    assert len(rows(plain("read", "--json", env=environment))) == 1
    assert rows(plain("read", "--json", "--schema", "eventstore", env=environment)) == []


def test_a_data_directory_on_the_command_line_puts_the_environment_s_dsn_out_of_force() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTSTORE_DSN", "x")
        assert Session(data_dir="y").location == (None, "y")
        assert Session().location == ("x", None)


def test_an_empty_option_does_not_mean_the_embedded_server() -> None:
    for session in (Session(dsn=""), Session(data_dir="")):
        with pytest.raises(click.UsageError, match="is empty"):
            session.location  # noqa: B018


def test_an_empty_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVENTSTORE_DSN", "EVENTSTORE_SCHEMA", "EVENTSTORE_DATA_DIR"):
        monkeypatch.setenv(name, "")
    assert (Session().location, Session().schema_name) == ((None, None), "eventstore")
