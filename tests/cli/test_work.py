"""Where the store of an application is: its own word first, then the command line, then the environment."""

from __future__ import annotations

import pytest

from eventstore import EventStore
from eventstore.cli.session import Session
from eventstore.cli.work import _place, _tell_what_runs
from eventstore.errors import AlreadyStarted, ConfigurationError


def placed(store: EventStore, **options: str) -> tuple[str | None, object, str]:
    _place(Session(**options), store)  # type: ignore[arg-type]
    return store._dsn, store._data_dir, store.schema


def test_a_store_without_a_dsn_takes_the_options() -> None:
    assert placed(EventStore(), dsn="x", schema="y") == ("x", None, "y")
    assert placed(EventStore(), data_dir="d") == (None, "d", "eventstore")


def test_a_store_without_a_dsn_takes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_DSN", "x")
    monkeypatch.setenv("EVENTSTORE_SCHEMA", "y")
    assert placed(EventStore()) == ("x", None, "y")
    assert placed(EventStore(), schema="z") == ("x", None, "z")


def test_a_schema_of_its_own_gives_way_to_the_command_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_SCHEMA", "y")
    assert placed(EventStore(schema="own"))[2] == "own"
    assert placed(EventStore(schema="own"), schema="z")[2] == "z"


def test_a_store_with_a_dsn_keeps_it_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_DSN", "x")
    monkeypatch.setenv("EVENTSTORE_SCHEMA", "y")
    assert placed(EventStore("own")) == ("own", None, "eventstore")


def test_a_dsn_and_a_data_directory_are_not_taken_together() -> None:
    with pytest.raises(ConfigurationError):
        EventStore().place("x", data_dir="y")


async def test_an_open_store_stays_where_it_is(store: EventStore) -> None:
    with pytest.raises(AlreadyStarted):
        store.place("x")


async def test_the_line_at_start_hides_the_password(store: EventStore, capsys: pytest.CaptureFixture[str]) -> None:
    store._dsn = "postgresql://me:secret@db/shop"
    await _tell_what_runs(store)
    told = f"node {store.node_name}: 0 handlers and 0 sinks, on postgresql://me:***@db/shop, schema eventstore\n"
    assert capsys.readouterr().err == told


async def test_the_line_at_start_names_the_embedded_postgres(
    store: EventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store._dsn, store._data_dir = None, "data"
    await _tell_what_runs(store)
    assert "on the embedded Postgres in data, schema" in capsys.readouterr().err
