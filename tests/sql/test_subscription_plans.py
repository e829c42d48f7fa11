"""What the functions about parked events and lag touch, where there is much of what they do not want."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import Databases

MANY = 50_000

# Of one subscription, 40 in 50,000 are parked, in 20 queues of two; two of these are to be replayed. The others were
# skipped, most of them in one stream. Beside it 300 subscriptions whose checkpoints stand at three positions.
FILL = f"""
    insert into events (position, id, stream, version, bucket, type, data, metadata, created_at, recorded_at)
    select n, lpad(to_hex(n), 32, '0')::uuid, 'x', n, n % 1024, 'A', '1', '{{}}', now(), now()
      from generate_series(1, {MANY}) n;
    select setval('event_positions', {MANY});
    insert into subscriptions (key, name, selector, after, pool_size, start_position)
    select n, 's' || n, '{{"kind": "all"}}', '0', case n when 1 then 4 else 1 end, 0 from generate_series(1, 300) n;
    insert into checkpoints (subscription_id, partition, position)
    select id, p, {MANY} - id % 3 from subscriptions, generate_series(0, pool_size - 1) p;
    insert into parked (subscription_id, position, bucket, key, state, blocking, replay, attempts, first_failed_at,
                        last_failed_at)
    select s.id, n, n % 1024,
           case when n % 1250 < 2 then 's:q' || n / 1250 % 20 when n % 2 = 0 then 's:x' else 's:' || n end,
           case when n % 1250 < 2 then 'parked' else 'skipped' end, n % 1250 < 2, n in (1250, 1251), 1, now(), now()
      from subscriptions s, generate_series(1, {MANY}) n where s.name = 's1';
"""


@pytest.fixture(scope="module", params=["analyzed", "unknown"])
def filled(databases: Databases, pg: Any, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A database full of what nobody asks for, with statistics and without."""
    with (
        databases.fresh(f"{pg.dbname}_{request.param}") as dsn,
        psycopg.connect(dsn, options="-c search_path=eventstore", autocommit=True) as sql,
    ):
        sql.execute(FILL)
        if request.param == "analyzed":
            sql.execute("vacuum analyze")
        yield sql


def blocks(sql: psycopg.Connection[Any], call: str) -> int:
    """How many blocks a call touches, once what it needs of the catalogue is known."""
    for _ in range(2):
        found = sql.execute(f"explain (analyze, buffers, timing off, format json) select * from {call}").fetchone()
    assert found is not None
    plan = found[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    "call",
    [
        "load_parked_v1(1, 2)",
        "replayable_v1(1, 2, 100)",
        "closed_keys_v1(1, '{s:x,s:q1,s:2}')",
        "list_parked_v1('s1')",
        "list_parked_v1('s1', null, 'q3')",
        "list_parked_v1('s1', 'skipped', null, 25000, 20)",
        "list_parked_v1('s1', null, null, 49000, 20)",
        "lag_v1()",
        "lag_v1('s7')",
    ],
)
def test_only_what_is_asked_for_is_looked_at(filled: psycopg.Connection[Any], call: str) -> None:
    assert blocks(filled, call) < 400


def test_a_settlement_touches_its_own_rows_only(filled: psycopg.Connection[Any]) -> None:
    node = uuid4()
    with filled.transaction(force_rollback=True):
        filled.execute("select register_node_v1(%s, 'n', 60)", [node])
        filled.execute("update checkpoints set owner = %s where subscription_id = 1", [node])
        failed = [
            {"position": MANY + 1, "bucket": 2, "key": "s:q1", "state": "parked", "blocking": True, "replay": False,
             "attempts": 1},
            {"position": 1250, "bucket": 226, "key": "s:q1", "state": "parked", "blocking": True, "replay": False,
             "attempts": 1},
        ]  # fmt: skip
        call = f"settle_partition_v1('{node}', 1, 2, 0, {MANY}, '{json.dumps(failed)}', '{{1251}}')"
        assert blocks(filled, call) < 400


def test_a_look_without_an_index_would_be_caught(filled: psycopg.Connection[Any]) -> None:
    """The planted bug: without these indexes the many skipped events of a key are walked."""
    with filled.transaction(force_rollback=True):
        filled.execute("drop index parked_open_idx, parked_state_idx, parked_waiting_idx")
        assert blocks(filled, "closed_keys_v1(1, '{s:x}')") >= 400
