from __future__ import annotations

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
