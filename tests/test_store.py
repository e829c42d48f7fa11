"""The store as a whole: on an embedded Postgres of its own, and how a program tells that it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent
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
