"""One node: the engine on a loop of its own, with connections to the server and handlers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from eventstore.errors import LeaseLost
from eventstore.events import Event
from eventstore.feed import Feed
from eventstore.settings import Settings
from eventstore.subscriptions.delivery import Delivery, Registration
from eventstore.subscriptions.policy import FailurePolicy
from eventstore.subscriptions.pool import Pools
from tests.simulation.server import Connections, Server
from tests.simulation.timeline import Loop, Timeline

__all__ = ["Handling", "Node", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """A subscription as the nodes run it.

    Attributes:
        kind: ``single``, ``batch``, ``manual`` or ``projection``.
    """

    name: str
    kind: str
    pool_size: int
    policy: FailurePolicy


@dataclass
class Handling:
    """How handlers behave, and who is told of what they do.

    Attributes:
        failing: streams whose events fail, as long as nothing is mended.
        fails, hangs: shares of the other calls that do.
        slowest: seconds that a call may take.
    """

    chance: Random
    told: Callable[..., None]
    failing: set[str] = field(default_factory=set)
    fails: float = 0.0
    hangs: float = 0.0
    slowest: float = 0.01


class Signals:
    """What wakes a node, if it is not lost."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.wake: Callable[[], None] = lambda: None
        self.change: Callable[[], None] = lambda: None

    def on_wake(self, waker: Callable[[], None]) -> Callable[[], None]:
        self.wake = waker
        return lambda: None

    def jittered(self, period: float) -> float:
        return period * (0.8 + 0.4 * self._chance.random())


class Node:
    """A process.

    Attributes:
        running: its task; None once it crashed.
        honest: it is never frozen, and its clock does not run slow or jump.
    """

    def __init__(
        self, name: str, timeline: Timeline, server: Server, settings: Settings, wanted: list[Wanted],
        handling: Handling, told: Callable[..., None], ahead: float, rate: float,
    ) -> None:  # fmt: skip
        self.name, self._settings, self._wanted, self._handling = name, settings, wanted, handling
        self._told, self._chance = told, timeline.chance
        self.loop = Loop(timeline, lambda said: told("complaint", said), ahead, rate)
        self.signals = Signals(self._chance)
        self._connections = [Connections(server, self.loop) for _ in range(3)]
        for one in self._connections:
            one.wall = lambda: int(self.loop.time() * 1e6)
        self.pools: Pools | None = None
        self.running: asyncio.Task[None] | None = None
        self.honest = rate >= 1.0

    def start(self) -> None:
        self.loop.call_soon(self._start)

    def _start(self) -> None:
        self.running = self.loop.create_task(self._run(), name=self.name)

    async def _run(self) -> None:
        database, lent, control = self._connections
        feed = Feed(control, self.signals, self._settings)  # type: ignore[arg-type]
        self.pools = pools = Pools(
            database, lent, control, feed, self.name, self._settings, self.signals.jittered, self._tell,  # type: ignore[arg-type]
            rng=self._chance.random, identify=lambda: UUID(int=self._chance.getrandbits(128)),
            alarm=lambda *_: nullcontext(),
        )  # fmt: skip
        self.signals.change = pools.look
        await feed.start("", "")
        await pools.start("", "")
        try:
            registrations = {one.name: self._registration(one) for one in self._wanted}
            await pools.run(registrations, _prepared, _no_more, self._settings.drain_grace, handle_sigterm=False)
        finally:
            await feed.stop()
            self._told("ended", self.name)

    def _tell(self, kind: str, subscription: str | None = None, **payload: Any) -> None:
        if kind in ("emitter_crashed", "partition_halted"):
            self._told(kind, subscription, payload)

    # -- what happens to it

    def lose_connections(self) -> None:
        """The server ended them all."""
        for one in self._connections:
            one.lost()

    def drain(self) -> None:
        if self.pools is not None:
            self.loop.call_soon(self.pools.drain)

    def crash(self) -> None:
        """End it without a word: not even a `finally` runs."""
        self.loop.drop()
        self.running = None

    # -- its handlers

    def _registration(self, wanted: Wanted) -> Registration:
        async def call(events: list[Event], delivery: Delivery, tx: Any) -> None:
            await self._handle(wanted, events, delivery, tx)

        many = {"batch": 5, "projection": 4}.get(wanted.kind, 1)
        return Registration(
            wanted.name, call, many, manual=wanted.kind == "manual", transactional=wanted.kind == "projection"
        )

    async def _handle(self, wanted: Wanted, events: list[Event], delivery: Delivery, tx: Any) -> None:
        told, handling, chance = self._told, self._handling, self._chance
        told("begin", self, delivery, events)
        try:
            if chance.random() < 0.7:
                await asyncio.sleep(chance.random() * handling.slowest)
            if handling.hangs and chance.random() < handling.hangs:
                await asyncio.Event().wait()
            if tx is not None:
                await tx.write([(wanted.name, event.stream or "", event.version or 0) for event in events])
            failing = any(event.stream in handling.failing for event in events)
            if failing or (handling.fails and chance.random() < handling.fails):
                raise ValueError("as it is meant to")
        except (ValueError, asyncio.CancelledError):
            if wanted.policy.attempts is not None and delivery.attempt >= wanted.policy.attempts and len(events) == 1:
                told("failed", self, delivery, events)
            raise
        told("handled", self, delivery, events)
        if wanted.kind == "manual":
            if chance.random() < 0.5:
                delivery.ack()
            else:
                self.loop.call_later(chance.random() * handling.slowest, _ack, delivery)


def _ack(delivery: Delivery) -> None:
    try:
        delivery.ack()
    except LeaseLost:
        return


@asynccontextmanager
async def _prepared() -> AsyncIterator[None]:
    yield


async def _no_more() -> list[Registration]:
    return []
