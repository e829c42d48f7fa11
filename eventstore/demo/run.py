"""One run of the demo: import, subscribe, replay, append live, and compare.

Everything goes through the public API of `EventStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from time import perf_counter
from typing import Any
from uuid import UUID

from eventstore.demo.checker import Arrival, Verdict, judge
from eventstore.demo.history import Fact
from eventstore.demo.plan import Planned
from eventstore.events import Event, uuid7
from eventstore.store import EventStore
from eventstore.subscriptions.delivery import Delivery

__all__ = ["Drained", "Outcome", "Recorder", "Stage", "live_copies", "run"]

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a stage: a label and a total give a function to call with how many more are done."""


class Drained(Exception):
    """`EventStore.run` came to its end, as it does at SIGTERM, before the demo did."""


@dataclass(slots=True)
class Outcome:
    """What a run found.

    Attributes:
        complete: everything expected came before the deadline.
        replay_seconds: from the start of the emitters to the last event of the history.
        live: events appended while the subscriptions were live.
        verdicts: one for each subscription, in the order of the plan.
    """

    complete: bool
    replay_seconds: float
    live: int
    live_seconds: float
    verdicts: list[tuple[Planned, Verdict]]

    @property
    def ok(self) -> bool:
        """Whether every number agrees."""
        return self.complete and all(verdict.ok for _, verdict in self.verdicts)


@dataclass(slots=True)
class Recorder:
    """A handler that writes down what comes, and when."""

    planned: Planned
    on_arrival: Callable[[int], None] = lambda _count: None
    arrivals: list[Arrival] = field(default_factory=list)
    _goal: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, event: Event, delivery: Delivery) -> None:
        """Take one event."""
        now = perf_counter()
        self.arrivals.append(Arrival(event, now))
        self.on_arrival(1)
        if len(self.arrivals) >= self._goal:
            self._reached.set()

    async def reach(self, count: int) -> None:
        """Wait until so many events have come."""
        self._goal = count
        self._reached.clear()
        if len(self.arrivals) < count:
            await self._reached.wait()


def live_copies(facts: Sequence[Fact], plan: Sequence[Planned], count: int, seed: int) -> list[Fact]:
    """Return *count* facts that happen again now, so that every subscription gets its share."""
    rng = Random(seed)
    wanted = [[fact for fact in facts if planned.wants(fact)] for planned in plan]
    chosen = [rng.choice(wanted[number % len(plan)]) for number in range(count)]
    now = datetime.now(UTC)
    return [replace(fact, event=replace(fact.event, id=uuid7(), created_at=now)) for fact in chosen]


async def run(
    store: EventStore,
    plan: Sequence[Planned],
    history: Sequence[Fact],
    live: Sequence[Fact],
    *,
    rate: float = 150.0,
    patience: float = 60.0,
    stage: Stage = lambda _label, _total: nullcontext(lambda _count: None),
) -> Outcome:
    """Replay *history*, which is in the log, to the subscriptions of *plan*, then append *live* and compare.

    Args:
        rate: live events a second.
        patience: seconds that the replay may take, and again the last live events.

    Raises:
        Drained: SIGTERM ended the emitters before the run was over.
        EventStoreError: they failed.
    """
    recorders = [Recorder(planned) for planned in plan]
    for recorder in recorders:
        planned = recorder.planned
        await store.subscribe(planned.name, planned.selector, pool_size=planned.pool_size)
        store.handler(planned.name)(recorder.handle)
    called: dict[UUID, float] = {}
    async with _emitting(store) as emitters:
        crowd = _Crowd(recorders, emitters, patience)
        complete, replay_seconds = await _replay(crowd, history, stage)
        started = perf_counter()
        if complete:
            with stage("appending live", len(live)) as done:
                await crowd.emits_during(_append_live(store, live, rate, called, done))
            complete = await crowd.has([*history, *live])
        live_seconds = perf_counter() - started
    everything = [*history, *live] if called else history
    verdicts = [
        (one.planned, judge([fact for fact in everything if one.planned.wants(fact)], one.arrivals, called))
        for one in recorders
    ]
    return Outcome(complete, replay_seconds, len(called), live_seconds, verdicts)


@asynccontextmanager
async def _emitting(store: EventStore) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(store.run(), name="emitters")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Crowd:
    recorders: Sequence[Recorder]
    emitters: asyncio.Task[None]
    patience: float

    async def has(self, facts: Sequence[Fact]) -> bool:
        """Wait until each recorder has what it wants of *facts*; False if patience ends first."""
        reaching = asyncio.gather(*(one.reach(sum(map(one.planned.wants, facts))) for one in self.recorders))
        return await self.emits_during(reaching, self.patience)

    async def emits_during(self, work: Awaitable[Any], patience: float | None = None) -> bool:
        """Wait for *work*, which makes sense only while events are delivered; False if *patience* ends first."""
        task = asyncio.ensure_future(work)
        waiting: set[asyncio.Future[Any]] = {task, self.emitters}
        try:
            await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.emitters.done():
            self.emitters.result()
            raise Drained
        return False


async def _replay(crowd: _Crowd, history: Sequence[Fact], stage: Stage) -> tuple[bool, float]:
    started = perf_counter()
    total = sum(one.planned.wants(fact) for one in crowd.recorders for fact in history)
    with stage("replaying", total) as done:
        for one in crowd.recorders:
            one.on_arrival = done
        complete = await crowd.has(history)
    for one in crowd.recorders:
        one.on_arrival = lambda _count: None
    return complete, perf_counter() - started


async def _append_live(
    store: EventStore, facts: Sequence[Fact], rate: float, called: dict[UUID, float], done: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, fact in enumerate(facts):
        # By the clock rather than by pauses: a slow append does not lower the rate.
        await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
        called[fact.event.id] = perf_counter()
        await store.append(fact.stream, [fact.event])
        done(1)
