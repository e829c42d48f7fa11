from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from eventstore.reports import horizon
from eventstore.schema import REVISION
from tests.cli.conftest import Run, failure, rows

LOCK = "select pg_advisory_xact_lock_shared('eventstore.event_positions'::regclass::oid::int, 0)"
APPEND = """select eventstore.append_events('x', '[{"type": "A"}]')"""


@pytest.fixture
def held(db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    """A session that holds the horizon in a transaction, and is taken to have done so for long."""
    monkeypatch.setattr(horizon, "HELD", 0.0)
    connection = psycopg.connect(db, application_name="billing")
    connection.execute(APPEND.encode())
    yield connection
    connection.close()


@pytest.fixture
def prepared(db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a prepared transaction that holds the horizon."""
    monkeypatch.setattr(horizon, "HELD", 0.0)
    gid = f"order {uuid4()}"
    with psycopg.connect(db, autocommit=True) as connection:
        if connection.execute("show max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("this server prepares no transactions")
        connection.execute(f"begin; {LOCK}; prepare transaction '{gid}'; {APPEND}".encode())
        yield gid
        if connection.execute("select from pg_prepared_xacts where gid = %s", [gid]).fetchone():
            connection.execute(f"rollback prepared '{gid}'".encode())


def check(cli: Run, name: str) -> dict[str, Any]:
    (row,) = map(json.loads, cli("doctor", "--only", name, "--json").stdout.splitlines())
    return dict(row)


def test_each_check_is_a_row(cli: Run) -> None:
    (row,) = rows(cli("doctor", "--only", "schema", "--json"))
    assert row == {"name": "schema", "status": "ok", "found": f"revision {REVISION}", "cure": None, "facts": []}


def test_all_checks_are_made(cli: Run) -> None:
    listed = [row["name"] for row in rows(cli("doctor", "--list", "--json"))]
    made = [json.loads(line)["name"] for line in cli("doctor", "--json").stdout.splitlines()]
    assert made == listed


def test_without_json_a_line_tells_status_check_finding_and_cure(cli: Run) -> None:
    assert cli("doctor", "--only", "encoding").stdout == "ok\tencoding\tUTF8\t\n"


def test_a_check_that_fails_is_exit_code_1(cli: Run, execute: Callable[[str], None]) -> None:
    execute("alter table eventstore.events disable trigger user")
    result = cli("doctor", "--only", "append_only", "--only", "encoding")
    assert (result.exit_code, result.stderr) == (1, "")


def test_a_warning_is_exit_code_0(cli: Run, execute: Callable[[str], None]) -> None:
    execute("create function eventstore.mine() returns int return 1")
    assert rows(cli("doctor", "--only", "functions", "--json"))[0]["status"] == "warn"


def test_checks_are_listed_without_a_database(plain: Run) -> None:
    listed = rows(plain("doctor", "--list", "--json"))
    assert {"fsync", "horizon", "stuck", "listen"} <= {row["name"] for row in listed}
    assert rows(plain("doctor", "--list", "--only", "fsync", "--json")) == [
        row for row in listed if row["name"] == "fsync"
    ]


def test_an_unknown_check_is_refused_before_anything_is_connected_to(plain: Run) -> None:
    result = plain("doctor", "--dsn", "postgresql://nobody@127.0.0.1:1/none", "--only", "fsink", "--json")
    assert failure(result) == (2, "ConfigurationError")


def test_a_database_that_cannot_be_reached_is_exit_code_3(plain: Run) -> None:
    result = plain("doctor", "--dsn", "postgresql://nobody@127.0.0.1:1/none", "--json")
    assert failure(result) == (3, "DatabaseUnavailable")


@pytest.mark.parametrize("args", [("--yes",), ("--terminate-blocker", "--only", "horizon")], ids=" ".join)
def test_options_that_make_no_sense_together_are_refused(cli: Run, args: tuple[str, ...]) -> None:
    assert cli("doctor", *args).exit_code == 2


def test_the_listener_s_dsn_can_differ(cli: Run) -> None:
    result = cli("doctor", "--only", "listen", "--listen-dsn", "postgresql://nobody@127.0.0.1:1/none", "--json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "fail")


# -- ending what holds the horizon


def test_what_holds_the_horizon_is_shown(cli: Run, held: psycopg.Connection[Any]) -> None:
    row = check(cli, "horizon")
    assert row["status"] == "warn"
    assert f"pid {held.info.backend_pid}, billing" in row["found"]
    assert row["facts"][0]["query"] == APPEND


def test_it_is_ended_after_confirmation(cli: Run, held: psycopg.Connection[Any]) -> None:
    result = cli("doctor", "--terminate-blocker", input="y\n")
    assert (result.exit_code, f"ended pid {held.info.backend_pid}" in result.stdout) == (0, True)
    assert result.stderr.startswith(f"Terminate pid {held.info.backend_pid}, billing, user postgres")
    assert APPEND in result.stderr
    with pytest.raises(psycopg.OperationalError):
        held.commit()


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_confirmation_it_goes_on(cli: Run, held: psycopg.Connection[Any], answer: str) -> None:
    assert cli("doctor", "--terminate-blocker", input=answer).exit_code == 1
    held.commit()


def test_with_yes_it_is_shown_all_the_same(cli: Run, held: psycopg.Connection[Any]) -> None:
    result = cli("doctor", "--terminate-blocker", "--yes", "--json")
    (row,) = rows(result)
    assert (row["ended"], row["was"], row["horizon"], row["blocker"]["pid"]) == (True, 0, 1, held.info.backend_pid)
    assert "billing" in result.stderr


def test_that_it_was_ended_is_recorded(cli: Run, held: psycopg.Connection[Any]) -> None:
    cli("doctor", "--terminate-blocker", "--yes")
    (row,) = rows(cli("actions", "--json"))
    assert (row["action"], row["outcome"], row["arguments"]["pid"]) == (
        "terminate blocker", "done", held.info.backend_pid
    )  # fmt: skip


def test_a_prepared_transaction_is_rolled_back(cli: Run, prepared: str) -> None:
    result = cli("doctor", "--terminate-blocker", "--yes")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"ROLLBACK PREPARED: the prepared transaction '{prepared}'")
    assert check(cli, "horizon")["found"] == "nothing holds it: 1"


def test_an_append_that_has_only_just_begun_is_left_alone(cli: Run, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "HELD", 3600.0)
    with psycopg.connect(db) as young:
        young.execute(APPEND.encode())
        (row,) = rows(cli("doctor", "--terminate-blocker", "--yes", "--json"))
        young.commit()
    assert row["ended"] is False


def test_where_nothing_holds_the_horizon_there_is_nothing_to_end(cli: Run) -> None:
    result = cli("doctor", "--terminate-blocker")
    assert (result.exit_code, result.stdout) == (0, "nothing to end: nothing holds it: 0\n")
