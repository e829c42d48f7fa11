"""Beside the package `eventsourcing` and its Postgres recorders, as its factories make them."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import perf_counter
from typing import Any
from uuid import uuid4

from benchmarks.bench import Bench
from benchmarks.measure import drive, drive_threads, repeat
from benchmarks.model import Comparison, Sides, Skip, work
from benchmarks.sides import TEXT, TYPE, appender, conditional_appender
from benchmarks.works.reads import counted
from eventstore import EventStore

__all__ = ["peer_append", "peer_catch_up", "peer_dcb"]

CALLERS = 32
CURE = "pip install '.[bench]' in a checkout, or `make bench`"
STATE = TEXT.encode()


@contextmanager
def recorder(
    dsn: str, purpose: str, factory: str = "eventsourcing.postgres:PostgresFactory", **more: str
) -> Iterator[Any]:
    """Yield a recorder of the peer's own factory.

    Fairness: it stores the same 256 bytes, as bytes; its pool holds a connection for every caller and some to spare;
    everything else is its default. Its tables stand in the schema `public`, which it wants for its type names.
    """
    try:
        conninfo = importlib.import_module("psycopg.conninfo")
        module, name = factory.split(":")
        factory_class = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Skip(f"the peer is not installed: {error}", CURE) from None
    found = conninfo.conninfo_to_dict(dsn)
    environment = importlib.import_module("eventsourcing.utils").Environment(
        name=f"{purpose}_{uuid4().hex[:8]}",
        env={
            "POSTGRES_DBNAME": found["dbname"],
            "POSTGRES_HOST": found.get("host", "localhost"),
            "POSTGRES_PORT": str(found.get("port", 5432)),
            "POSTGRES_USER": found.get("user", "postgres"),
            "POSTGRES_PASSWORD": found.get("password", ""),
            "POSTGRES_POOL_SIZE": str(CALLERS),
            "POSTGRES_MAX_OVERFLOW": "16",
            **more,
        },
    )
    with factory_class(environment) as made:
        yield made.dcb_recorder() if hasattr(made, "dcb_recorder") else made.application_recorder()


def _inserter(peer: Any) -> Callable[[], int]:
    """Return a call that inserts one event into an aggregate of its own, at its exact version."""
    stored, origin, version = importlib.import_module("eventsourcing.persistence").StoredEvent, uuid4(), 0

    def insert() -> int:
        nonlocal version
        version += 1
        peer.insert_events([stored(origin, version, TYPE, STATE)])
        return 1

    return insert


@work(
    11,
    "peer-append",
    "one event an append, 32 callers, against eventsourcing",
    Comparison("ours", "eventsourcing", at_least=8),
    Comparison("ours", "eventsourcing, its SQL function"),
)
@asynccontextmanager
async def peer_append(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: 32 tasks append single events to streams of their own, at the exact version. Eventsourcing: 32 threads
    insert single events, as bytes of the same length, into aggregates of their own, through the application recorder
    of its Postgres factory with a pool of 32 to 48 connections. Both give each event a place in a global order that
    readers can follow without misses. Its SQL function: the same with POSTGRES_ENABLE_DB_FUNCTIONS, which is not its
    default and leaves out the table lock that this order rests on."""
    async with bench.store() as store:
        with (
            recorder(bench.dsn, "append") as peer,
            recorder(bench.dsn, "function", POSTGRES_ENABLE_DB_FUNCTIONS="yes") as function,
        ):
            yield {
                "eventsourcing": partial(drive_threads, [_inserter(peer) for _ in range(CALLERS)]),
                "ours": partial(drive, [appender(store, f"stream-{number}") for number in range(CALLERS)]),
                "eventsourcing, its SQL function": partial(
                    drive_threads, [_inserter(function) for _ in range(CALLERS)]
                ),
            }


@work(
    12,
    "peer-catch-up",
    "catching up with stored events, against eventsourcing",
    Comparison("listen", "eventsourcing", at_least=0.8),
    Comparison("read_all", "eventsourcing", at_least=0.8),
)
@asynccontextmanager
async def peer_catch_up(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: `listen(after=0)`, or `read_all()`, over 20,000 stored events into `Event` objects, JSON decoded.
    Eventsourcing: `recorder.subscribe(gt=0)` over as many stored events of the same size into its notifications,
    whose state stays undecoded bytes. Both read 500 at a time, and no handler does anything. From the call to the last
    event; closing is outside the clock."""
    async with bench.store() as store:
        count = await bench.fill(store, bench.size(20_000, 5_000), seconds=30)
        with recorder(bench.dsn, "catchup") as peer:
            stored, origins = importlib.import_module("eventsourcing.persistence").StoredEvent, [
                uuid4() for _ in range(100)
            ]  # fmt: skip
            for first in range(0, count, 1000):
                peer.insert_events(
                    [stored(origins[n % 100], n // 100, TYPE, STATE) for n in range(first, min(first + 1000, count))]
                )
            await bench.execute("analyze")

            async def subscribed() -> tuple[int, float]:
                return await asyncio.to_thread(_caught_up, peer, count)

            yield {
                "eventsourcing": partial(repeat, subscribed),
                "listen": partial(repeat, lambda: _listened(store, count)),
                "read_all": partial(repeat, lambda: counted(aiter(store.read_all()), count)),
            }


def _caught_up(peer: Any, expected: int) -> tuple[int, float]:
    began = perf_counter()
    with peer.subscribe(gt=0) as subscription:
        for _ in range(expected):
            next(subscription)
        return expected, perf_counter() - began


async def _listened(store: EventStore, expected: int) -> tuple[int, float]:
    began = perf_counter()
    async with store.listen(after=0) as events:
        await counted(events, expected)
        return expected, perf_counter() - began


@work(
    13,
    "peer-dcb",
    "append on a condition, against eventsourcing's DCB recorder",
    Comparison("ours, 1 caller", "eventsourcing, 1 caller"),
    Comparison("ours, 8 callers", "eventsourcing, 8 callers"),
)
@asynccontextmanager
async def peer_dcb(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: as condition-8, with 1 and with 8 tasks. Eventsourcing: its Postgres DCB recorder (tags in a table of their
    own), one event with one tag of the caller's own and a condition on that tag after the caller's last position, from
    1 and from 8 threads. It locks the whole table for every conditional append; ours locks
    what the conditions are about."""
    async with bench.store() as store:
        with recorder(bench.dsn, "dcb", "eventsourcing.dcb.postgres_tt:PostgresTTDCBFactory") as peer:
            yield {
                side: sample
                for callers in (1, 8)
                for side, sample in (
                    (
                        f"eventsourcing, {callers} caller{'s'[: callers - 1]}",
                        partial(drive_threads, [_conditional(peer, f"{callers}:{n}") for n in range(callers)]),
                    ),
                    (
                        f"ours, {callers} caller{'s'[: callers - 1]}",
                        partial(
                            drive,
                            [
                                conditional_appender(store, f"{callers}:{n}", after=0, conditional=True)
                                for n in range(callers)
                            ],
                        ),
                    ),
                )
            }


def _conditional(peer: Any, tag: str) -> Callable[[], int]:
    api, after = importlib.import_module("eventsourcing.dcb.api"), 0

    def append() -> int:
        nonlocal after
        query = api.DCBQuery(items=[api.DCBQueryItem(tags=[tag])])
        event = api.DCBEvent(type=TYPE, data=STATE, tags=[tag])
        after = peer.append([event], api.DCBAppendCondition(fail_if_events_match=query, after=after))
        return 1

    return append
