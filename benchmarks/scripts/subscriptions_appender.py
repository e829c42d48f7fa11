"""The other process of the scripts ``subscriptions_*``: appends what it is told to, by lines of JSON.

``python -m benchmarks.scripts.subscriptions_appender DSN SCHEMA``
"""

from __future__ import annotations

import asyncio
import json
import sys
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.sides import new_event
from eventstore import EventStore, NewEvent, StreamAppend

__all__ = ["EVERY_KIND", "PROBE", "append_paced", "matching"]

PROBE = "ProbeSent"

EVERY_KIND = 5
"""Kinds of subscriptions, one of each of which wants what `matching` returns."""


async def append_paced(store: EventStore, events: int, rate: float) -> list[float]:
    """Append so many probes, *rate* a second, one after another; returns the seconds of each append.

    An event says when its append was called, by the clock that all processes of a machine share.
    """
    began, durations = perf_counter(), []
    for number in range(events):
        await asyncio.sleep(max(0.0, began + number / rate - perf_counter()))
        sent = perf_counter()
        await store.append("probe", [NewEvent(PROBE, {"sent": sent})])
        durations.append(perf_counter() - sent)
    return durations


def matching(number: int, of: int) -> tuple[str, NewEvent]:
    """Return stream and event number *number*, which one subscription of each kind wants, *of* so many a kind."""
    key = number % of
    data = {"customer": {"id": key, "tier": "gold"}, "total": 129.95, "note": "x" * 180}
    return f"orders-{key}-eu", NewEvent(f"Happened{key}", data, tags=[f"customer:{key}"], metadata={"shop": key})


class Actions:
    """What it can be told."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    async def hello(self) -> None:
        """Answer, once everything is imported."""

    async def paced(self, events: int, rate: float) -> float:
        """Append single events, *rate* a second; returns the median duration of an append."""
        return median(await append_paced(self.store, events, rate))

    async def bulk(self, events: int, rate: float, batch: int = 100) -> float:
        """Append events of 256 bytes in batches, *rate* events a second; returns what was reached."""
        began = perf_counter()
        for first in range(0, events, batch):
            await asyncio.sleep(max(0.0, began + first / rate - perf_counter()))
            await self.store.append(f"bulk-{first // batch % 100}", [new_event() for _ in range(batch)])
        return events / (perf_counter() - began)

    async def matching(self, events: int, of: int, batch: int = 50) -> float:
        """Append events that five subscriptions want, as fast as that goes; returns when that began."""
        began = perf_counter()
        for first in range(0, events, batch):
            made = [matching(number, of) for number in range(first, min(first + batch, events))]
            await self.store.append_many([StreamAppend(stream, [event]) for stream, event in made])
        return began


async def serve(dsn: str, schema: str) -> None:
    """Do what every line says, until there are no more."""
    async with EventStore(dsn, schema=schema, node_name="appender") as store:
        actions = Actions(store)
        while line := await asyncio.to_thread(sys.stdin.readline):
            action, arguments = json.loads(line)
            answer: Any = await getattr(actions, action)(**arguments)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
