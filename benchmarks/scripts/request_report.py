"""How long a report on requests takes: 1,000,000 of them in the month, 100,000 in the last quarter of an hour.

    python -m benchmarks.scripts.request_report

On an embedded Postgres of its own. Filling takes about a minute.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from eventstore import EventStore
from eventstore.reports.requests import read_requests

RUNS = 30

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)

# 500 paths, 7,000 sessions; latencies from 1 to 400 ms, evenly over their logarithms.
FILL = """
    insert into eventstore.request_logs
        (request_id, method, path, status_code, duration_ms, user_agent, remote_ip, referer, device_type, session_id,
         session_page_views, inserted_at)
    select gen_random_uuid(), case when n % 10 = 0 then 'POST' else 'GET' end, '/items/' || n::bigint * 7919 % 500,
           case when n % 50 = 0 then 500 when n % 20 = 0 then 404 else 200 end, exp(random() * 6),
           'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130', left(md5(n::text), 16),
           'Direct', (array['desktop', 'mobile', 'tablet'])[1 + n % 3], md5((n % 7000)::text), n % 10,
           timestamptz '2026-06-15 12:00Z' - (n + 1) * ($3::interval / 100000)
      from generate_series($1::int, $1::int + $2::int - 1) n
"""


async def main() -> None:
    with TemporaryDirectory() as directory:
        async with EventStore(data_dir=directory) as store, store.database.acquire() as sql:
            await sql.execute("select eventstore.ensure_request_month_v1('2026-06-15 12:00Z')")
            await sql.execute("set synchronous_commit = off")
            await sql.execute(FILL, 0, 100_000, timedelta(minutes=15), timeout=600)
            await sql.execute(FILL, 100_000, 900_000, timedelta(days=1), timeout=600)
            await sql.execute("vacuum analyze eventstore.request_logs")
        async with EventStore(data_dir=directory) as store:
            taken = []
            for _ in range(RUNS):
                began = perf_counter()
                report = await read_requests(store.database, until=NOON)
                taken.append((perf_counter() - began) * 1000)
            print(f"{report.requests:,} requests: median {median(taken):.0f} ms, fastest {min(taken):.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
