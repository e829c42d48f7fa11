"""`nodes`: who runs handlers, once and while one watches."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore import __version__
from eventstore.cli.nodes import COLUMNS, _changes, rows_of
from eventstore.subscriptions.model import Node
from tests.cli.conftest import Run, Spawn, failure, interrupted, line_with, rows

NOW = datetime(2024, 1, 1, tzinfo=UTC)

APP = """
from eventstore import All, EventStore

store = EventStore(node_name="worker")

@store.handler("audit", All(), pool_size=2)
async def audit(event, delivery):
    pass
"""


def node(name: str = "n", *, alive: bool = True, partitions: list[tuple[str, int]] | None = None) -> Node:
    return Node(uuid4(), name, NOW, NOW + timedelta(seconds=10), alive, partitions or [])


# -- rows_of


def test_a_row_says_what_the_table_knows() -> None:
    one = node("a", partitions=[("audit", 0), ("mail", 3)])
    assert rows_of([one], None) == [
        {
            "node": "a", "incarnation": str(one.incarnation), "lease": "alive", "present": None, "version": None,
            "started_at": NOW, "lease_until": NOW + timedelta(seconds=10), "holds": 2,
            "partitions": ["audit/0", "mail/3"],
        }
    ]  # fmt: skip


def test_a_lease_that_ran_out_is_expired() -> None:
    assert [row["lease"] for row in rows_of([node(alive=False), node()], None)] == ["expired", "alive"]


def test_presence_is_told_only_if_somebody_was_asked() -> None:
    one, other = node("a"), node("b")
    present = {str(other.incarnation): {"name": "b", "version": "9"}}
    assert [row["present"] for row in rows_of([one, other], None)] == [None, None]
    assert [(row["present"], row["version"]) for row in rows_of([one, other], present)] == [(False, None), (True, "9")]
    assert [row["present"] for row in rows_of([one], {})] == [False]


def test_a_node_that_the_table_does_not_know_has_every_column_too() -> None:
    known = node("a")
    row, other = rows_of([known], {"i": {"name": "b", "version": "9", "partitions": 1}})
    assert (other["node"], other["incarnation"], other["lease"], other["present"]) == ("b", "i", "none", True)
    assert set(other) == set(row) == {*COLUMNS, "partitions"}


def test_what_a_node_says_about_itself_need_not_be_complete() -> None:
    assert [(row["node"], row["version"]) for row in rows_of([], {"i": {}})] == [(None, None)]


def test_changes_are_what_is_new_what_is_different_and_what_went() -> None:
    one, two, three = ({"incarnation": i, "lease": "alive", "holds": 1, "lease_until": 1} for i in "123")
    later, less = two | {"lease_until": 2}, three | {"holds": 0}
    found = list(_changes({"1": one, "2": two, "3": three}, {"2": later, "3": less, "4": one}))
    assert found == [less, one, one | {"lease": "gone", "present": False, "holds": 0, "partitions": []}]


# -- the command


@pytest.fixture
def dead(execute: Callable[[str], None]) -> UUID:
    """A node whose lease ran out."""
    incarnation = uuid4()
    execute(
        "insert into eventstore.nodes (incarnation, name, started_at, lease_until)"
        f" values ('{incarnation}', 'dead', now() - interval '1 hour', now() - interval '1 minute')"
    )
    return incarnation


@pytest.fixture
def worker(spawn: Spawn, tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Start a process that runs handlers, and wait until it holds both partitions."""
    (tmp_path / "shop.py").write_text(APP)
    here = str(Path(__file__).parents[2])

    def start() -> subprocess.Popen[str]:
        process = spawn("work", "--app", "shop:store", "-v", cwd=tmp_path, env={"PYTHONPATH": here})
        for _ in range(2):
            line_with(process.stderr, "claimed audit")
        return process

    return start


def test_without_nodes_nothing_is_listed(cli: Run) -> None:
    assert rows(cli("nodes", "--json")) == []


