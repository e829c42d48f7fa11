"""A shop with everything that the dashboard can show: for its pictures."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from eventstore import (
    EventPattern,
    EventPayload,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    Selector,
    Settings,
    Stream,
    StreamAppend,
    StreamMetadata,
)
from eventstore.analytics import RequestLog, RequestTable
from eventstore.demo.history import Fact, generate
from eventstore.reports.actions import recorded

HISTORY = 5000
STEP = 20
SPREAD = timedelta(hours=30)
"""Over which the history is told to have been recorded."""

FACTS = generate(HISTORY + 20_000, seed=4)

QUIET = Settings(lease_ttl=10, heartbeat_interval=3)

TOPICS = ("orders", "room:support", "prices")

KINDS: list[tuple[str, Selector, int]] = [
    ("billing", EventType("PaymentAuthorized", "PaymentFailed"), 4),
    ("fraud-scores", EventType("PaymentRequested"), 2),
    ("search-index", EventPattern("order-*"), 2),
    ("shipping-labels", EventType("ShipmentPrepared"), 2),
    ("mail-confirmations", EventType("OrderConfirmed"), 1),
    ("order-totals", EventType("OrderPlaced", "OrderCancelled"), 1),
    ("stock-levels", EventPattern("warehouse-*"), 4),
    ("warehouse-north", Stream("warehouse-north"), 1),
    ("vip-desk", EventType("OrderPlaced") & EventPayload({"tier": "VIP", "total": {"$gt": 500}}), 1),
    ("refunds", EventType("OrderCancelled"), 1),
    ("carrier-tracking", EventPattern("shipment-*"), 2),
]


class CardDeclined(Exception):
    """The bank said no."""


class IndexUnavailable(Exception):
    """The search engine does not answer."""


async def charge(event: Any) -> None:
    if event.type == "PaymentFailed" and event.bucket % 16 == 3:
        raise CardDeclined(f"the bank refused card ending in {4000 + event.bucket}: insufficient funds")


async def index(event: Any) -> None:
    if event.type == "OrderCompleted" and event.position > HISTORY + 200 and event.bucket % 2:
        raise IndexUnavailable("search.internal:9200 refused the connection")


def _register(store: EventStore) -> None:
    policies = {"search-index": FailurePolicy(attempts=1, then="halt"), "billing": FailurePolicy(attempts=2, delay=0.1)}
    for name, selector, size in KINDS:

        async def handle(event: Any, delivery: Any, name: str = name) -> None:
            if name == "billing":
                await charge(event)
            elif name == "search-index":
                await index(event)
            elif name == "fraud-scores":
                await asyncio.sleep(2)

        after = HISTORY - 800 if name == "fraud-scores" else 0
        store.handler(name, selector, pool_size=size, after=after, policy=policies.get(name))(handle)


@asynccontextmanager
async def busy_shop(dsn: str) -> AsyncIterator[EventStore]:
    """Fill the database, and keep it busy for as long as the block runs; yields the store of the dashboard."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(EventStore(dsn, settings=QUIET, node_name="web-1"))
        await _fill(store, dsn)
        for name in ("worker-1", "worker-2"):
            worker = await stack.enter_async_context(EventStore(dsn, settings=QUIET, node_name=name))
            _register(worker)
            await stack.enter_async_context(worker.running())
        await store.subscribe("loyalty-points", EventType("OrderCompleted"), after="current")
        await store.subscribe("analytics-export", EventPattern("order-*"))
        await store.subscribe("orders-topic", EventType("OrderPlaced"), sink="pubsub:orders", after="current")
        heard = [await stack.enter_async_context(store.pubsub.subscription(name)) for name in TOPICS]
        async with recorded(store.database, "ada", "dashboard", "pause", "analytics-export"):
            await store.subscriptions.pause("analytics-export")
        await _settled(store)
        await _act(store)
        tasks = [
            asyncio.create_task(work) for work in (_append(store), _talk(store), _requests(store), *map(_listen, heard))
        ]
        yield store
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fill(store: EventStore, dsn: str) -> None:
    for first in range(0, HISTORY, STEP):
        await _happen(store, FACTS[first : first + STEP])
    await store.set_stream_metadata("warehouse-north", StreamMetadata(max_count=50_000))
    await store.delete_stream("order-3")
    connection = await asyncpg.connect(dsn)
    # As if it had taken hours: nobody but the owner of the database can do that, past the triggers.
    await connection.execute("set session_replication_role = replica")
    await connection.execute(
        "update eventstore.events"
        " set (recorded_at, created_at) = (select at, at from"
        "  (select now() - interval '90 s' - $1::interval * (1 - position::float8 / $2) ^ 3) as told(at))",
        SPREAD,
        HISTORY,
    )
    await connection.close()


