"""The store as a whole: on an embedded Postgres of its own, and how a program tells that it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent
from eventstore.errors import ConfigurationError
from tests.subscriptions.test_run import running


@pytest.mark.skipif(sys.platform != "linux", reason="the server follows its supervisor on Linux only")
async def test_a_supervisor_killed_with_its_server_is_started_again_under_an_open_store(tmp_path: Path) -> None:
    async with EventStore(data_dir=tmp_path / "data") as store:
        await store.append("s", [NewEvent(type="A")])
        await ended(int((tmp_path / "data" / "eventstore" / "supervisor").read_text()), tmp_path / "data")
        async with asyncio.timeout(60):
            while await types(store) != {"A"}:
                await asyncio.sleep(0.05)
        await store.append("s", [NewEvent(type="B")])
        assert await types(store) == {"A", "B"}


async def ended(supervisor: int, data: Path) -> None:
    """Kill the supervisor and wait until the server that it leaves has gone as well."""
    server = int((data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(supervisor, signal.SIGKILL)
    async with asyncio.timeout(60):
        while Path(f"/proc/{server}").exists() and "Z" not in Path(f"/proc/{server}/stat").read_text().split()[2]:
            await asyncio.sleep(0.01)


async def types(store: EventStore) -> set[str]:
    try:
        return {event.type async for event in store.read("s")}
    except DatabaseUnavailable:
        return set()


async def test_a_node_has_started_once_it_has_declared_and_claimed(store: EventStore) -> None:
    @store.handler("s", All(), pool_size=3)
    async def handle(event: Event, delivery: Delivery) -> None: ...

    waiting = asyncio.create_task(store.started())
    async with running(store):
        await asyncio.wait_for(waiting, 30)
        assert {one.owner for one in (await store.subscriptions.get("s")).partitions} == {"one"}
        await store.started()
    assert not store._pools.ready.is_set()


async def test_a_run_that_leaves_sigterm_alone_goes_on(store: EventStore) -> None:
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
    run = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        await asyncio.wait_for(store.started(), 30)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), 30)
        assert not store._pools._draining.is_set()
        store._pools.drain()
        await asyncio.wait_for(run, 30)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_what_accompanies_the_store_is_closed_before_any_of_it_the_last_that_came_first(db: str) -> None:
    closed: list[tuple[str, int]] = []

    async def close(name: str) -> None:
        closed.append((name, await store.head()))
        if name == "third":
            raise RuntimeError("does not close")

    async with EventStore(db) as store:
        for name in ("first", "second", "third"):
            store.accompany(partial(close, name))
        store.accompany(partial(close, "taken back"))()
    assert closed == [("third", 0), ("second", 0), ("first", 0)]


async def test_only_an_open_store_is_accompanied(db: str) -> None:
    store = EventStore(db)
    with pytest.raises(ConfigurationError, match="not open"):
        store.accompany(store.head)
