"""What was delivered, in its order, and what is wrong with it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from eventstore import Delivery, Event, EventStore, SubscriptionNotFound


class Journal:
    """Handlers note what they were given; `problems` compares that with the log."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.deliveries: list[Delivery] = []
        self._more = asyncio.Condition()

    async def note(self, event: Event, delivery: Delivery) -> None:
        self.events.append(event)
        self.deliveries.append(delivery)
        async with self._more:
            self._more.notify_all()

    async def has(self, count: int) -> list[int]:
        """Wait for *count* events; return the positions of all there are."""
        async with asyncio.timeout(30), self._more:
            await self._more.wait_for(lambda: len(self.events) >= count)
        return self.positions

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.events]

    @property
    def attempts(self) -> list[int]:
        return [delivery.attempt for delivery in self.deliveries]

    @property
    def epochs(self) -> list[int]:
        return [delivery.epoch for delivery in self.deliveries]

    def problems(self, expected: Iterable[Event], *, repeats: bool = False) -> list[str]:
        """Name what was lost, delivered twice (unless *repeats* are allowed) or out of its stream's order.

        A repeat may go back, as after a crash, and comes again from there on without a gap.
        """
        found, seen = [], defaultdict[str | None, list[int]](list)
        for event in self.events:
            before = seen[event.stream]
            if event.position in before:
                if not repeats:
                    found.append(f"{event.position} came twice")
                before = before[: before.index(event.position)]
            elif before and event.position < max(before):
                found.append(f"{event.position} came after {max(before)}")
            seen[event.stream] = [*before, event.position]
        return found + [f"{event.position} was lost" for event in expected if event.position not in self.positions]


async def log_of(store: EventStore) -> list[Event]:
    return [event async for event in store.read_all()]


async def settled(store: EventStore, name: str, position: int) -> None:
    """Wait until *name*, which `run` may still have to declare, is settled up to *position*."""
    async with asyncio.timeout(30):
        while True:
            registered = store._pools.moments.next("registered")  # which may come while it is looked for
            try:
                return await store.subscriptions.wait_for(name, position)
            except SubscriptionNotFound:
                await registered