def test_a_node_that_runs_is_listed_with_its_lease_and_what_it_holds(cli: Run, worker: Callable[[], Any]) -> None:
    worker()
    (row,) = rows(cli("nodes", "--json"))
    assert (row["node"], row["lease"], row["holds"], row["present"]) == ("worker", "alive", 2, None)
    assert row["partitions"] == ["audit/0", "audit/1"]
    assert datetime.fromisoformat(row["lease_until"]) > datetime.fromisoformat(row["started_at"])


def test_a_node_whose_lease_ran_out_is_listed_as_expired(cli: Run, dead: UUID) -> None:
    (row,) = rows(cli("nodes", "--json"))
    assert (row["node"], row["incarnation"], row["lease"], row["holds"]) == ("dead", str(dead), "expired", 0)


def test_the_table_shows_name_lease_and_what_is_held(cli: Run, dead: UUID) -> None:
    result = cli("nodes")
    assert result.exit_code == 0
    for text in "dead", str(dead)[:8], "expired":
        assert text in result.stdout


def test_a_database_that_is_not_there_is_unavailable(plain: Run) -> None:
    result = plain("nodes", "--dsn", "postgresql://nobody@/nowhere?host=/nowhere", "--json")
    assert failure(result) == (3, "DatabaseUnavailable")


def test_watching_prints_a_node_when_it_comes_changes_and_goes(
    spawn: Spawn, dead: UUID, worker: Callable[[], Any]
) -> None:
    watching = spawn("nodes", "--watch", "--json")
    first = json.loads(watching.stdout.readline())
    assert (first["node"], first["lease"], first["present"]) == ("dead", "expired", False)
    process = worker()
    came = until(watching, lambda row: row["present"] and row["holds"] == 2)
    assert (came["node"], came["lease"], came["version"]) == ("worker", "alive", __version__)
    assert datetime.fromisoformat(came["at"]).tzinfo is not None
    process.send_signal(signal.SIGTERM)
    went = until(watching, lambda row: row["lease"] == "gone" and row["node"] == "worker")
    assert (went["incarnation"], went["holds"], went["partitions"]) == (came["incarnation"], 0, [])
    assert interrupted(watching) == (130, "")


def until(watching: subprocess.Popen[str], condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    assert watching.stdout is not None
    return next(row for row in map(json.loads, watching.stdout) if condition(row))


def test_a_watched_node_that_dies_is_shown_as_expired(spawn: Spawn, worker: Callable[[], Any], db: str) -> None:
    watching = spawn("nodes", "--watch", "--json")
    process = worker()
    came = until(watching, lambda row: row["present"] and row["holds"] == 2)
    process.kill()
    expire(db)
    gone = until(watching, lambda row: row["lease"] == "expired")
    assert (gone["incarnation"], gone["holds"]) == (came["incarnation"], 2)


def expire(db: str) -> None:
    async def run() -> None:
        import asyncpg

        connection = await asyncpg.connect(db)
        await connection.execute("update eventstore.nodes set lease_until = now() - interval '1 second'")
        await connection.close()

    asyncio.run(run())


def test_sigterm_ends_watching_without_a_word(spawn: Spawn, dead: UUID) -> None:
    watching = spawn("nodes", "--watch")
    line = watching.stdout.readline().rstrip("\n").split("\t")
    assert line[1:] == ["dead", str(dead), "expired", "not heard of", "holds 0", "version -"]
    assert interrupted(watching, signal.SIGTERM) == (143, "")


def test_a_reader_that_leaves_ends_watching_quietly(spawn: Spawn, dead: UUID, worker: Callable[[], Any]) -> None:
    watching = spawn("nodes", "--watch", "--json")
    assert watching.stdout.readline()
    watching.stdout.close()
    worker()
    assert (watching.wait(120), watching.stderr.read()) == (0, "")
