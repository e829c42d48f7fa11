"""What a projection does with the connection it is lent is its own affair, and its own failure."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent
from tests.subscriptions.test_run import running

POLICY = FailurePolicy(attempts=2, delay=0.01)


async def projected(store: EventStore, project: Any, events: int = 1) -> None:
    """Append events, and return once they are settled, projected or parked."""
    store.projection("p", All(), policy=POLICY)(project)
    result = await store.append("s", [NewEvent("A", {"n": n}) for n in range(events)])
    async with running(store):
        await store.started()
        await store.subscriptions.wait_for("p", result.position, timeout=30)


async def test_times_are_read_as_asyncpg_reads_them(store: EventStore) -> None:
    read: list[object] = []

    async def project(events: list[Event], tx: Any) -> None:
        read.append(await tx.fetchval("select now()"))

    await projected(store, project)
    assert isinstance(read[0], datetime)


@pytest.mark.parametrize("codec", ["json", "jsonb"])
async def test_a_codec_set_on_it_changes_nothing_that_is_stored(store: EventStore, codec: str) -> None:
    async def project(events: list[Event], tx: Any) -> None:
        await tx.set_type_codec(codec, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        if events[-1].data == {"n": 1}:
            raise ValueError

    await projected(store, project, events=2)
    assert [one.position for one in await store.subscriptions.parked("p")] == [2]
    for _ in range(12):
        await store.append("t", [NewEvent("B", {"x": 1})])
    assert [event.data async for event in store.read("t")] == [{"x": 1}] * 12


@pytest.mark.parametrize("statement", ["rollback", "commit"])
async def test_a_projection_that_ends_its_transaction_has_failed(store: EventStore, statement: str) -> None:
    async def project(events: list[Event], tx: Any) -> None:
        await tx.execute(statement)

    await projected(store, project)
    (parked,) = await store.subscriptions.parked("p")
    assert "must not commit or roll back" in (parked.message or "")


async def test_a_query_left_running_is_a_failure_and_not_a_lost_connection(store: EventStore) -> None:
    left: list[asyncio.Task[Any]] = []

    async def project(events: list[Event], tx: Any) -> None:
        left.append(asyncio.create_task(tx.fetch("select pg_sleep(30)")))
        await asyncio.sleep(0)

    await projected(store, project)
    await asyncio.gather(*left, return_exceptions=True)
    (parked,) = await store.subscriptions.parked("p")
    assert "left something running" in (parked.message or "")


async def test_an_event_that_kills_its_connection_is_parked_and_its_neighbours_are_not(store: EventStore) -> None:
    counts: dict[int, int] = {}

    async def project(events: list[Event], tx: Any, delivery: Delivery) -> None:
        for event in events:
            counts[event.position] = counts.get(event.position, 0) + 1
            if event.data == {"n": 5}:
                await tx.execute("select pg_terminate_backend(pg_backend_pid())")

    store.projection("p", All(), policy=FailurePolicy(attempts=2, delay=0.01, then="park_event"))(project)
    result = await store.append("s", [NewEvent("A", {"n": n}) for n in range(10)])
    async with running(store):
        await store.started()
        await store.subscriptions.wait_for("p", result.position, timeout=30)
    assert [one.position for one in await store.subscriptions.parked("p")] == [6]
    assert counts[6] == 3  # with its batch, and twice alone
