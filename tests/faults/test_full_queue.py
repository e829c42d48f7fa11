"""The queue of notifications is full, because somebody listens inside a transaction: signals are lost, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import asyncpg
import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent
from eventstore.database import mapped_errors
from tests.conftest import QUICK
from tests.faults.server import Server

FLOOD = "select pg_notify('flood', repeat('x', 7900))"


@asynccontextmanager
async def full_queue(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Let nothing more be notified as long as the block runs; yields a connection."""
    holder, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await holder.execute("listen flood")
    await holder.execute("begin")
    with suppress(asyncpg.ProgramLimitExceededError):
        for _ in range(200):
            await other.execute(FLOOD)
    yield other
    await holder.close()
    await other.close()


async def test_what_cannot_be_notified_has_a_name(own: Server) -> None:
    async with full_queue(own.dsn) as sql:
        with pytest.raises(DatabaseUnavailable, match="NOTIFY queue"), mapped_errors():
            await sql.execute(FLOOD)


async def test_a_callers_transaction_commits_although_nobody_can_be_told(own: Server) -> None:
    async with EventStore(own.dsn, settings=QUICK) as store, full_queue(own.dsn) as sql:
        async with sql.transaction():
            await store.append("s", [NewEvent("T")], connection=sql)
        assert [event.stream async for event in store.read_all()] == ["s"]


async def test_partitions_are_claimed_and_events_delivered_although_nobody_can_be_told(own: Server) -> None:
    async with EventStore(own.dsn, settings=replace(QUICK, listen=False)) as store, full_queue(own.dsn):
        handled = asyncio.Event()

        @store.handler("h", All())
        async def handle(event: Event, delivery: Delivery) -> None:
            handled.set()

        async with store.running():
            await store.append("s", [NewEvent("T")])
            async with asyncio.timeout(120):
                await handled.wait()
