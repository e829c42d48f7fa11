"""What reports cost at ten thousand subscriptions and a million events: ``python -m benchmarks.scripts.reports``.

The log and the subscriptions are written as their owner, past the functions: half of the checkpoints stand at the end
of the log, the others anywhere; some subscriptions are paused, halted, or have parked events, and twenty nodes own most
partitions. Then each report is read a number of times over one connection.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import Any

import asyncpg

from benchmarks.server import database as own_database
from eventstore import EventStore
from eventstore.database import Database
from eventstore.reports.actions import list_actions
from eventstore.reports.overview import read_nodes, read_overview
from eventstore.reports.streams import EventSearch, list_streams, read_event, read_timeline, search_events
from eventstore.reports.subscriptions import list_subscriptions, read_subscription
from eventstore.settings import Settings

Report = Callable[[], Awaitable[Any]]

EVENTS = """
    insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at, recorded_at)
    select n, lpad(to_hex(n), 32, '0')::uuid, 'order-' || n % 5000, (n - 1) / 5000 + 1, n % 5000 % 1024, 'T' || n % 20,
           ('{{"n":' || n || '}}')::json, '{{}}', array['customer:' || n % 20000], at, at
      from generate_series(1, {events}) n,
           lateral (select clock_timestamp() - ({events} - n) * interval '100 ms') t(at)
"""
STREAMS = """
    insert into streams (name, version, bucket)
    select stream, max(version), min(bucket) from events group by stream
"""
TAGS = "insert into event_tags (tag, position) select tags[1], position from events"
NODES = """
    insert into nodes (incarnation, name, started_at, lease_until)
    select lpad(n::text, 32, '0')::uuid, 'node-' || n, clock_timestamp(), clock_timestamp() + interval '1 day'
      from generate_series(1, 20) n
"""
SUBSCRIPTIONS = """
    insert into subscriptions (key, name, selector, after, pool_size, state, start_position)
    select md5(n::text), 'subscription-' || n, '{{"kind": "event_type", "types": ["T1"]}}', '0',
           case when n % 10 = 0 then 8 else 1 end, case when n % 100 = 7 then 'paused' else 'active' end, 0
      from generate_series(1, {subscriptions}) n
"""
CHECKPOINTS = """
    insert into checkpoints (subscription_id, partition, position, epoch, owner, settled_at, halted)
    select s.id, p, case when s.id % 2 = 0 then {events} else s.id * 7919 % {events} end, 1,
           case when s.id % 50 > 0 then lpad((s.id % 20 + 1)::text, 32, '0')::uuid end, clock_timestamp(),
           case when s.id % 200 = 3 and p = 0 then
               json_build_object('error', 'ValueError', 'message', 'no', 'at', clock_timestamp())::jsonb end
      from subscriptions s, generate_series(0, s.pool_size - 1) p
"""
HANDLED = """
    insert into node_subscriptions (subscription_id, incarnation)
    select id, lpad((id % 20 + 1)::text, 32, '0')::uuid from subscriptions
"""
PARKED = """
    insert into parked (subscription_id, position, bucket, key, state, blocking, attempts, error, message,
                        first_failed_at, last_failed_at)
    select s.id, n * 10, n % 1024, 's:order-' || n, case when n % 4 = 0 then 'skipped' else 'parked' end, true, 5,
           'ValueError', 'this does not work', clock_timestamp(), clock_timestamp() - n * interval '1 second'
      from subscriptions s, generate_series(1, 100) n where s.id % 50 = 1
"""


async def fill(dsn: str, events: int, subscriptions: int) -> None:
    """Write the log and the subscriptions."""
    sql = await asyncpg.connect(dsn, server_settings={"search_path": "eventstore", "synchronous_commit": "off"})
    for statement in (EVENTS, STREAMS, TAGS, NODES, SUBSCRIPTIONS, CHECKPOINTS, HANDLED, PARKED):
        await sql.execute(statement.format(events=events, subscriptions=subscriptions), timeout=600)
    await sql.execute(f"select setval('event_positions', {events})")
    await sql.execute("vacuum analyze", timeout=600)
    await sql.close()


def reports(database: Database, events: int) -> dict[str, Report]:
    """Name each report, with the arguments that make it work hardest."""
    at = datetime.now(UTC) - timedelta(hours=6)
    nowhere = EventSearch(types=("T1",), tags=("customer:2",))
    return {
        "overview, the first": lambda: read_overview(database),
        "nodes": lambda: read_nodes(database),
        "subscriptions by name": lambda: list_subscriptions(database),
        "subscriptions, most behind": lambda: list_subscriptions(database, order="behind"),
        "subscriptions, a search, page 20": lambda: list_subscriptions(database, search="TION-1", offset=1000),
        "subscriptions, halted": lambda: list_subscriptions(database, status="halted"),
        "a subscription": lambda: read_subscription(database, "subscription-10"),
        "streams": lambda: list_streams(database, prefix="order-4"),
        "streams of a category": lambda: list_streams(database, category="order"),
        "events, the newest": lambda: search_events(database),
        "events of a stream": lambda: search_events(database, EventSearch(stream="order-7")),
        "events of a category": lambda: search_events(database, EventSearch(category="order")),
        "events of no category": lambda: search_events(database, EventSearch(category="none")),
        "events of a type": lambda: search_events(database, EventSearch(types=("T3",))),
        "events of a tag": lambda: search_events(database, EventSearch(tags=("customer:3",))),
        "events of a type and a tag, none": lambda: search_events(database, nowhere),
        "events of a time": lambda: search_events(database, EventSearch(types=("T3",), until=at)),
        "events of a time and a tag": lambda: search_events(database, EventSearch(tags=("customer:3",), since=at)),
        "an event": lambda: read_event(database, events // 2),
        "a timeline": lambda: read_timeline(database, "order-7"),
        "actions": lambda: list_actions(database),
    }


async def measured(database: Database, report: Report, times: int) -> tuple[int, float, float]:
    """Return how many queries it takes, and the median and the longest of how many seconds."""
    calls, taken, rows = 0, [], database.rows

    async def counted(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return await rows(*args, **named)

    database.rows = counted  # type: ignore[method-assign]
    await report()
    database.rows = rows  # type: ignore[method-assign]
    for _ in range(times):
        began = perf_counter()
        await report()
        taken.append(perf_counter() - began)
    return calls, median(taken), max(taken)


async def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dsn", help="a server to make a database on; by default an embedded one")
    made.add_argument("--events", type=int, default=1_000_000)
    made.add_argument("--subscriptions", type=int, default=10_000)
    made.add_argument("--times", type=int, default=15)
    arguments = made.parse_args()
    async with own_database(arguments.dsn) as (dsn, _):
        await EventStore.migrate(dsn)
        await fill(dsn, arguments.events, arguments.subscriptions)
        print(f"{arguments.subscriptions:,} subscriptions, {arguments.events:,} events")
        async with EventStore(dsn, settings=Settings(listen=False, connections=1)) as store:
            database = store.database
            first = await read_overview(database)
            every = reports(database, arguments.events) | {"overview, the next": lambda: read_overview(database, first)}
            print(f"{'':36}{'queries':>8}{'median ms':>11}{'longest ms':>12}")
            for name, report in every.items():
                calls, middle, longest = await measured(database, report, arguments.times)
                print(f"{name:36}{calls:>8}{middle * 1000:>11.1f}{longest * 1000:>12.1f}")


if __name__ == "__main__":
    asyncio.run(main())
