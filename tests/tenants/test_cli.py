"""``eventstore tenants``, and ``--tenant`` of the other commands."""

from __future__ import annotations

import json

import pytest

from eventstore.roles import apply as apply_roles
from tests.cli.conftest import Run, failure
from tests.cli.conftest import plain as plain
from tests.tenants.conftest import ANYBODY, PREFIX, dsn_as


@pytest.fixture
async def roles(db: str, logins: None) -> str:
    kinds = ("writer", "reader", "worker", "admin")
    await apply_roles(db, "eventstore", PREFIX, logins=[(kind, ANYBODY) for kind in kinds])
    return db


def test_the_sql_is_printed_without_a_database(plain: Run) -> None:
    printed = plain("tenants", "--existing", "acme", "--bind", "a=b=acme", "--schema", "elsewhere").output
    assert printed.startswith("begin;")
    assert "force row level security" in printed
    assert "'a=b', 'acme'" in printed
    assert "@" not in printed


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--apply", "--check"], "exclude each other"),
        (["--check", "--existing", "acme"], "for the SQL and --apply"),
        (["--bind", "acme"], "LOGIN=TENANT"),
        (["--existing", "a b"], "1 to 100 letters"),
        (["--bind", "a=b c"], "1 to 100 letters"),
        (["--tenant", "acme"], "leave out --tenant"),
    ],
)
def test_what_makes_no_sense_is_refused(plain: Run, args: list[str], found: str) -> None:
    result = plain("tenants", *args)
    assert result.exit_code == 2
    assert found in result.output + result.stderr


@pytest.mark.parametrize("command", ["migrate", "roles", "dev", "demo"])
def test_what_is_about_a_schema_as_a_whole_takes_no_tenant(plain: Run, command: str) -> None:
    refused = plain(command, "--tenant", "acme")
    assert refused.exit_code == 2
    assert "leave out --tenant" in refused.stderr


def test_it_is_applied_checked_and_undone_by_nobody(plain: Run, roles: str) -> None:
    assert plain("tenants", "--check", "--dsn", roles).exit_code == 1
    assert plain("tenants", "--apply", "--bind", f"{ANYBODY}=acme", "--dsn", roles).exit_code == 0
    assert "are kept apart" in plain("tenants", "--check", "--dsn", roles).output
    assert plain("tenants", "--apply", "--unbind", ANYBODY, "--dsn", roles, "--json").exit_code == 0
    assert plain("doctor", "--only", "tenants", "--dsn", roles).exit_code == 0


def test_commands_are_about_the_tenant_that_is_named(plain: Run, roles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain("tenants", "--apply", "--dsn", roles)
    monkeypatch.setenv("EVENTSTORE_DSN", dsn_as(roles, ANYBODY))
    assert plain("append", "s", "--type", "A", "--data", '"a"', "--tenant", "acme").exit_code == 0
    monkeypatch.setenv("EVENTSTORE_TENANT", "rival")
    assert failure(plain("read", "s", "--json")) == (6, "StreamNotFound")
    (line,) = plain("read", "s", "--json", "--tenant", "acme").output.splitlines()
    assert json.loads(line)["data"] == "a"
    assert plain("doctor", "--only", "positions").exit_code == 0
    assert plain("pubsub", "publish", "t", "1").exit_code == 0
    monkeypatch.delenv("EVENTSTORE_TENANT")
    refused = plain("read", "s", "--json")
    assert failure(refused) == (2, "ConfigurationError")
    assert "none is named" in refused.stderr
    assert "--tenant NAME" in plain("doctor", "--only", "positions").stdout
