from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, Spawn, failure, interrupted, rows


@pytest.fixture
def limited(append: Callable[..., None], cli: Run) -> None:
    """Ten events, seven of them hidden."""
    append("s", *(NewEvent("T", {"n": n}, tags=["t"]) for n in range(10)))
    append("t", NewEvent("T"))
    cli("stream", "set", "s", "--max-count", "3")


def read(cli: Run) -> list[int]:
    return [row["version"] for row in rows(cli("read", "s", "--json"))]


def removed(db: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(db)
        found = await connection.fetchval("select count(*) from eventstore.events where data is null")
        await connection.close()
        return int(found)

    return asyncio.run(count())


def test_what_limits_hide_is_removed_and_counted(cli: Run, limited: None, db: str) -> None:
    (row,) = rows(cli("scavenge", "--json"))
    assert row | {"bytes": 0} == {"streams": 1, "events": 7, "bytes": 0, "dry_run": False}
    assert row["bytes"] > 0
    assert (removed(db), read(cli)) == (7, [8, 9, 10])


def test_the_result_is_one_sentence(cli: Run, limited: None) -> None:
    sentence = r"1 streams with limits looked at: 7 events removed \(\d+ bytes\)\n"
    assert re.fullmatch(sentence, cli("scavenge", "--batch", "2").stdout)
    assert "0 events removed" in cli("scavenge").stdout


def test_a_dry_run_removes_nothing(cli: Run, limited: None, db: str) -> None:
    (row,) = rows(cli("scavenge", "--dry-run", "--json"))
    assert (row["events"], row["dry_run"], removed(db)) == (7, True, 0)
    assert "nothing was removed" in cli("scavenge", "--dry-run").stdout


def test_a_log_without_limits_has_nothing_to_remove(cli: Run) -> None:
    assert rows(cli("scavenge", "--json")) == [{"streams": 0, "events": 0, "bytes": 0, "dry_run": False}]


@pytest.mark.parametrize("args", [("--batch", "0"), ("--batch", "100001"), ("--pause", "-1")], ids=" ".join)
def test_options_out_of_range_are_refused(cli: Run, args: tuple[str, ...]) -> None:
    assert cli("scavenge", *args).exit_code == 2


def test_after_ctrl_c_what_is_done_is_done_and_the_next_run_goes_on(
    cli: Run, spawn: Spawn, limited: None, db: str
) -> None:
    process = spawn("scavenge", "--batch", "2", "--pause", "3600")
    while removed(db) == 0:
        assert process.poll() is None
    assert interrupted(process) == (130, "")
    assert removed(db) == 2
    assert rows(cli("scavenge", "--json"))[0]["events"] == 5


def test_a_role_without_the_right_is_told_who_has_it(
    cli: Run, plain: Run, limited: None, execute: Callable[[str], None], db: str
) -> None:
    execute(
        "drop role if exists no_owner; create role no_owner login; grant usage on schema eventstore to no_owner;"
        "grant execute on function eventstore.schema_revision() to no_owner"
    )
    try:
        dsn = db.replace("//postgres@", "//no_owner@")
        assert failure(plain("--dsn", dsn, "scavenge", "--json")) == (2, "ConfigurationError")
        assert "connect as 'postgres'" in plain("--dsn", dsn, "scavenge").stderr
    finally:
        execute("drop owned by no_owner; drop role no_owner")
