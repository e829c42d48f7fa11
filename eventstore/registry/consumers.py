"""Consumers, and what all of them have: a place in a registry, and a time when they are idle."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from eventstore.errors import NoProc
from eventstore.mailbox import Mailbox

if TYPE_CHECKING:
    from eventstore.registry.registry import ConsumerRegistry

__all__ = ["Clock", "Consumer", "DirectConsumer", "Reply", "Resting", "Suspend"]

Reply = asyncio.Future[BaseException | None]
"""None once the event was handled, else why not: a result in both cases, so that nobody has to retrieve it."""


class Suspend(Exception):
    """Raised by ``handle_event``: end this consumer; a new one gets the event."""


class _Untouched(Suspend):
    """The consumer suspended before it came to this event, which is therefore not the one it suspends over."""


class Clock(Protocol):
    """Tells the time in seconds and calls later; an event loop is one."""

    def time(self) -> float:
        """Return seconds since any fixed point."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        """Call *callback* once, *delay* seconds from now; what is returned has a ``cancel()``."""


class Resting(ABC):
    """What every consumer has: a place in a registry, and a time when it is idle.

    One timer at most. Events leave it alone; when it fires, it looks whether it is time indeed.
    """

    _registry: ConsumerRegistry[Any]
    _clock: Clock

    def __init__(self, dependencies: Iterable[Hashable] = ()) -> None:
        self._timer: Any = None
        self._fires = self._deadline = 0.0
        self.task: asyncio.Task[None] | None = None
        self.handle: Any = None
        self.dependencies = tuple(dependencies)
        self.hibernating = self.suspended = False

    @property
    @abstractmethod
    def _alive(self) -> bool:
        """Whether it takes events."""

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether it has events that it has not handled, and rests anew when it has."""

    def _begin(self, registry: ConsumerRegistry[Any], handle: Any) -> None:
        """Start, once."""
        self._clock = registry.clock or asyncio.get_running_loop()
        self._registry, self.handle = registry, handle
        self._rest(registry.hibernate_after)

    def _refuse(self, reason: BaseException) -> None:
        """Take nothing more; *reason* is for those who wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, reason: BaseException, waiting: BaseException) -> None:
        """Take nothing more; tell who sent the event in hand *reason*, and those behind it *waiting*."""
        self._refuse(waiting)

    def _rest(self, seconds: float) -> None:
        """Be idle *seconds* from now, if nothing comes in between."""
        self.hibernating = False
        self._deadline = self._clock.time() + seconds
        if self._timer is None or self._deadline < self._fires:
            self._set_timer(seconds)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires, self._timer = self._deadline, self._clock.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._busy:
            return
        if (left := self._deadline - self._clock.time()) > 0:
            self._set_timer(left)
        else:
            self._registry._idle(self)


class Consumer(Resting):
    """One task that handles events one after another. It starts when a registry takes it, and once only.

    Args:
        handle_event: handles one event; raises `Suspend` to end until the next event.
        dependencies: what this consumer needs or feeds; with any it hibernates but never suspends, and a `Suspend`
            it raises is a crash.
        maxsize: events that may wait; who publishes one more waits for room.

    Attributes:
        task: the task, once a registry took it. Cancelling it ends the consumer without removing its shape.
        handle: what it is registered under.
        hibernating: it was idle for long; only its task and its empty inbox are left, and no timer.
        suspended: it ended until the next event, and has no task any more.
    """

    def __init__(
        self,
        handle_event: Callable[[Any], Awaitable[object]],
        *,
        dependencies: Iterable[Hashable] = (),
        maxsize: int = 1000,
    ) -> None:
        super().__init__(dependencies)
        self._handle_event = handle_event
        self._inbox: Mailbox[tuple[Any, Reply]] = Mailbox(maxsize, "block")
        self._reply: Reply | None = None  # of the event in hand
        self._reason: BaseException | None = None  # for all who waited when it ended

    @property
    def _alive(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def _busy(self) -> bool:
        return self._reply is not None or len(self._inbox) > 0

    def _begin(self, registry: ConsumerRegistry[Any], handle: Any) -> None:
        super()._begin(registry, handle)
        self._inbox.name = f"the inbox of {handle!r}"
        self.task = registry._tasks.spawn(f"{registry.stack_id}: consumer {handle!r}", self._run(registry))
        # A callback, because a task that is cancelled before its first step never enters its coroutine.
        self.task.add_done_callback(partial(registry._ended, self))

    async def _run(self, registry: ConsumerRegistry[Any]) -> None:
        async for event, reply in self._inbox:
            self._reply, self.hibernating = reply, False
            try:
                await self._handle_event(event)
            except Suspend as why:
                if self.dependencies:
                    raise
                return registry._suspend(self, why)
            self._reply = None
            if not reply.done():
                reply.set_result(None)
            if not self._inbox.closed:
                self._rest(registry.hibernate_after)
            del event, reply  # or an idle consumer would keep its last event
        return None

    # -- taking events

    def _offer(self, event: Any, reply: Reply) -> bool:
        """Queue the event, or answer at once that nobody will handle it; False if there is no room."""
        if self.task is None or self._inbox.closed:
            reply.set_result(_Untouched() if self.suspended else NoProc(self.handle))
        elif len(self._inbox) >= self._inbox.maxsize:
            return False
        else:
            self._inbox.put_nowait((event, reply))
        return True

    async def _put(self, event: Any, reply: Reply) -> None:
        """Queue the event once there is room; who waited for room when the consumer ended is told why."""
        await self._inbox.put((event, reply))
        if self._inbox.closed and not reply.done():
            reply.set_result(self._reason)

    def _refuse(self, reason: BaseException) -> None:
        super()._refuse(reason)
        self._reason = reason
        self._inbox.close()

    def _end(self, reason: BaseException, waiting: BaseException) -> None:
        super()._end(reason, waiting)
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reason)
        self._reply = None
        for _, reply in self._inbox.take_nowait(len(self._inbox)):
            if not reply.done():
                reply.set_result(waiting)


class DirectConsumer(Resting):
    """A consumer that only takes note of an event: its function is called at once, and it has neither task nor inbox.

    For the many that are published to at once and hand the work on to something of their own, as emitters do. It
    starts, suspends and crashes as any other; `Suspend` it may raise as well.

    Args:
        handle_event: a plain function that does not take long.
    """

    def __init__(self, handle_event: Callable[[Any], object]) -> None:
        super().__init__()
        self._handle_event = handle_event
        self._reason: BaseException | None = None  # why it takes nothing more

    @property
    def _alive(self) -> bool:
        return self._reason is None

    @property
    def _busy(self) -> bool:
        return False

    def _call(self, event: Any) -> BaseException | None:
        """Handle *event*; returns why it was not handled."""
        if self._reason is not None:
            return _Untouched() if self.suspended else NoProc(self.handle)
        try:
            self._handle_event(event)
        except Suspend as why:
            self._registry._suspend(self, why)
            return why
        except Exception as error:  # noqa: BLE001 - who published is told, and the registry removes it
            self._registry._crashed(self, error)
            return error
        self._rest(self._registry.hibernate_after)
        return None

    def _refuse(self, reason: BaseException) -> None:
        super()._refuse(reason)
        self._reason = reason
