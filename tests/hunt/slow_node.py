"""A node beside which a subscriber may be slow: ``python -m tests.hunt.slow_node DSN SLOW CLIENTS``, told by lines.

SLOW is ``none``, ``slow``, or ``hoarding``: a planted bug, a slow listener whose mailbox nobody bounds.

It says "ready" once it delivers, then answers "begin" and "report" by a line of JSON each: how much memory it holds at
most since it began, how late probes were (their data is when they were sent), and how many events the slow one handled.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from eventstore import All, Delivery, Event, EventStore, EventType, Settings
from eventstore.tracker import Owner, Tracker

PROBE = "Probe"


class Quiet:
    async def handle_diff(self, _diff: Any, state: Any) -> Any:
        return state


class Measured:
    """What is reported."""

    def __init__(self) -> None:
        self.late, self.handled, self.most = list[float](), 0, 0.0

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, rss())
            await asyncio.sleep(0.05)

    def report(self) -> dict[str, Any]:
        late = sorted(self.late)
        at = {share: late[int(share * len(late))] if late else 0.0 for share in (0.5, 0.99)}
        return {"mib": self.most, "probes": len(late), "p50": at[0.5], "p99": at[0.99], "handled": self.handled}


def rss() -> float:
    """MiB that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def subscribed(store: EventStore, measured: Measured, slow: str) -> None:
    @store.handler("probes", EventType(PROBE), after="current")
    async def probe(event: Event, _: Delivery) -> None:
        measured.late.append(time.monotonic() - event.data)

    if slow == "slow":

        @store.handler("slow", All(), after="current")
        async def take_time(_event: Event, _: Delivery) -> None:
            await asyncio.sleep(1)
            measured.handled += 1


async def hoard(store: EventStore) -> None:
    async with store.listen() as events:
        async for _ in events:
            await asyncio.sleep(1)


async def present(store: EventStore, clients: int, stack: AsyncExitStack) -> None:
    tracker = await stack.enter_async_context(Tracker(Quiet(), "clients", store.pubsub, permdown_on_shutdown=True))
    for number in range(clients):
        owner = await stack.enter_async_context(Owner(f"client {number}"))
        await tracker.track(owner, "room", f"client {number}", {"status": "online"})


async def main(dsn: str, slow: str, clients: int) -> None:
    measured = Measured()
    settings = Settings(mailbox_size=1 << 30) if slow == "hoarding" else Settings()
    async with EventStore(dsn, settings=settings) as store, AsyncExitStack() as stack:
        subscribed(store, measured, slow)
        running = [asyncio.create_task(store.run())]
        if slow == "hoarding":
            running.append(asyncio.create_task(hoard(store)))
        await store.started()
        await present(store, clients, stack)
        running.append(asyncio.create_task(measured.watch()))
        print(json.dumps("ready"), flush=True)
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            print(json.dumps(measured.report()), flush=True)
            if word == "begin":
                measured.late.clear()
                measured.most = rss()
        for task in running:
            task.cancel()
        await asyncio.wait(running)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
