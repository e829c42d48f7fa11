"""What the chain costs: CPU time of the server for appends without it and with it, in turns; and how long verifying is.

    python -m benchmarks.scripts.evidence_cost

Two schemas of one embedded Postgres, one connection, each append a transaction of its own. CPU time is that of the
connection's server process, which leaves out the WAL writer and the disk: with those a ratio is nearer to 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks.stats import ratios, spread
from eventstore import EventStore, NewEvent
from eventstore.embedded import EmbeddedPostgres
from eventstore.evidence.keys import PublicKey, SigningKey, create
from eventstore.evidence.sealing import seal
from eventstore.evidence.switching import turn
from eventstore.evidence.verifying import verify
from eventstore.schema import migrate

ROUNDS = 21
DATA = '{"order": 1234, "total": 99.5, "items": ["one", "two", "three"], "note": "' + "x" * 120 + '"}'

Work = Callable[[Any, str, int], Awaitable[None]]


async def one(connection: Any, schema: str, n: int) -> None:
    await connection.fetch(
        f"select * from {schema}.append_one_v1($1, -1, $2, 'OrderPlaced', $3, '{{}}', null, now())",
        f"order-{n % 100}",
        uuid4(),
        DATA,
    )


async def hundred(connection: Any, schema: str, n: int) -> None:
    await connection.fetch(
        f"select * from {schema}.append_events_v1(array[$1], array[-1], null, $2, array_fill('OrderPlaced'::text,"
        f" array[100]), array_fill($3::json, array[100]), null, null, array_fill(now(), array[100]))",
        f"order-{n % 10}",
        [uuid4() for _ in range(100)],
        DATA,
    )


def cpu(pid: int) -> int:
    """Nanoseconds that a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


async def microseconds(connection: Any, schema: str, work: Work, times: int) -> float:
    before = cpu(connection.get_server_pid())
    for n in range(times):
        await work(connection, schema, n)
    return (cpu(connection.get_server_pid()) - before) / times / 1000


async def main(dsn: str, directory: str) -> None:
    for schema in ("plain", "chained", "verified"):
        await asyncio.to_thread(migrate, dsn, schema)
    async with EventStore(dsn, schema="chained") as store:
        await turn(store.database, True)
    await costs(dsn)
    await verified(dsn, directory)


async def costs(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    for name, work, times in (("one event", one, 400), ("100 events", hundred, 10)):
        taken: dict[str, list[float]] = {"plain": [], "chained": []}
        for number in range(ROUNDS + 1):
            for schema, values in taken.items():
                spent = await microseconds(connection, schema, work, times)
                if number:  # the first round plans
                    values.append(spent)
        ratio = spread(ratios(taken["chained"], taken["plain"]))
        print(
            f"{name:<11} plain {median(taken['plain']):>8.1f} µs  chained {median(taken['chained']):>8.1f} µs"
            f"  ratio {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        )
    await connection.close()


async def verified(dsn: str, directory: str) -> None:
    async with EventStore(dsn, schema="verified") as store:
        await turn(store.database, True)
        for n in range(200):
            order = {"n": n, "note": "x" * 200}
            events = [NewEvent("OrderPlaced", order, tags=[f"customer:{i % 90}"]) for i in range(500)]
            await store.append(f"order-{n % 50}", events)
        create(f"{directory}/key")
        key, public = SigningKey.read(f"{directory}/key"), PublicKey.read(f"{directory}/key.pub")
        began = perf_counter()
        made = await seal(store.database, key, now=datetime.now(UTC))
        assert made is not None
        print(f"sealing {made.events:,} events took {perf_counter() - began:.1f} s")
        began = perf_counter()
        found = await verify(store.database, seals=[made], keys=[public])
        print(f"verifying {found.events:,} events took {perf_counter() - began:.1f} s; intact: {found.intact}")


if __name__ == "__main__":
    with TemporaryDirectory() as directory, EmbeddedPostgres(f"{directory}/data") as server:
        asyncio.run(main(server.dsn, directory))