async def _happen(store: EventStore, facts: list[Fact]) -> None:
    streams: dict[str, list[NewEvent]] = {}
    for fact in facts:
        streams.setdefault(fact.stream, []).append(replace(fact.event, created_at=datetime.now(UTC)))
    await store.append_many([StreamAppend(name, events) for name, events in streams.items()])


async def _settled(store: EventStore) -> None:
    """Wait until what is to fail has failed, and the quick ones are through."""
    head = await store.head()
    for name in ("stock-levels", "billing", "carrier-tracking", "mail-confirmations"):
        await store.subscriptions.wait_for(name, head, timeout=60)


async def _act(store: EventStore) -> None:
    first, second, *_ = await store.subscriptions.parked("billing")
    for what, position in (("replay", first.position), ("discard", second.position)):
        settle = getattr(store.subscriptions, f"{what}_parked")
        async with recorded(store.database, "grace", "dashboard", what, "billing", {"position": position}):
            await settle("billing", position=position)
    async with recorded(store.database, "ada", "cli", "rewind", "order-totals", {"after": 0}):
        await store.subscriptions.rewind("order-totals", 0)


async def _append(store: EventStore) -> None:
    rng, at = random.Random(5), HISTORY
    for tick in itertools.count():
        many = 1 + int(2 * (1.4 + math.sin(tick / 40)) * rng.uniform(0.6, 1))
        await _happen(store, FACTS[at : at + many])
        at += many
        await asyncio.sleep(0.2)


async def _listen(messages: Any) -> None:
    async for _ in messages:
        pass


async def _talk(store: EventStore) -> None:
    while True:
        await store.pubsub.broadcast("room:support", {"text": "hello"})
        for _ in range(3):
            await store.pubsub.broadcast("prices", {"sku": "A-17", "price": 19})
        await asyncio.sleep(0.2)


PATHS = [
    ("GET", "/", 8, 12), ("GET", "/products", 9, 25), ("GET", "/search", 6, 70), ("POST", "/checkout", 3, 140),
    ("GET", "/orders/history", 2, 90), ("POST", "/login", 2, 45), ("GET", "/reports/annual", 1, 700),
]  # fmt: skip


async def _requests(store: EventStore) -> None:
    rng, now = random.Random(6), datetime.now(UTC)
    async with RequestTable(store.database) as table:
        await table.insert([_request(rng, now - timedelta(seconds=3600 * rng.random() ** 1.3)) for _ in range(6000)])


def _request(rng: random.Random, at: datetime) -> RequestLog:
    method, path, _, typical = rng.choices(PATHS, [weight for _, _, weight, _ in PATHS])[0]
    status = rng.choices([200, 302, 404, 500], [90, 4, 5, 1.2])[0]
    return RequestLog(
        request_id=uuid4(),
        method=method,
        path=path,
        status_code=status,
        duration_ms=typical * rng.lognormvariate(0, 0.6),
        device_type=rng.choices(["desktop", "mobile", "tablet"], [60, 34, 6])[0],
        session_id=f"s{rng.randrange(700)}",
        inserted_at=at,
    )
