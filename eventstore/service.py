"""Tasks that have a parent, and moments that tests (and operators) can wait for."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from eventstore.errors import DatabaseUnavailable

__all__ = ["Backoff", "Moments", "Tasks", "set_within"]

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
            except DatabaseUnavailable as error:
                log.warning("%s: %s; trying again", name, error)
            except Exception:
                log.exception("%s failed; trying again", name)
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
