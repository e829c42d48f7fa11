"""A small tenant in a large log pays for its own events: what each call touches, in pages of 8 kB."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.tenants.conftest import ACME, dsn_as

MANY = 30_000
"""Events of the others, of the same types and tags, before and after those of the small one."""

PAGES = 150
"""More than a call may touch; the log has thousands."""

OTHERS = """
with drawn as (
    select nextval('eventstore.event_positions') as position, n from generate_series(1, $1::int) n
), stored as (
    insert into eventstore.events (tenant, position, id, stream, version, bucket, type, data, metadata, tags,
                                   created_at, recorded_at)
    select 'rival', d.position, gen_random_uuid(), 's-' || $2 || d.n, 1, 0, 'T' || d.n % 3, '{"n": 1}', '{}',
           array['t' || d.n % 3], now(), clock_timestamp()
      from drawn d
    returning position, tags
), tagged as (
    insert into eventstore.event_tags (tenant, tag, position) select 'rival', s.tags[1], s.position from stored s
)
insert into eventstore.streams (tenant, name, version, bucket)
select 'rival', 's-' || $2 || n, 1, 0 from generate_series(1, $1::int) n
"""

EVENT = '[{"type": "T1", "data": {"n": 1}, "tags": ["t1"]}]'


@pytest.fixture
async def small(shared: str, everything: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """The login of a tenant with 20 events in the middle of the log."""
    await everything.execute(OTHERS, MANY, "a")
    async with asyncpg.create_pool(dsn_as(shared, ACME), min_size=1, max_size=1) as pool, pool.acquire() as connection:
        for n in range(20):
            await connection.execute(f"select eventstore.append_events('s-{n % 4}', '{EVENT}')")
        await connection.execute("""select eventstore.create_subscription_v1('all', '{"kind": "all"}', '0', '{}', 1)""")
        await everything.execute(OTHERS, MANY, "b")
        await everything.execute("vacuum analyze eventstore.events, eventstore.event_tags, eventstore.streams")
        yield connection


def selector(**parts: object) -> str:
    return f"read_events_v1('{json.dumps(parts)}', p_window => null)"


CALLS = {
    "the feed": "read_events_v1()",
    "the log backwards": "read_events_v1(p_backwards => true, p_limit => 5)",
    "a stream": "read_stream_v1('s-1')",
    "a stream by selector": selector(kind="stream", stream="s-1"),
    "a type": selector(kind="event_type", types=["T1"]),
    "types": selector(kind="event_type", types=["T1", "T2"]),
    "a tag": selector(kind="tags", tags=["t1"], match="all"),
    "either": selector(**{"kind": "or", "of": [{"kind": "stream", "stream": "s-1"},
                                               {"kind": "event_type", "types": ["T2"]}]}),
    "what is there": "log_bounds_v1()",
    "streams": "list_streams_v1()",
    "a time": "time_bounds_v1(now() - interval '1 hour', null)",
    "an event": "event_detail_v1(p_id => gen_random_uuid())",
    "how far behind": "lag_v1()",
    "the overview": "overview_v1()",
    "an append": f"append_events('s-1', '{EVENT}')",
    "an append alone": "append_one_v1('s-1', -1, gen_random_uuid(), 'T1', '1', '{}', '{t1}', now())",
    "a batch": "append_batch_v1('{s-1}', '{-1}', '{1}', array[gen_random_uuid()], '{T1}', array['1'::json], null, null,"
    " array[now()])",
    "a condition on a tag": f"""append_events('s-2', '{EVENT}',
                                condition => '{{"items": [{{"tags": ["none", "t1"]}}]}}')""",
    "a condition on a type": f"""append_events('s-2', '{EVENT}', condition => '{{"items": [{{"types": ["T2"]}}]}}')""",
    "a condition on a stream": f"""append_events('s-2', '{EVENT}',
                                   condition => '{{"items": [{{"stream": "s-9"}}]}}')""",
}  # fmt: skip


async def touched(connection: asyncpg.Connection, call: str) -> int:
    """How many pages a call looks at once its plans are made."""
    for _ in range(2):
        plan = json.loads(
            await connection.fetchval(f"explain (analyze, buffers, format json) select * from eventstore.{call}")
        )[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_no_call_of_a_small_tenant_looks_through_the_log_of_all(
    small: asyncpg.Connection, everything: asyncpg.Connection
) -> None:
    assert await everything.fetchval("select relpages from pg_class where oid = 'eventstore.events'::regclass") > 800
    found = {name: await touched(small, call) for name, call in CALLS.items()}
    assert {name: pages for name, pages in found.items() if pages > PAGES} == {}
    # The test would see it.
    await everything.execute("drop index eventstore.events_type_position_idx")
    await everything.execute("alter table eventstore.events drop constraint events_position_key")
    assert await touched(small, CALLS["a type"]) > PAGES
