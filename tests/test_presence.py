"""Nodes that run handlers, in the table and in the tracker of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, __version__
from eventstore.presence import NODES, nodes_tracker
from eventstore.tracker.tracker import Tracker
from tests.conftest import QUICK


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[None]:
    """A store whose handlers run, with a lease and two partitions."""

    async def handle(_: Event, __: Delivery) -> None: ...

    if not store._handlers:
        store.handler("audit", All(), pool_size=2)(handle)
    claimed = asyncio.Event()

    def note(_: Any) -> None:
        if len(store._pools.emitters) == 2:
            claimed.set()
        else:
            store._pools.moments.next("claimed").add_done_callback(note)

    store._pools.moments.next("claimed").add_done_callback(note)
    task = asyncio.create_task(store.run())
    try:
        async with asyncio.timeout(30):
            await claimed.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Watcher:
    """The tracker of nodes as a store of its own sees it."""

    def __init__(self, tracker: Tracker, changed: asyncio.Event) -> None:
        self.tracker, self._changed = tracker, changed

    @property
    def present(self) -> dict[str, dict[str, Any]]:
        return dict(self.tracker.list(NODES))

    async def until(self, condition: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        async with asyncio.timeout(30):
            while not condition(self.present):
                self._changed.clear()
                await self._changed.wait()
        return self.present


@pytest.fixture
async def watcher(db: str) -> AsyncIterator[Watcher]:
    changed = asyncio.Event()
    async with EventStore(db, settings=QUICK, node_name="other") as other, nodes_tracker(other.pubsub, changed) as tracker:  # fmt: skip  # noqa: E501
        yield Watcher(tracker, changed)


async def test_a_running_store_is_among_the_nodes_with_its_partitions(store: EventStore) -> None:
    before = datetime.now(UTC)
    async with running(store):
        (node,) = await store.nodes()
        assert (node.name, node.alive, node.partitions) == ("one", True, [("audit", 0), ("audit", 1)])
        assert node.incarnation == store._pools.lease.node
        assert node.lease_until > node.started_at
        assert abs((node.started_at - before).total_seconds()) < 60
    assert await store.nodes() == []


async def test_a_store_that_runs_nothing_is_no_node(store: EventStore) -> None:
    assert await store.nodes() == []


async def test_every_run_is_another_incarnation(store: EventStore) -> None:
    found = set()
    for _ in range(2):
        async with running(store):
            found |= {node.incarnation for node in await store.nodes()}
    assert len(found) == 2


async def test_an_expired_lease_is_shown_as_not_alive(store: EventStore, sql: asyncpg.Connection) -> None:
    dead = uuid4()
    await sql.execute(
        "insert into eventstore.nodes (incarnation, name, started_at, lease_until)"
        " values ($1, 'dead', now() - interval '1 hour', now() - interval '1 minute')",
        dead,
    )
    nodes = await store.nodes()
    assert [(node.incarnation, node.name, node.alive, node.partitions) for node in nodes] == [(dead, "dead", False, [])]


async def test_nodes_come_by_name_and_start(store: EventStore, sql: asyncpg.Connection) -> None:
    for name, age in ("b", 1), ("a", 2), ("a", 3), ("B", 1):
        await sql.execute(
            "insert into eventstore.nodes (incarnation, name, started_at, lease_until)"
            " values (gen_random_uuid(), $1, now() - make_interval(mins => $2), now() + interval '1 hour')",
            name, age,
        )  # fmt: skip
    nodes = await store.nodes()
    assert [node.name for node in nodes] == ["B", "a", "a", "b"]
    assert nodes[1].started_at < nodes[2].started_at


async def test_a_running_store_is_present_on_other_nodes_with_its_version_and_counts(
    store: EventStore, watcher: Watcher
) -> None:
    async with running(store):
        (node,) = await store.nodes()
        present = await watcher.until(lambda present: any(meta["partitions"] == 2 for meta in present.values()))
        assert list(present) == [str(node.incarnation)]
        meta = present[str(node.incarnation)]
        assert (meta["name"], meta["version"], meta["subscriptions"]) == ("one", __version__, ["audit"])
        assert datetime.fromisoformat(meta["started_at"]).tzinfo is not None
    # It says so itself: its silence would be noticed only after half a minute.
    async with asyncio.timeout(25):
        await watcher.until(lambda present: not present)


async def test_a_store_that_drains_leaves_as_well(store: EventStore, watcher: Watcher) -> None:
    async with running(store):
        await watcher.until(lambda present: len(present) == 1)
        store._pools.drain()
        await watcher.until(lambda present: not present)
        assert await store.nodes() == []


async def test_a_node_whose_lease_was_lost_is_present_as_its_new_incarnation(
    store: EventStore, watcher: Watcher, sql: asyncpg.Connection
) -> None:
    async with running(store):
        first = str((await store.nodes())[0].incarnation)
        await watcher.until(lambda present: list(present) == [first])
        await sql.execute("update eventstore.nodes set lease_until = now() - interval '1 second'")
        present = await watcher.until(lambda present: bool(present) and first not in present)
        assert len(present) == 1


async def test_presence_costs_a_store_that_does_not_listen_nothing(db: str) -> None:
    from dataclasses import replace

    async with EventStore(db, settings=replace(QUICK, listen=False), node_name="quiet") as store, running(store):
        assert [node.name for node in await store.nodes()] == ["quiet"]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "presence"]
