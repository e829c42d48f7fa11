"""What row-level security costs: CPU time of the server for appends and reads without tenants and with them, in turns.

    python -m benchmarks.scripts.tenant_cost

Two schemas of one embedded Postgres, one connection, each call a transaction of its own and sent as a store sends it.
CPU time is that of the connection's server process, which leaves out the WAL writer and the disk: with those a ratio is
nearer to 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks.scripts.evidence_cost import DATA, cpu
from benchmarks.stats import ratios, spread
from eventstore import tenants
from eventstore.database import Database
from eventstore.embedded import EmbeddedPostgres
from eventstore.roles import apply as apply_roles
from eventstore.schema import migrate
from eventstore.settings import Settings

ROUNDS = 21
EVENTS = 20_000
"""In each log before anything is measured."""

Work = Callable[[Database, Any, int], Awaitable[object]]


def one(database: Database, connection: Any, n: int) -> Awaitable[object]:
    stream, casts = f"order-{n % 100}", {5: "::text::json", 6: "::text::json", 8: "::text::timestamptz"}
    args = (stream, -1, uuid4(), "OrderPlaced", DATA, "{}", None, "2026-01-01T00:00:00Z")
    return database.rows("append_one_v1", *args, on=connection, casts=casts)


def hundred(database: Database, connection: Any, n: int) -> Awaitable[object]:
    types, data = ["OrderPlaced"] * 100, [DATA] * 100
    times = ["2026-01-01T00:00:00Z"] * 100
    casts = {6: "::text[]::json[]", 9: "::text[]::timestamptz[]"}
    args = ([f"order-{n % 10}"], [-1], None, [uuid4() for _ in types], types, data, None, None, times)
    return database.rows("append_events_v1", *args, on=connection, casts=casts)


def page(database: Database, connection: Any, n: int) -> Awaitable[object]:
    return database.rows("read_events_v1", None, n % 10 * 500, on=connection)


def stream(database: Database, connection: Any, n: int) -> Awaitable[object]:
    return database.rows("read_stream_v1", f"order-{n % 10}", 0, None, False, 10, on=connection)


WORKS: dict[str, tuple[Work, int]] = {
    "one event": (one, 400),
    "100 events": (hundred, 10),
    "a page of 500": (page, 20),
    "10 of a stream": (stream, 400),
}


async def opened(dsn: str, schema: str, tenant: str | None) -> Database:
    await asyncio.to_thread(migrate, dsn, schema)
    if tenant is not None:
        await apply_roles(dsn, schema, schema)
        await tenants.apply(dsn, schema)
    database = Database(Settings(), 1)
    await database.start(dsn, schema, tenant)
    return database


async def microseconds(database: Database, connection: Any, work: Work, times: int) -> float:
    before = cpu(connection.get_server_pid())
    for n in range(times):
        await work(database, connection, n)
    return (cpu(connection.get_server_pid()) - before) / times / 1000


async def main(dsn: str) -> None:
    sides = {"plain": await opened(dsn, "plain", None), "tenants": await opened(dsn, "tenants", "acme")}
    connection = await asyncpg.connect(dsn)
    for database in sides.values():
        for n in range(EVENTS // 100):
            await hundred(database, connection, n)
    await connection.execute("vacuum analyze")
    for name, (work, times) in WORKS.items():
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(ROUNDS + 1):
            for side, values in taken.items():
                spent = await microseconds(sides[side], connection, work, times)
                if number:  # the first round plans
                    values.append(spent)
        ratio = spread(ratios(taken["tenants"], taken["plain"]))
        print(
            f"{name:<14} plain {median(taken['plain']):>8.1f} µs  tenants {median(taken['tenants']):>8.1f} µs"
            f"  ratio {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        )
    await connection.close()
    for database in sides.values():
        await database.stop()


if __name__ == "__main__":
    with TemporaryDirectory() as directory, EmbeddedPostgres(f"{directory}/data") as server:
        asyncio.run(main(server.dsn))
