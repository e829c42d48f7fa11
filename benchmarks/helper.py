"""The other process of works that need several: ``python -m benchmarks.helper DSN SCHEMA``, told by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Call, drive
from benchmarks.sides import Floor, appender, new_event
from eventstore import All, EventStore


class Actions:
    """What it can be told."""

    def __init__(self, dsn: str, schema: str, open_: AsyncExitStack) -> None:
        self.dsn, self.schema, self.open = dsn, schema, open_
        self.callers: dict[str, list[Call]] = {}
        self.node: AsyncExitStack | None = None
        self.handled = 0

    async def hello(self) -> None:
        """Answer, once everything is imported."""

    async def prepare(self, name: str, callers: int) -> None:
        """Open *callers* of either side, each with its own stream; *name* makes the streams differ."""
        store = await self.open.enter_async_context(EventStore(self.dsn, schema=self.schema))
        self.callers["ours"] = [appender(store, f"{name}-{number}") for number in range(callers)]
        floor, self.callers["floor"] = Floor(self.dsn, f"{self.schema}_floor"), []
        for number in range(callers):
            connection, call = await floor.inserter(f"{name}-{number}")
            self.open.push_async_callback(connection.close)
            self.callers["floor"].append(call)

    async def drive(self, side: str, seconds: float, start: float) -> dict[str, Any]:
        """Let all callers of a side call, from *start* on."""
        return asdict(await drive(self.callers[side], seconds, start=start))

    async def listen(self, subscription: str | None) -> None:
        """Be a node: idle, or with a handler that does nothing."""
        self.node, self.handled = AsyncExitStack(), 0
        store = EventStore(self.dsn, schema=self.schema)
        if subscription is None:
            await self.node.enter_async_context(store)
            return
        probed = asyncio.Event()

        @store.handler(subscription, All(), after="current")
        async def handle(_event: object, _delivery: object) -> None:
            self.handled += 1
            probed.set()

        await self.node.enter_async_context(store)
        running = asyncio.create_task(store.run())
        self.node.push_async_callback(asyncio.gather, running)
        self.node.callback(running.cancel)
        while not probed.is_set():
            await store.append("probe", [new_event()])
            try:
                async with asyncio.timeout(0.2):
                    await probed.wait()
            except TimeoutError:
                continue

    async def leave(self) -> int:
        """Be no node any more; returns how many events were handled."""
        if self.node is not None:
            with suppress(asyncio.CancelledError):
                await self.node.aclose()
            self.node = None
        return self.handled


async def serve(dsn: str, schema: str) -> None:
    """Do what every line says, until there are no more."""
    async with AsyncExitStack() as open_:
        actions = Actions(dsn, schema, open_)
        while line := await asyncio.to_thread(sys.stdin.readline):
            action, arguments = json.loads(line)
            print(json.dumps(await getattr(actions, action)(**arguments)), flush=True)
        await actions.leave()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
