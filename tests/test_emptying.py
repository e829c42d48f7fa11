"""What a test leaves behind is taken away, or its database is not used again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Databases
from tests.emptying import Emptied


@pytest.fixture
def lender(databases: Databases, pg: Any) -> Iterator[Emptied]:
    one = Emptied(lambda: databases.fresh(f"{pg.dbname}_lent"))
    yield one
    one.close()


def run(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return done.fetchone() if done.description else None


def created(dsn: str) -> Any:
    """The number of the database: another one after it was made anew."""
    return run(dsn, "select oid from pg_database where datname = current_database()")


@pytest.mark.parametrize(
    "written",
    [
        "insert into eventstore.streams (name, bucket) values ('s', 1)",
        "select nextval('eventstore.event_positions')",
        "update eventstore.control set generation = 7",
        "insert into eventstore.request_keys (key) values ('x')",
    ],
)
def test_rows_and_numbers_are_taken_away_and_the_database_is_used_again(lender: Emptied, written: str) -> None:
    with lender.lent() as dsn:
        before = created(dsn), state(dsn)
        run(dsn, written)
        assert state(dsn) != before[1]
    with lender.lent() as dsn:
        assert state(dsn) == before[1]


def state(dsn: str) -> Any:
    return run(
        dsn,
        "select (select count(*) from eventstore.streams), (select last_value from eventstore.event_positions),"
        " (select sum(generation) from eventstore.control), (select count(*) from eventstore.request_keys)",
    )


@pytest.mark.parametrize(
    "changed",
    [
        "create table public.left_behind (n int)",
        "create or replace function eventstore.head() returns bigint language sql as 'select 0::bigint'",
        "alter table eventstore.events disable trigger all",
        "grant select on eventstore.events to public",
        "drop index eventstore.events_type_position_idx",
        "do $$ begin execute format('alter database %I set work_mem = ''1MB''', current_database()); end $$",
        "insert into eventstore.streams (name, bucket) select n::text, 1 from generate_series(1, 6000) n",
    ],
)
def test_whoever_changes_more_than_rows_leaves_a_database_that_is_not_used_again(lender: Emptied, changed: str) -> None:
    with lender.lent() as dsn:
        before = created(dsn)
        run(dsn, changed)
    with lender.lent() as dsn:
        assert created(dsn) != before


def test_a_transaction_that_was_left_open_is_ended(lender: Emptied) -> None:
    with lender.lent() as dsn:
        left = psycopg.connect(dsn)
        left.execute("insert into eventstore.streams (name, bucket) values ('s', 1)")
    with pytest.raises(psycopg.OperationalError):
        left.execute("select 1")
    with lender.lent() as dsn:
        assert state(dsn)[0] == 0
