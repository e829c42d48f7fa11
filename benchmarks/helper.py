"""The other process of works that need several: ``python -m benchmarks.helper DSN SCHEMA``, told by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from time import perf_counter
from typing import Any

import asyncpg
import orjson

from benchmarks.measure import Call, drive
from benchmarks.sides import Floor, appender, new_event
from benchmarks.stats import percentile
from eventstore import All, EventStore
from eventstore.mailbox import Mailbox
from eventstore.pubsub import Postgres, PubSub


class Actions:
    """What it can be told."""

    def __init__(self, dsn: str, schema: str, open_: AsyncExitStack) -> None:
        self.dsn, self.schema, self.open = dsn, schema, open_
        self.callers: dict[str, list[Call]] = {}
        self.node: AsyncExitStack | None = None
        self.handled = 0
        self.tasks: list[asyncio.Task[None]] = []

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

    async def hear(self, name: str, topic: str) -> None:
        """Be a node of the PubSub *name* that subscribes to *topic*, and listen to what is notified by hand."""
        pubsub = PubSub(name, Postgres(self.dsn, node_name="helper", schema=self.schema))
        self.pubsub = await self.open.enter_async_context(pubsub)
        self.heard_: asyncio.Queue[tuple[Any, float]] = asyncio.Queue()
        mailbox = Mailbox[Any](1_000_000)
        pubsub.subscribe(topic, mailbox)
        self.tasks.append(asyncio.create_task(self._note(mailbox)))
        connection = await asyncpg.connect(self.dsn)
        self.open.push_async_callback(connection.close)
        await connection.add_listener(
            "by_hand", lambda *arguments: self.heard_.put_nowait((orjson.loads(arguments[-1]), perf_counter()))
        )

    async def _note(self, mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            self.heard_.put_nowait((message, perf_counter()))

    async def heard(self, count: int) -> dict[str, Any]:
        """Return how many of the next *count* messages came within ten seconds, how late, and when the last one did."""
        latencies, last = [], 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while len(latencies) < count:
                    message, last = await self.heard_.get()
                    latencies.append(last - message["sent"])
        latencies.sort()
        p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
        return {"count": len(latencies), "last": last, "p50": p50, "p99": p99}

    async def broadcast(self, topic: str, seconds: float) -> int:
        """Broadcast a message a millisecond, each from a task of its own, as the handlers of requests do."""
        began, sent, answers = perf_counter(), 0, set()
        while perf_counter() - began < seconds:
            if (ahead := began + sent * 0.001 - perf_counter()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(self.pubsub.broadcast(topic, {"note": "x" * 180, "number": sent}))
            answers.add(task)
            task.add_done_callback(answers.discard)
            sent += 1
        await asyncio.gather(*answers)
        return sent


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
