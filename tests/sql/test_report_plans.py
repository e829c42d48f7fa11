"""What the functions behind reports touch, where there is much of what they do not want."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Databases
from tests.sql.test_subscription_plans import blocks

MANY = 20_000

# Events of one long stream; of 300 subscriptions one has skipped nearly all of them, and parked 20; 20,000 things that
# were done to others, and 20 to "mine".
FILL = f"""
    insert into streams (name, version, bucket) values ('x', {MANY}, 1);
    insert into events (position, id, stream, version, bucket, type, data, metadata, created_at, recorded_at)
    select n, lpad(to_hex(n), 32, '0')::uuid, 'x', n, 1, 'A', '1', '{{}}', at, at
      from generate_series(1, {MANY}) n, lateral (select now() - ({MANY} - n) * interval '1 second') t(at);
    select setval('event_positions', {MANY});
    insert into nodes select lpad(n::text, 32, '0')::uuid, 'n' || n, now(), now() + interval '1 day'
      from generate_series(1, 3) n;
    insert into subscriptions (key, name, selector, after, pool_size, start_position)
    select n, 's' || n, '{{"kind": "all"}}', '0', 1, 0 from generate_series(1, 300) n;
    insert into checkpoints (subscription_id, partition, position, owner)
    select id, 0, {MANY} - id, lpad((id % 3 + 1)::text, 32, '0')::uuid from subscriptions;
    insert into parked (subscription_id, position, bucket, key, state, blocking, attempts, error, message,
                        first_failed_at, last_failed_at)
    select s.id, n, 1, 's:x', case when n % 1000 = 0 then 'parked' else 'skipped' end, false, 1, 'E', 'no', now(), now()
      from subscriptions s, generate_series(1, {MANY}) n where s.name = 's1';
    insert into operator_actions (who, via, action, subject, arguments)
    select 'ada', 'cli', 'pause', case when n % 1000 = 0 then 'mine' else 's' || n end, '{{}}'
      from generate_series(1, {MANY}) n;
"""


@pytest.fixture(scope="module", params=["analyzed", "unknown"])
def filled(databases: Databases, pg: Any, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A database full of what nobody asks for, with statistics and without."""
    with (
        databases.fresh(f"{pg.dbname}_reports_{request.param}") as dsn,
        psycopg.connect(dsn, options="-c search_path=eventstore", autocommit=True) as sql,
    ):
        sql.execute(FILL)
        if request.param == "analyzed":
            sql.execute("vacuum analyze")
        yield sql


@pytest.mark.parametrize(
    "call",
    [
        f"overview_v1({MANY - 5})",
        "latest_failures_v1()",
        "node_states_v1()",
        "subscription_page_v1(p_limit => 10)",
        "subscription_page_v1(p_status => 'behind', p_order => 'behind', p_limit => 10)",
        "event_detail_v1(10000)",
        "event_detail_v1(null, lpad(to_hex(77), 32, '0')::uuid)",
        "stream_timeline_v1('x', 100)",
        "list_actions_v1('mine')",
        "list_actions_v1(null, 10000, 20)",
    ],
)
def test_only_what_is_asked_for_is_looked_at(filled: psycopg.Connection[Any], call: str) -> None:
    assert blocks(filled, call) < 400


def test_what_was_skipped_is_not_counted_and_without_an_index_would_be_walked(filled: psycopg.Connection[Any]) -> None:
    with filled.transaction(force_rollback=True):
        before = blocks(filled, "latest_failures_v1()"), blocks(filled, "overview_v1()")
        filled.execute("drop index parked_waiting_idx, parked_latest_idx, parked_state_idx")
        after = blocks(filled, "latest_failures_v1()"), blocks(filled, "overview_v1()")
    assert all(late > early + 200 for early, late in zip(before, after, strict=True)), (before, after)


def test_events_since_the_last_look_are_counted_up_to_the_most(filled: psycopg.Connection[Any]) -> None:
    assert blocks(filled, "overview_v1(0, 100)") < 400
