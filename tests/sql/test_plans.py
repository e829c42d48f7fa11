"""How the log is looked through: the plans of the very text that read_events_v1 executes, at 300,000 events.

The database is made once for the module, as its owner, past the append functions: rows first, then indexes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore import All, EventPattern, EventPayload, EventStore, EventType, Stream, Tags
from eventstore.log.read import Reading
from eventstore.selectors import Selector, dump
from tests.conftest import Databases

SMALL, LARGE = 10_000, 300_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

# A hundred events, evenly spread, are of a rare type, in streams of a rare category, and have a rare tag; the others
# are of 20 types, in 5,000 streams, of 20,000 customers. One is recorded a second, but pairs are swapped.
EVENTS = """
    insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at, recorded_at)
    select n, lpad(to_hex(n), 32, '0')::uuid, case when rare then 'order-' else 'bulk-' end || k % 5000, n, n % 1024,
           case when rare then 'Rare' else 'T' || n % 20 end, ('{{"n":' || n || '}}')::json, '{{}}',
           array['customer:' || n % 20000] || case when rare then array['rare'] end, at, at
      from generate_series(1, {count}) n,
           lateral (select n % {every} = 0, case when n % {every} = 0 then n / {every} % 5 else n end) r(rare, k),
           lateral (select timestamptz '2026-01-01Z' + (((n - 1) # 1) + 1) * interval '1 second') t(at)
"""
TAGS = """
    insert into event_tags (tag, position)
    select 'customer:' || n % 20000, n from generate_series(1, {count}) n union all
    select 'rare', n from generate_series({every}, {count}, {every}) n
"""
EXPLAIN = """
    create function pg_temp.explained(
        text, selector jsonb, low bigint, high bigint, since timestamptz, until timestamptz, size int)
    returns json language plpgsql set search_path = pg_catalog, eventstore, pg_temp as $$
    declare plan json;
    begin
        execute 'explain (analyze, buffers, timing off, format json) ' || $1
            into plan using selector, low, high, since, until, null::int, null::int, size;
        return plan;
    end $$
"""


def load(dsn: str, table: str, insert: str) -> None:
    """Insert into a table without indexes, and build them afterwards, as the migration defines them."""
    with psycopg.connect(dsn, options="-c search_path=eventstore") as sql:
        keys = sql.execute(
            "select 'constraint ' || conname, 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)"
            " from pg_constraint where conrelid = %s::regclass and contype in ('p', 'u')", [table]
        ).fetchall()  # fmt: skip
        indexes = sql.execute(
            "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
            " where indrelid = %s::regclass and indexrelid not in (select conindid from pg_constraint)", [table]
        ).fetchall()  # fmt: skip
        sql.execute(f"alter table {table} set unlogged")
        sql.execute(f"alter table {table} " + ", ".join(f"drop {name}" for name, _ in keys))
        for name, _ in indexes:
            sql.execute(f"drop index {name}")
        sql.execute(insert)
        for definition in [f"alter table {table} add {one}" for _, one in keys] + [one for _, one in indexes]:
            sql.execute(definition)
        sql.execute(f"analyze {table}")


@pytest.fixture(scope="module")
def logs(databases: Databases, pg: Any) -> Iterator[dict[int, str]]:
    """The DSN of a log of each size."""
    with ExitStack() as open_ones, ThreadPoolExecutor(2) as threads:
        found, loading = {}, []
        for count in (LARGE, SMALL):
            found[count] = open_ones.enter_context(databases.fresh(f"{pg.dbname}_{count}"))
            for table, insert in (("events", EVENTS), ("event_tags", TAGS)):
                text = insert.format(count=count, every=count // 100)
                loading.append(threads.submit(load, found[count], table, text))
        for one in loading:
            one.result()
        for count, dsn in found.items():
            with psycopg.connect(dsn) as sql:
                sql.execute(f"select setval('eventstore.event_positions', {count})")
        yield found


@pytest.fixture
def large(logs: dict[int, str]) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the large log, in a transaction that is undone."""
    with psycopg.connect(logs[LARGE]) as sql:
        yield sql
        sql.rollback()


def text_of(
    sql: psycopg.Connection[Any],
    selector: Selector | None,
    since: datetime | None = None,
    until: datetime | None = None,
    backwards: bool = False,
) -> str:
    asked = [dump(selector) if selector else None, since, until, backwards]
    found = sql.execute("select eventstore.read_events_sql_v1(%s, %s, %s, %s, null)", asked).fetchone()
    assert found is not None
    return str(found[0])


def explained(
    sql: psycopg.Connection[Any],
    selector: Selector | None,
    low: int = 0,
    high: int = LARGE,
    *,
    text: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backwards: bool = False,
) -> dict[str, Any]:
    """Execute the page's statement, or *text* instead, and return its plan with what it did."""
    text = text or text_of(sql, selector, since, until, backwards)
    sql.execute(EXPLAIN.replace("create function", "create or replace function"))
    asked = [text, dump(selector) if selector else None, low, high, since, until]
    found = sql.execute("select pg_temp.explained(%s, %s, %s, %s, %s, %s, 500)", asked).fetchone()
    assert found is not None
    return dict(found[0][0]["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def looked_at(plan: dict[str, Any]) -> int:
    """Rows of tables that the plan touched, whether it kept them or not."""
    kinds = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    scans = [node for node in nodes(plan) if "Relation Name" in node]
    return round(sum(node.get(kind, 0) * node["Actual Loops"] for node in scans for kind in kinds))


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def faults(plan: dict[str, Any], most: int) -> list[str]:
    """What is wrong with a plan that may look at *most* rows, and at eight blocks for each row or fewer."""
    whole = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    found = [f"the whole of {table} is scanned" for table in whole]
    if looked_at(plan) > most:
        found.append(f"{looked_at(plan):,} rows are looked at")
    if buffers(plan) > 8 * most + 50:
        found.append(f"{buffers(plan):,} blocks are read")
    return found


RARE = [
    Stream("order-3"),
    EventType("Rare"),
    EventType("Rare", "None"),
    Tags("rare"),
    Tags("rare", "customer:10000"),
    Tags("customer:77", "rare", match="any"),
    EventPattern("order-*"),
    EventPattern({"type": "Rare"}),
    Stream("order-3") & EventType("Rare"),
    EventType("Rare") & Tags("rare"),
    Tags("rare") & EventPayload({"n": {"$gt": 5}}),
    EventType("Rare") & Tags("rare") | EventType("T7") & Tags("customer:7"),
    Stream("order-3") | Tags("rare"),
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("selector", RARE, ids=dump)
def test_what_names_streams_types_or_tags_reads_its_own_events_only(
    logs: dict[int, str], selector: Selector, backwards: bool
) -> None:
    for count in (SMALL, LARGE):
        with psycopg.connect(logs[count]) as sql:
            plan = explained(sql, selector, 0, count, backwards=backwards)
            # Small tables are read as a whole where that is less.
            assert count == SMALL or not faults(plan, most=600)
            assert buffers(plan) < 2_000


@pytest.mark.parametrize("selector", [EventType("T3"), EventType("T3", "T4"), EventPattern("bulk-*"), None], ids=str)
def test_a_page_of_frequent_events_ends_when_it_is_full(
    large: psycopg.Connection[Any], selector: Selector | None
) -> None:
    assert not faults(explained(large, selector), most=12_000)


PAYLOADS = [
    EventPayload({"n": 5}),
    EventPayload({"n": {"$gt": LARGE}}),
    EventPattern({"metadata": {"by": "me"}}),
    EventPattern({"version": {"$lt": 5}}),
    EventPattern("*-3"),
    EventPayload({"n": 5}) | Tags("rare"),
    (Tags("rare") | Tags("customer:7")) & EventPayload({"n": 5}),
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("selector", PAYLOADS, ids=dump)
def test_what_has_to_look_into_events_looks_at_one_window(
    large: psycopg.Connection[Any], selector: Selector, backwards: bool
) -> None:
    plan = explained(large, selector, 500_000, 510_000, backwards=backwards)
    assert not faults(plan, most=10_000)
    assert buffers(plan) < 1_000


def seconds(count: int) -> datetime:
    return BEGAN + timedelta(seconds=count)


@pytest.mark.parametrize("since", [1, 3, LARGE // 2 + 1, LARGE - 1, LARGE + 1])
def test_the_bounds_of_a_time_are_exact_and_found_by_looking_at_little(
    large: psycopg.Connection[Any], since: int
) -> None:
    asked = [seconds(since), seconds(since + 2)]
    found = large.execute("select after, upto from eventstore.time_bounds_v1(%s, %s)", asked).fetchone()
    exact = large.execute(
        "select min(position) - 1, max(position) from eventstore.events"
        " where recorded_at >= %s and recorded_at < %s", asked
    ).fetchone()  # fmt: skip
    assert found == (exact if since <= LARGE else (LARGE, LARGE))


def test_a_start_by_time_touches_few_blocks(large: psycopg.Connection[Any]) -> None:
    found = large.execute(
        "explain (analyze, buffers, timing off, format json) select eventstore.start_position_v1(%s)",
        [json.dumps(seconds(LARGE // 2).isoformat())],
    ).fetchone()
    assert found is not None
    assert buffers(found[0][0]["Plan"]) < 2_000


async def test_a_rare_type_takes_few_queries_in_a_large_log(logs: dict[int, str]) -> None:
    async with EventStore(logs[LARGE]) as store:
        calls, rows = [], store._database.rows

        async def counted(function: str, *args: Any, **named: Any) -> list[asyncpg.Record]:
            calls.append(function)
            return await rows(function, *args, **named)

        store._database.rows = counted  # type: ignore[method-assign]
        reading = Reading(store._database, EventType("Rare"), clock=lambda: 0.0)
        assert len([event async for event in reading]) == 100
        assert calls == ["read_events_v1"] * 4


# -- the checker


def test_a_missing_index_is_caught(large: psycopg.Connection[Any]) -> None:
    large.execute("drop index eventstore.events_type_position_idx")
    assert faults(explained(large, EventType("Rare")), most=600)


def test_a_condition_that_no_index_serves_is_caught(large: psycopg.Connection[Any]) -> None:
    for selector, good, bad in (
        (EventType("Rare"), "e.type = ", "lower(e.type) = "),
        (Tags("rare"), "t.tag = ", "lower(t.tag) = "),
    ):
        text = text_of(large, selector)
        assert good in text
        assert faults(explained(large, selector, text=text.replace(good, bad)), most=600)


def test_a_query_without_a_window_is_caught(large: psycopg.Connection[Any]) -> None:
    assert faults(explained(large, EventPayload({"n": {"$lt": 0}}), 0, 100_000), most=10_000)


async def test_the_text_that_is_explained_is_the_text_that_is_executed(sql: asyncpg.Connection) -> None:
    await sql.execute("select eventstore.append_events('s', '[{\"type\": \"A\"}]')")
    query = "select count(*) from eventstore.read_events_v1($1) where id is not null"
    assert await sql.fetchval(query, dump(All())) == 1
    await sql.execute(
        "drop function eventstore.read_events_sql_v1; create function eventstore.read_events_sql_v1("
        " jsonb, timestamptz, timestamptz, boolean, int) returns text language sql as $$ select 'planted' $$"
    )
    with pytest.raises(asyncpg.PostgresSyntaxError, match="planted"):
        await sql.fetchval(query, dump(All()))


CONDITIONS = {
    "a tag": {"tags": ["customer:7"]},
    "the tag of a few": {"tags": ["rare"]},
    "two tags": {"tags": ["customer:7", "rare"]},
    "a tag and a type": {"tags": ["rare"], "types": ["Rare"]},
    "a type": {"types": ["T7"]},
    "a type that has no event": {"types": ["Absent"]},
    "a stream": {"stream": "order-1"},
    "a stream and a type": {"stream": "order-1", "types": ["Absent"]},
    "a stream that has no event": {"stream": "absent"},
    "every event": {},
}


def blocks_of_a_condition(dsn: str, item: dict[str, Any], after: int) -> int:
    """Blocks that judging a condition touches, once its statements are planned for all values."""
    condition = json.dumps({"items": [item], "after": after})
    with psycopg.connect(dsn, options="-c search_path=eventstore") as sql:
        for _ in range(8):
            sql.execute("select broken_by_v1(%s::jsonb)", [condition])
        row = sql.execute(
            "explain (analyze, buffers, timing off, format json) select broken_by_v1(%s::jsonb)", [condition]
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("item", CONDITIONS.values(), ids=CONDITIONS)
def test_judging_a_condition_costs_the_same_at_any_size_of_the_log(logs: dict[int, str], item: dict[str, Any]) -> None:
    small, large = (blocks_of_a_condition(logs[count], item, count - 50) for count in (SMALL, LARGE))
    assert large < 100
    assert large <= small * 2 + 20


@pytest.mark.parametrize("item", [item for item in CONDITIONS.values() if "Absent" in str(item) or item.get("tags")])
def test_a_condition_after_nothing_looks_at_its_own_events_only(logs: dict[int, str], item: dict[str, Any]) -> None:
    assert blocks_of_a_condition(logs[LARGE], item, 0) < 700


def test_a_condition_that_walks_the_log_is_caught(logs: dict[int, str]) -> None:
    with psycopg.connect(logs[LARGE], options="-c search_path=eventstore") as sql:
        row = sql.execute(
            "explain (analyze, buffers, timing off, format json)"
            " select min(position) from events where position > 0 and type || '' = 'Absent'"
        ).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] > 700
