"""Virtual time: one timeline for everything, and an event loop for each node on it.

Nothing waits: time jumps to whatever is next. A node's callbacks run in the order that asyncio promises; which of
several nodes goes first, and which of several timers that are due together, is drawn from the seeded generator. A
node's loop can be frozen, as by SIGSTOP, or dropped, as by a crash: then nothing of it ever runs again, no `finally`
either. Its clock is its own: it may be hours off, run fast or slow, jump, or stand still while the node is frozen.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any

__all__ = ["Loop", "Stuck", "Timeline"]

STEPS = 60_000
"""Most turns of one history: far more than any needs."""

LEAST = 1e-6
"""Seconds that pass at least: who waits for less than a clock can tell would wait for ever."""


class Stuck(Exception):
    """Time stands still, or nothing is left to do."""


class Call:
    """A callback that waits for its turn; what `asyncio.Handle` is elsewhere."""

    __slots__ = ("args", "callback", "cancelled_", "context", "due")

    def __init__(self, callback: Callable[..., Any], args: Any, context: Context | None, due: float = 0.0) -> None:
        self.callback, self.args, self.due, self.cancelled_ = callback, args, due, False
        self.context = copy_context() if context is None else context

    def cancel(self) -> None:
        self.cancelled_ = True

    def cancelled(self) -> bool:
        return self.cancelled_

    def when(self) -> float:
        return self.due


class Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class Timeline:
    """All that will happen, in order.

    Attributes:
        now: seconds since the start.
        broken: what ends it all; whoever raised it instead, inside a node, might see it handled there.
        turns: how many there were; a measure of how much happened.
    """

    def __init__(self, chance: Random) -> None:
        self.chance, self.now, self.turns = chance, 0.0, 0
        self.loops: list[Loop] = []
        self.broken: BaseException | None = None
        self._numbers = count()
        # When, what decides among those of the same time, a number, whose timer it is (None: nobody's), what is called.
        self._queue: list[tuple[float, float, int, Loop | None, Any]] = []

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Call *what* in so many seconds, whatever the state of the nodes."""
        heappush(self._queue, (self.now + seconds, 0.0, next(self._numbers), None, what))

    def timer(self, at: float, loop: Loop, call: Call) -> None:
        """Wake *loop* at a time. Timers that are due together come in any order."""
        heappush(self._queue, (at, self.chance.random(), next(self._numbers), loop, call))

    def rearrange(self, loop: Loop, at: Callable[[float], float] | None) -> None:
        """Move the timers of *loop*, whose clock has changed; None: forget them."""
        others = [one for one in self._queue if one[3] is not loop]
        if at is not None:
            mine = [one for one in self._queue if one[3] is loop]
            others += [(at(call.due), tie, number, loop, call) for _, tie, number, _, call in mine]
        heapify(others)
        self._queue = others

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let so many seconds pass; ends early, and returns true, when *until* does."""
        end = self.now + seconds
        try:
            while not until():
                ready = [loop for loop in self.loops if loop.ready and not loop.frozen]
                if ready:
                    self._turn(ready)
                elif not self._advance(end):
                    return False
                if self.broken is not None:
                    raise self.broken
            return True
        finally:
            events._set_running_loop(None)

    def _turn(self, ready: list[Loop]) -> None:
        """Let one of the nodes that can run have its turn."""
        self.turns += 1
        if self.turns > STEPS:
            raise Stuck(f"{STEPS} turns, and it is {self.now:.3f}")
        (ready[0] if len(ready) == 1 else self.chance.choice(ready)).turn()

    def _advance(self, end: float) -> bool:
        """Go to the next time something happens; False if that is after *end*."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            at, _, _, loop, what = heappop(queue)
            if loop is None:
                self.now = max(self.now + LEAST, at)
                what()
                return True
            if not what.cancelled_:
                self.now = max(self.now + LEAST, at)
                (loop.held if loop.frozen else loop.ready).append(what)
                return True
        self.now = end
        return False


def _close(coroutine: Any) -> None:
    """Close a coroutine that waits again on its way out, as often as it does."""
    for _ in range(30):
        try:
            return coroutine.close()
        except BaseException:  # noqa: BLE001 - it waits, or what it does fails without its loop
            continue


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one node.

    Attributes:
        frozen: it gets no turn.
        held: timers that came meanwhile, of which its clock may know nothing.
        complain: told of exceptions that nobody handled.
    """

    def __init__(
        self, timeline: Timeline, complain: Callable[[str], None], ahead: float = 0.0, rate: float = 1.0
    ) -> None:
        self._timeline, self.complain = timeline, complain
        self._base, self._since, self._rate = timeline.now + ahead, timeline.now, rate
        self.ready: deque[Call] = deque()
        self.held: list[Call] = []
        self._tasks = count(1)
        self._all: list[Task] = []
        self.frozen = self.dropped = False
        timeline.loops.append(self)

    # -- its clock

    def time(self) -> float:
        return self._base + (self._timeline.now - self._since) * self._rate

    def jump(self, seconds: float) -> None:
        """Set the clock forward or, by a negative number, back."""
        self._base += seconds
        self._timeline.rearrange(self, self._at)

    def _at(self, when: float) -> float:
        """The timeline's time, when this clock shows *when*."""
        return self._since + (when - self._base) / self._rate

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self, asleep: float = 0.0) -> None:
        """Go on; *asleep*: so many seconds its clock has not noticed."""
        self.frozen = False
        if asleep:
            self.jump(-asleep * self._rate)
        held, self.held = self.held, []
        for call in held:
            self._timeline.timer(self._at(call.due), self, call)

    def drop(self) -> None:
        """Run nothing of it any more, ever."""
        self.dropped = self.frozen = True
        self.ready.clear()
        self._timeline.rearrange(self, None)
        if self in self._timeline.loops:
            self._timeline.loops.remove(self)

    def forget(self) -> None:
        """End what never ended, now that nobody looks: else the collector does, and complains."""
        self.drop()
        events._set_running_loop(self)
        for task in self._all:  # which grows, by what their `finally` blocks begin
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not task.done():
                _close(task.get_coro())
            asyncio._unregister_task(task)  # else tasks of the next history with its number are looked for behind it
        events._set_running_loop(None)
        self._all.clear()

    # -- its turns

    def turn(self) -> None:
        """Run what is ready now, as one iteration of asyncio's loop does."""
        ready = self.ready
        events._set_running_loop(self)
        for _ in range(len(ready)):
            call = ready.popleft()
            if not call.cancelled_:
                call.context.run(call.callback, *call.args)
            if self.dropped:
                return

    # -- what asyncio asks of a loop

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        call = Call(callback, args, context)
        if not self.dropped:
            self.ready.append(call)
        return call

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        call = Call(callback, args, context, when)
        if not self.dropped:
            self._timeline.timer(self._at(when), self, call)
        return call

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        Task.number = next(self._tasks)  # for the sets that it is put into while it is made
        task = Task(coro, loop=self, name=name, context=context)
        task.number = Task.number
        self._all.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complain(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
