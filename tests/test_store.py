"""The store on an embedded Postgres of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from eventstore import DatabaseUnavailable, EventStore, NewEvent


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
