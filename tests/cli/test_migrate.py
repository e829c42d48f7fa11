from __future__ import annotations

from collections.abc import Callable

from eventstore.schema import REVISION
from tests.cli.conftest import Run, failure, rows


def test_migrate_creates_a_schema_that_commands_can_use(cli: Run) -> None:
    assert rows(cli("migrate", "--schema", "mine", "--json")) == [{"schema": "mine", "revision": REVISION}]
    assert cli("append", "s", "--type", "T", "--schema", "mine").exit_code == 0


def test_migrating_again_changes_nothing(cli: Run) -> None:
    cli("append", "s", "--type", "T")
    assert cli("migrate").stdout == f"schema eventstore is at revision {REVISION}\n"
    assert len(rows(cli("read", "--json"))) == 1


def test_a_schema_that_anybody_may_write_to_is_refused(cli: Run) -> None:
    assert failure(cli("migrate", "--schema", "bad\0name", "--json")) == (2, "ConfigurationError")


def test_a_dry_run_lists_what_is_missing_and_changes_nothing(cli: Run) -> None:
    before = cli("migrate", "--schema", "mine", "--dry-run")
    assert [line.split()[0] for line in before.stdout.splitlines()][-1] == REVISION
    assert "not there yet" in before.stderr
    assert rows(cli("migrate", "--schema", "mine", "--dry-run", "--json"))[0]["found"] is None
    assert rows(cli("migrate", "--dry-run", "--json")) == [
        {"schema": "eventstore", "found": REVISION, "revision": REVISION, "steps": []}
    ]
    assert cli("migrate", "--dry-run", "--sql").stdout == ""


def test_the_sql_of_a_dry_run_makes_what_migrating_makes(cli: Run, execute: Callable[[str], None]) -> None:
    execute(cli("migrate", "--schema", "mine", "--dry-run", "--sql").stdout)
    assert rows(cli("migrate", "--schema", "mine", "--dry-run", "--json"))[0]["steps"] == []
    assert cli("append", "s", "--type", "T", "--schema", "mine").exit_code == 0


def test_sql_alone_is_refused(cli: Run) -> None:
    assert failure(cli("migrate", "--sql", "--json"))[0] == 2
