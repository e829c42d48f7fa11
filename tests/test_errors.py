from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

import eventstore
from eventstore import DatabaseUnavailable, EventStore, errors
from eventstore.database import SQLSTATES, mapped_errors, redacted
from eventstore.errors import ConfigurationError

SQL = Path(eventstore.__file__).parent / "sql"


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    for name in errors.__all__:
        assert re.search(rf"\b{name}\b", errors.__doc__ or ""), name
        assert issubclass(getattr(errors, name), errors.EventStoreError)


def test_every_sqlstate_the_functions_raise_has_an_error() -> None:
    raised = {state for path in SQL.glob("*.sql") for state in re.findall(r"'(ES\d{3})'", path.read_text())}
    assert raised <= set(SQLSTATES)
    assert {state for state in SQLSTATES if state.startswith("ES")} <= raised


@pytest.mark.parametrize("state", ["08006", "57P01", "57P03", "53100", "53300", "54000"])
def test_lost_connections_and_whatever_the_server_has_run_out_of_are_unavailability(state: str) -> None:
    error = asyncpg.PostgresError("gone")
    error.sqlstate = state
    with pytest.raises(DatabaseUnavailable), mapped_errors():
        raise error


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:secret@host/db",
        "postgresql://host/db?user=me&password=secret&x=1",
        "postgres://a:secret@h,b:1/db",
    ],
)
def test_passwords_are_redacted(dsn: str) -> None:
    assert "secret" not in redacted(dsn)


@pytest.mark.parametrize(
    "dsn", ["nonsense", "mysql://host/db", "postgresql://host:port/db", " ", "postgresql:///db?sslmode=x"]
)
async def test_a_malformed_dsn_is_a_configuration_error(dsn: str) -> None:
    with pytest.raises(ConfigurationError):
        await EventStore(dsn).__aenter__()


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:secret@127.0.0.1:1/db", "postgresql:///db?host=/nowhere&password=secret"]
)
async def test_an_unreachable_database_is_named_without_its_password(dsn: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect") as caught:
        await EventStore(dsn).__aenter__()
    assert "secret" not in str(caught.value)


async def test_a_missing_database_is_named(db: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="no_such_db"):
        await EventStore(re.sub(r"@/\w+", "@/no_such_db", db)).__aenter__()


def test_the_public_names_are_few_and_all_importable() -> None:
    assert len(eventstore.__all__) <= 40
    assert all(getattr(eventstore, name) is not None for name in eventstore.__all__)
    with pytest.raises(AttributeError):
        _ = eventstore.nothing
