"""Tasks that have a parent, and moments that tests (and operators) can wait for."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from eventstore.errors import EventStoreError

__all__ = [
    "Backoff",
    "Clock",
    "LoopClock",
    "Moments",
    "Tasks",
    "Turns",
    "on_sigterm",
    "raise_if_cancelled",
    "set_within",
    "to_its_end",
]

log = logging.getLogger(__name__)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for *event*, at most *seconds*; tells whether it was set.

    Not `asyncio.wait_for`: until Python 3.12 that loses a cancellation which arrives together with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def raise_if_cancelled() -> None:
    """Go on with a cancellation of this task, whatever was called made of it: swallowed or another error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError


async def to_its_end(work: Awaitable[object]) -> None:
    """Await *work* also while this task is being cancelled; the cancellation is raised once it has ended."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


class Clock(Protocol):
    """Time that only goes forward, and waiting by it."""

    def time(self) -> float:
        """Return seconds since some moment."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Return when *event* is set, or after *seconds*; tells whether it was set."""


class LoopClock:
    """The event loop's time."""

    def time(self) -> float:
        """Return the time of the running event loop."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Return when *event* is set, or after *seconds*; tells whether it was set."""
        return await set_within(event, seconds)


_at_sigterm: list[Callable[[], None]] = []


@contextmanager
def on_sigterm(callback: Callable[[], None]) -> Iterator[None]:
    """Call *callback* at SIGTERM instead of what was set before; that is restored when the last such block ends.

    (Except for a handler set with ``loop.add_signal_handler``, which asyncio does not give out.) Does nothing where
    signals cannot be handled: on Windows, and in other threads than the main one.
    """
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    try:
        if not _at_sigterm:
            loop.add_signal_handler(signal.SIGTERM, lambda: [each() for each in _at_sigterm])
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    _at_sigterm.append(callback)
    try:
        yield
    finally:
        _at_sigterm.remove(callback)
        if not _at_sigterm:
            loop.remove_signal_handler(signal.SIGTERM)
            if before is not None:
                signal.signal(signal.SIGTERM, before)


class Backoff:
    """Waiting times that double from *least* to *most* seconds, each scaled by a random factor of 0.5 to 1."""

    def __init__(self, least: float, most: float, rng: Callable[[], float] = random.random) -> None:
        self._least, self._most, self._rng = least, most, rng
        self.attempts = 0

    def next(self) -> float:
        """Return the next waiting time."""
        delay = min(self._most, self._least * 2.0 ** min(self.attempts, 40))
        self.attempts += 1
        return delay * (0.5 + self._rng() / 2)

    def reset(self) -> None:
        """Begin anew after a success."""
        self.attempts = 0


class Turns:
    """Turns for everything else in the middle of long work that waits for nothing.

    A turn after so many seconds, for one at each step costs the work several times as much.
    """

    def __init__(self, clock: Clock, every: float = 0.05) -> None:
        self._clock, self._every, self._given = clock, every, clock.time()

    async def give(self) -> None:
        """Give the event loop a turn if the last one is *every* seconds ago."""
        if self._clock.time() - self._given > self._every:
            await asyncio.sleep(0)
            self._given = self._clock.time()


class Moments:
    """Named moments. Reaching one costs a dictionary look-up where nobody waits for it."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[asyncio.Future[Any]]] = defaultdict(list)

    def reach(self, name: str, value: Any = None) -> None:
        """Wake everybody who waits for *name*."""
        if name in self._waiting:
            for future in self._waiting.pop(name):
                if not future.done():
                    future.set_result(value)

    def next(self, name: str) -> asyncio.Future[Any]:
        """Return a future for the next time *name* is reached; ask before you cause it."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[name].append(future)
        return future


class Tasks:
    """The tasks of one parent. `stop` ends them all; none outlives it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run *work* once; an exception nobody awaits is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def supervise(
        self, name: str, work: Callable[[Callable[[], None]], Awaitable[None]], *, most: float = 5.0
    ) -> asyncio.Task[Any]:
        """Run *work* again whenever it fails, after 0.05 s to *most* seconds, doubling with jitter.

        *work* is handed a function to call when it got somewhere: the next failure then begins at 0.05 s again.
        """
        return self.spawn(name, self._again(name, work, Backoff(0.05, most)))

    async def _again(self, name: str, work: Callable[[Callable[[], None]], Awaitable[None]], backoff: Backoff) -> None:
        while True:
            try:
                return await work(backoff.reset)
            except EventStoreError as error:
                log.warning("%s: %s; trying again", name, error)
            except Exception:
                log.exception("%s failed; trying again", name)
            raise_if_cancelled()
            await asyncio.sleep(backoff.next())

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def stop(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
