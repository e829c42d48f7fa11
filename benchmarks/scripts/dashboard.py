"""What pages of the dashboard cost at ten thousand subscriptions and a million events.

``python -m benchmarks.scripts.dashboard``: the database is that of ``benchmarks.scripts.reports``. Each page is asked
for a number of times, as a browser does, inside of this process.
"""

from __future__ import annotations

import argparse
import asyncio
from statistics import median
from time import perf_counter
from typing import Any

import httpx

from benchmarks.scripts.reports import fill
from benchmarks.server import database as own_database
from eventstore import EventStore
from eventstore.dashboard import dashboard

PAGES = (
    "/",
    "/subscriptions",
    "/subscriptions?order=behind",
    "/subscriptions?search=TION-1&offset=1000",
    "/subscriptions?status=halted",
    "/subscriptions/subscription-10",
    "/subscriptions/subscription-51",
    "/rewind?name=subscription-10&to=999000",
    "/streams?category=order",
    "/streams/order-7",
    "/events",
    "/events?type=T1&tag=customer:2",
    "/events?category=none",
    "/events/500000",
    "/nodes",
    "/pubsub",
    "/requests",
    "/actions",
    "/metrics",
)


class Counter:
    """Counts what is asked of the database."""

    def __init__(self, store: EventStore) -> None:
        self.queries, self._acquire = 0, store.database.acquire
        store.database.acquire = self.acquire  # type: ignore[method-assign]

    def acquire(self) -> Any:
        self.queries += 1
        return self._acquire()


async def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dsn", help="a server to make a database on; by default an embedded one")
    made.add_argument("--events", type=int, default=1_000_000)
    made.add_argument("--subscriptions", type=int, default=10_000)
    made.add_argument("--times", type=int, default=9)
    arguments = made.parse_args()
    async with own_database(arguments.dsn) as (dsn, _):
        await EventStore.migrate(dsn)
        await fill(dsn, arguments.events, arguments.subscriptions)
        async with EventStore(dsn) as store:
            counter, transport = Counter(store), httpx.ASGITransport(dashboard(store))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                print(f"{arguments.subscriptions:,} subscriptions, {arguments.events:,} events")
                print(f"{'':44}{'kB':>8}{'queries':>8}{'median ms':>11}{'longest ms':>12}")
                for page in PAGES:
                    await show(client, counter, page, arguments.times)


async def show(client: httpx.AsyncClient, counter: Counter, page: str, times: int) -> None:
    """Print a line about *page*; the first time, which also compiles its template, does not count."""
    answer = await client.get(page, headers={"accept": "text/html"})
    assert answer.status_code == 200, (page, answer.text)
    counter.queries, taken = 0, []
    for _ in range(times):
        began = perf_counter()
        await client.get(page, headers={"accept": "text/html"})
        taken.append(perf_counter() - began)
    size, queries = len(answer.content) / 1000, counter.queries / times
    print(f"{page:44}{size:>8.0f}{queries:>8.1f}{median(taken) * 1000:>11.1f}{max(taken) * 1000:>12.1f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
