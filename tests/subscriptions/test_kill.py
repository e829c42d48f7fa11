"""Workers as processes of their own: killed without warning, taken over, restarted."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg

from eventstore import All, Delivery, Event, EventStore, NewEvent
from eventstore.schema import signal_channel
from tests.hunt.journal import Entry, entries
from tests.subscriptions.test_run import running

ROOT = Path(__file__).parent.parent.parent
COUNT = 600


@asynccontextmanager
async def worker(dsn: str, journal: Path, name: str, *most: str) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ("-m", "tests.subscriptions.worker", dsn, str(journal), name, *most)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 60) == 0


def handled(journal: Path) -> list[Entry]:
    return list(entries(journal)) if journal.exists() else []


async def until(journal: Path, count: int) -> None:
    """Wait until *count* different events are noted."""
    async with asyncio.timeout(60):
        while len({entry.id for entry in handled(journal)}) < count:
            await asyncio.sleep(0.01)


async def killed(process: asyncio.subprocess.Process, name: str, sql: asyncpg.Connection) -> None:
    """Kill the worker of this name, and let its lease run out, which others are told of."""
    process.kill()
    await process.wait()
    await sql.execute("update eventstore.nodes set lease_until = now() - interval '1 s' where name = $1", name)
    await sql.execute("select pg_notify($1, 'control')", signal_channel("eventstore"))


async def fill(store: EventStore) -> None:
    await store.subscribe("s", All(), pool_size=4)
    batch = [NewEvent(type="T") for _ in range(COUNT)]
    await store.append_known([f"s{n % 30}" for n in range(COUNT)], batch)


async def test_a_worker_killed_half_way_and_restarted_misses_nothing(
    store: EventStore, db: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    await fill(store)
    async with worker(db, journal, "first", str(COUNT // 3)) as first:
        await until(journal, COUNT // 3)
        await killed(first, "first", sql)
    assert len({entry.id for entry in handled(journal)}) == COUNT // 3
    async with worker(db, journal, "second"):
        await until(journal, COUNT)
    assert_ordered(handled(journal))


async def test_a_survivor_takes_over_and_no_partition_runs_twice_at_once(
    store: EventStore, db: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    await fill(store)
    async with worker(db, journal, "one", str(COUNT // 4)) as one, worker(db, journal, "two"):
        await until(journal, COUNT // 4)
        await killed(one, "one", sql)
        await until(journal, COUNT)
    assert_ordered(handled(journal))
    stored = await store.subscriptions.get("s")
    assert {partition.owner for partition in stored.partitions} == {None}


def assert_ordered(read: list[Entry]) -> None:
    """In each owner's term, versions of a stream increase; a term never begins before the one before it ended."""
    terms: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    epochs: dict[str, int] = {}
    for entry in read:
        _, partition, epoch = entry.process.split("/")
        assert epochs.setdefault(partition, int(epoch)) <= int(epoch), f"{entry} after epoch {epochs[partition]}"
        epochs[partition] = int(epoch)
        terms[entry.process, entry.stream].append(entry.version)
    assert all(versions == sorted(set(versions)) for versions in terms.values())


async def test_a_node_that_leaves_does_not_take_its_lease_for_lost(store: EventStore) -> None:
    pools = store._pools
    leave, held = pools.ledger.leave, []

    async def leaving(node: UUID) -> None:
        held.append(pools._holding.done())
        await leave(node)

    pools.ledger.leave = leaving  # type: ignore[method-assign]
    store.handler("s", All())(nothing)
    claimed = pools.moments.next("claimed")
    async with running(store):
        await asyncio.wait_for(claimed, 30)
    assert held == [True]


async def nothing(event: Event, delivery: Delivery) -> None:
    return None
