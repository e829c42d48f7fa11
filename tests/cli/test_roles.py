from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from eventstore.rights import ROLES
from eventstore.roles import script
from tests.cli.conftest import Run, failure, rows

PREFIX = "es_cli"


@pytest.fixture
def dropped(execute: Callable[[str], None]) -> Iterator[None]:
    """Roles belong to the server, and would outlive the database."""
    execute("create role es_cli_shop login")
    yield
    for name in (*(f"{PREFIX}_{kind}" for kind in ROLES), "es_cli_shop"):
        execute(
            f"do $$ begin if to_regrole('{name}') is not null then reassign owned by {name} to postgres;"
            f" drop owned by {name}; drop role {name}; end if; end $$"
        )


def test_the_sql_is_printed_without_a_database(plain: Run) -> None:
    text = script("log", "log", logins=[("writer", "shop")])
    assert plain("roles", "--schema", "log", "--to", "writer=shop").stdout == f"begin;\n{text}commit;\n"
    assert rows(plain("roles", "--schema", "log", "--to", "writer=shop", "--json"))[0]["prefix"] == "log"


def test_roles_are_applied_and_checked(cli: Run, dropped: None) -> None:
    missing = cli("roles", "--check", "--prefix", PREFIX)
    assert (missing.exit_code, "does not exist" in missing.stdout) == (1, True)
    applied = cli("roles", "--apply", "--prefix", PREFIX, "--to", "reader=es_cli_shop")
    assert applied.stdout.startswith("schema eventstore belongs to es_cli_owner; it belonged to postgres")
    assert (
        cli("roles", "--check", "--prefix", PREFIX).stdout == "the roles of schema eventstore are as they should be\n"
    )
    assert cli("roles", "--apply", "--prefix", PREFIX).stdout == "schema eventstore belongs to es_cli_owner\n"
    assert rows(cli("roles", "--check", "--prefix", PREFIX, "--json")) == []


def test_a_login_that_does_not_exist_is_refused_and_nothing_stays(cli: Run, dropped: None) -> None:
    refused = cli("roles", "--apply", "--prefix", PREFIX, "--to", "reader=es_cli_missing", "--json")
    assert failure(refused) == (2, "ConfigurationError")
    assert cli("roles", "--check", "--prefix", PREFIX).stdout.count("does not exist") == len(ROLES)


@pytest.mark.parametrize(
    "args",
    [("--apply", "--check"), ("--check", "--to", "reader=a"), ("--to", "reader"), ("--to", "=a"), ("--to", "chief=a")],
)
def test_what_makes_no_sense_is_refused(plain: Run, args: tuple[str, ...]) -> None:
    assert plain("roles", *args).exit_code == 2
