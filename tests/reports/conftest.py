"""Subscriptions in every state, written past the functions, and the number of queries that a report makes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from eventstore.database import Database

NODE = "00000000-0000-0000-0000-000000000001"
DEAD = "00000000-0000-0000-0000-000000000002"


@pytest.fixture
async def events(store: EventStore) -> None:
    """Ten events, the first of them two minutes old."""
    for number in range(10):
        await store.append(f"order-{number % 3}", [NewEvent(type=f"T{number % 2}", tags=[f"n:{number}"])])


@pytest.fixture
async def nodes(sql: asyncpg.Connection) -> None:
    """A node that is alive, and one whose lease ran out."""
    for incarnation, name, until in ((NODE, "ada", "1 hour"), (DEAD, "bob", "-1 hour")):
        await sql.execute(
            "insert into eventstore.nodes values ($1, $2, now(), now() + $3::text::interval)", incarnation, name, until
        )


async def aged(sql: asyncpg.Connection, position: int, seconds: float) -> None:
    """Let the event at *position*, and those before it, be so much older."""
    async with sql.transaction():
        await sql.execute("set local session_replication_role = replica")  # no trigger refuses it
        await sql.execute(
            "update eventstore.events set recorded_at = recorded_at - $2 * interval '1 s' where position <= $1",
            position, seconds,
        )  # fmt: skip


async def place(
    sql: asyncpg.Connection, name: str, position: int, owner: str | None = NODE, partition: int = 0
) -> None:
    """Put a checkpoint, and say who owns the partition."""
    await sql.execute(
        "update eventstore.checkpoints c set position = $2, owner = $3 from eventstore.subscriptions s"
        " where s.name = $1 and c.subscription_id = s.id and c.partition = $4",
        name, position, owner, partition,
    )  # fmt: skip


async def halt(sql: asyncpg.Connection, name: str, message: str = "no") -> None:
    await sql.execute(
        "update eventstore.checkpoints c set owner = null, halted = jsonb_build_object("
        " 'error', 'ValueError', 'message', $2::text, 'traceback', '', 'at', now()) from eventstore.subscriptions s"
        " where s.name = $1 and c.subscription_id = s.id",
        name, message,
    )  # fmt: skip


async def park(sql: asyncpg.Connection, name: str, position: int, state: str = "parked", ago: float = 0) -> None:
    await sql.execute(
        "insert into eventstore.parked (subscription_id, position, bucket, key, state, blocking, attempts, error,"
        "  message, first_failed_at, last_failed_at)"
        " select id, $2, 1, 's:order-1', $3, true, 5, 'KeyError', 'gone', now() - $4 * interval '1 s',"
        "  now() - $4 * interval '1 s' from eventstore.subscriptions where name = $1",
        name, position, state, ago,
    )  # fmt: skip


async def queries(database: Database, report: Awaitable[object]) -> int:
    """How many statements the pool sends for a report; it must have one free connection at most."""
    sent: list[str] = []

    def note(query: Any) -> None:
        sent.append(query.query)

    async with database.acquire() as connection:
        connection.add_query_logger(note)
    await report
    await asyncio.sleep(0)  # they are told in a turn of their own
    async with database.acquire() as connection:
        connection.remove_query_logger(note)
    return len(sent)
