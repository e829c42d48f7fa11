"""Consumers that start when something is published to them, and end, or cost next to nothing, while nothing is.

A publish sends each handle its event, waits for every answer without a time limit, and says what was not delivered::

    publish ── entry? ── no ──> start_consumer (one for all who ask) ──> entry
                 │ yes                                                     │
                 └──────────────> inbox ──> handle_event <─────────────────┘
                                               ├── returns: delivered
                                               ├── Suspend: the entry goes; started again and asked once more
                                               └── raises:  the entry stays, dead; its shape is removed meanwhile
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping
from typing import Any, Generic, Self, TypeAlias, TypeVar

from eventstore.errors import AlreadyStarted, ConfigurationError, NoProc, NoShape, ShapeRemoved
from eventstore.registry.consumers import Clock, Consumer, DirectConsumer, Reply, Resting, Suspend, _Untouched
from eventstore.service import Moments, Tasks

__all__ = ["ConsumerRegistry"]

H = TypeVar("H", bound=Hashable)
AnyConsumer: TypeAlias = Consumer | DirectConsumer
Answer: TypeAlias = Consumer | DirectConsumer | NoShape | NoProc
Start: TypeAlias = "asyncio.Task[Answer]"
log = logging.getLogger(__name__)


class ConsumerRegistry(Generic[H]):
    """The consumers of one stack, by handle. Its tasks end with `close`, or with the ``async with`` block over it.

    Args:
        stack_id: names the tasks and log lines.
        start_consumer: makes the consumer of a handle, ready to handle events; raises `NoShape` if there is none. A
            plain function, where it does not have to wait for anything.
        remove_shapes: forgets handles whose consumer crashed, or would not run; a failure is logged.
        hibernate_after: seconds without an event until a consumer is idle.
        suspend: idle consumers end, instead of hibernating.
        on_suspended: called with the handle of a consumer that ended until its next event.
        clock: tells the time; default: the running event loop.
        rng: random numbers in [0, 1).

    Attributes:
        moments: ``started``, ``hibernated``, ``suspended``, ``crashed`` (a handle each), ``removed`` (handles).

    Raises:
        ConfigurationError: *hibernate_after* is not above 0.
    """

    def __init__(
        self,
        stack_id: str,
        start_consumer: Callable[[H], Awaitable[AnyConsumer] | AnyConsumer],
        remove_shapes: Callable[[list[H]], Awaitable[object]],
        *,
        hibernate_after: float = 30.0,
        suspend: bool = False,
        on_suspended: Callable[[H], object] | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < hibernate_after < float("inf"):
            raise ConfigurationError(f"hibernate_after is a number of seconds above 0, not {hibernate_after!r}")
        self.stack_id, self.hibernate_after, self.suspend = stack_id, hibernate_after, suspend
        self.moments = Moments()
        self._start_consumer, self._remove_shapes = start_consumer, remove_shapes
        self._on_suspended = on_suspended
        self.clock, self._rng = clock, rng
        self._tasks, self._closed = Tasks(), False
        self._entries: dict[H, AnyConsumer] = {}
        self._starts: dict[H, Start] = {}
        self._doomed: dict[H, None] = {}
        self._remover: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all consumers, starts and removals; who waits for one is told `NoProc`, as everybody is from now on.

        Not to be called by a handler, whose own end it would wait for.
        """
        self._closed = True
        self._entries.clear()
        await self._tasks.stop()

    # -- publishing

    async def publish(self, events: Mapping[H, Any]) -> dict[H, BaseException]:
        """Deliver one event to each handle, starting consumers that are missing; wait for all, without a time limit.

        Returns why an event was not delivered, by handle: `NoShape`, `ShapeRemoved` (it suspended, and again after a
        restart), `NoProc` (its consumer is dead, or ends), or what the consumer raised. Empty if all were. Cancelled,
        it withdraws nothing: events may have been, and may still be, handled.

        Raises:
            Exception: what ``start_consumer`` raised, other than `NoShape`. Before that nothing was delivered, unless
                it was raised for a consumer that had suspended.
        """
        undelivered: dict[H, BaseException] = {}
        restarted, removed = set[H](), list[H]()
        while events:
            consumers, refused = await self._resolve(events)
            undelivered |= refused
            again: dict[H, Any] = {}
            for handle, event, consumer, reason in await self._call((h, events[h], consumers[h]) for h in consumers):
                if not consumer.suspended:
                    undelivered[handle] = reason
                elif type(reason) is not _Untouched and handle in restarted:
                    removed.append(handle)
                else:
                    again[handle] = event
                    if type(reason) is not _Untouched:  # over this event, and neither idle nor over one before it
                        restarted.add(handle)
            events = again
        if removed:
            await self._remove(removed)
        return undelivered | {handle: ShapeRemoved(handle) for handle in removed}

    async def broadcast(
        self, calls: Iterable[tuple[H, Any, AnyConsumer | None]]
    ) -> tuple[dict[H, Any], dict[H, BaseException]]:
        """Deliver each event to its consumer, wait for all; None is skipped.

        Returns the events of those that suspended, and the reasons of those that crashed or were dead, by handle.
        """
        unhandled = await self._call((handle, event, one) for handle, event, one in calls if one is not None)
        suspended = {handle: event for handle, event, consumer, _ in unhandled if consumer.suspended}
        return suspended, {handle: reason for handle, _, consumer, reason in unhandled if not consumer.suspended}

    async def _call(
        self, calls: Iterable[tuple[H, Any, AnyConsumer]]
    ) -> list[tuple[H, Any, AnyConsumer, BaseException]]:
        """Deliver, wait for all, and return the calls that were not handled, with their reasons."""
        new = asyncio.get_running_loop().create_future
        unhandled: list[tuple[H, Any, AnyConsumer, BaseException]] = []
        sent: list[tuple[H, Any, Consumer, Reply]] = []
        for handle, event, consumer in calls:
            if isinstance(consumer, Consumer):
                sent.append((handle, event, consumer, new()))
            elif (why := consumer._call(event)) is not None:
                unhandled.append((handle, event, consumer, why))
        full = [(consumer, event, reply) for _, event, consumer, reply in sent if not consumer._offer(event, reply)]
        if full:
            async with asyncio.TaskGroup() as group:  # one that is full keeps no other waiting
                for consumer, event, reply in full:
                    group.create_task(consumer._put(event, reply))
        for handle, event, consumer, reply in sent:
            if (why := await reply) is not None:
                unhandled.append((handle, event, consumer, why))
        return unhandled

    async def _resolve(self, handles: Iterable[H]) -> tuple[dict[H, AnyConsumer], dict[H, BaseException]]:
        """Find or start the consumers; tell for which handles there is none."""
        if self._closed:
            return {}, {handle: NoProc(handle) for handle in handles}
        found: dict[H, AnyConsumer] = {}
        refused: dict[H, BaseException] = {}
        starts: dict[H, Start] = {}
        for handle in handles:
            answer = self._entries.get(handle) or self._start(handle)
            if isinstance(answer, asyncio.Task):
                starts[handle] = answer
            else:
                _sort(handle, answer, found, refused)
        if starts:
            await asyncio.wait(starts.values())  # cancelled, it leaves the starts to the others who wait for them
        for handle, start in starts.items():
            _sort(handle, NoProc(handle) if start.cancelled() else start.result(), found, refused)
        return found, refused

    def _start(self, handle: H) -> Start | Answer:
        """Start a consumer, or join the start under way; where nothing has to be waited for, the answer is there."""
        if handle in self._starts:
            return self._starts[handle]
        try:
            starting = self._start_consumer(handle)
        except (NoShape, NoProc) as reason:
            return reason
        if isinstance(starting, (Consumer, DirectConsumer)):
            self.register_consumer(handle, starting)
            return starting
        start = self._tasks.spawn(f"{self.stack_id}: start of {handle!r}", self._started(handle, starting))
        if isinstance(starting, Coroutine):  # a task that is cancelled before its first step never awaits it
            start.add_done_callback(lambda _: starting.close())
        self._starts[handle] = start
        return start

    async def _started(self, handle: H, starting: Awaitable[AnyConsumer]) -> Answer:
        try:
            consumer = await starting
            if handle not in self._entries:  # somebody registered one meanwhile: that one stays
                self.register_consumer(handle, consumer)
            return self._entries[handle]
        except (NoShape, NoProc) as reason:
            return reason
        finally:
            del self._starts[handle]

    # -- entries

    def register_consumer(self, handle: H, consumer: AnyConsumer) -> int:
        """Enter *consumer* under *handle* and start it; returns how many entries there are.

        Raises:
            AlreadyStarted: the handle has another consumer, dead or alive, or the consumer has another handle.
            NoProc: the registry is closed.
        """
        if self._closed:
            raise NoProc(handle)
        if (present := self._entries.get(handle)) is consumer:
            return len(self._entries)
        if present is not None or consumer.handle is not None:
            taken = f"{handle!r} has a consumer" if present is not None else f"the consumer was of {consumer.handle!r}"
            raise AlreadyStarted(f"{taken} already; remove_consumer() comes first, and each start makes a new one")
        consumer._begin(self, handle)
        self._entries[handle] = consumer
        self.moments.reach("started", handle)
        return len(self._entries)

    def whereis(self, handle: H) -> AnyConsumer | None:
        """Return the consumer of *handle*, which may be dead."""
        return self._entries.get(handle)

    def remove_consumer(self, handle: H) -> None:
        """Forget the consumer of *handle*, if there is one, and cancel it; the next publish starts another."""
        consumer = self._entries.pop(handle, None)
        if consumer is not None:
            consumer._refuse(NoProc(handle))
            if consumer.task is not None:
                consumer.task.cancel()

    def handles(self) -> list[H]:
        """Return the handles of all entries."""
        return list(self._entries)

    def active_consumer_count(self) -> int:
        """Return how many entries there are, dead ones included."""
        return len(self._entries)

    # -- idle consumers

    def enable_suspend(self, hibernate_after: float, jitter_period: float) -> int:
        """From now on consumers suspend after *hibernate_after* seconds without an event.

        Those alive now, hibernating or not, are first looked at after a random time between *hibernate_after* and
        *jitter_period* seconds, so that they do not all end at once. Returns how many entries there are.

        Raises:
            ConfigurationError: not 0 < *hibernate_after* < *jitter_period*.
        """
        if not 0 < hibernate_after < jitter_period < float("inf"):
            raise ConfigurationError(f"not 0 < hibernate_after ({hibernate_after}) < jitter_period ({jitter_period})")
        self.hibernate_after, self.suspend = hibernate_after, True
        for consumer in self._entries.values():
            if consumer._alive:
                consumer._rest(hibernate_after + (jitter_period - hibernate_after) * self._rng())
        return len(self._entries)

    def _idle(self, consumer: Resting) -> None:
        if self.suspend and not consumer.dependencies:
            return self._suspend(consumer, Suspend())
        consumer.hibernating = True
        return self.moments.reach("hibernated", consumer.handle)

    def _suspend(self, consumer: Resting, why: Suspend) -> None:
        """Forget it and let its task end, in one step: who publishes next starts another."""
        if self._entries.get(consumer.handle) is consumer:
            del self._entries[consumer.handle]
        consumer.suspended = True
        consumer._end(why, _Untouched())
        self.moments.reach("suspended", consumer.handle)
        if self._on_suspended is not None:
            self._on_suspended(consumer.handle)

    # -- ends

    def _ended(self, consumer: Consumer, task: asyncio.Task[None]) -> None:
        """Answer all who wait for a consumer whose task is done; remove its shape if it crashed."""
        if consumer.suspended:
            return
        crash = _crash(task)
        reason = NoProc(consumer.handle) if crash is None else crash
        consumer._end(reason, reason)
        if crash is not None:
            self._note_crash(consumer)

    def _crashed(self, consumer: DirectConsumer, error: Exception) -> None:
        consumer._refuse(error)
        self._note_crash(consumer)

    def _note_crash(self, consumer: Resting) -> None:
        if self._entries.get(consumer.handle) is consumer:
            self._doom(consumer.handle)
            self.moments.reach("crashed", consumer.handle)

    def _doom(self, handle: H) -> None:
        """Have the shape removed, together with those that crash until then."""
        self._doomed[handle] = None
        if self._remover is None or self._remover.done():
            self._remover = self._tasks.spawn(f"{self.stack_id}: remover", self._remove_doomed())

    async def _remove_doomed(self) -> None:
        while self._doomed:
            handles, self._doomed = list(self._doomed), {}
            await self._removed(handles)

    async def _remove(self, handles: list[H]) -> None:
        """Remove shapes to the end, also if who asked is cancelled."""
        if not self._closed:
            await asyncio.wait([self._tasks.spawn(f"{self.stack_id}: removal", self._removed(handles))])

    async def _removed(self, handles: list[H]) -> None:
        try:
            await self._remove_shapes(handles)
        except Exception:
            log.exception("%s: removing the shapes of %r failed", self.stack_id, handles)
        self.moments.reach("removed", handles)


def _crash(task: asyncio.Task[None]) -> BaseException | None:
    """Return what *task* raised by itself; None if it was cancelled, or ended."""
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return None if task.cancelling() else error


def _sort(handle: H, answer: Answer, found: dict[H, AnyConsumer], refused: dict[H, BaseException]) -> None:
    if isinstance(answer, (Consumer, DirectConsumer)):
        found[handle] = answer
    else:
        refused[handle] = answer
