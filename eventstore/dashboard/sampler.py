"""One look for all who watch the same page: read once, rendered once, kept for the charts.

A page is read again only while somebody watches it, and less often when that takes long, so that the dashboard never
takes more than a fifth of a connection for it. Whoever is slow gets the newest state when he is ready for it; nothing
queues up for him, and nobody waits for him.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time
from typing import Any

from eventstore.dashboard.refusals import Refused, refused
from eventstore.service import Clock, LoopClock, Moments, Tasks

__all__ = ["Part", "Sampler", "Subject", "Viewer"]

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at a page."""

SHARE = 4.0
"""After a look that took so long, so many times as long is waited."""

READ_WITHIN = 10.0
"""Seconds that one look may take."""

AGAIN_AFTER = 5.0
"""Seconds to the next look after one that failed late; twice as long each time, up to `SHARE`."""

HISTORY = 900.0
"""Seconds of points that are kept for charts."""

MAX_POINTS = 900
MAX_VIEWERS = 500
MAX_WATCHED = 100
"""Different pages that are watched at once."""

REMEMBERED = 64
"""Pages that nobody watches whose points are kept."""

AT_ONCE = 3
"""Pages read at the same time: the store's other work needs connections too."""

RECENT = 120.0
"""Seconds for which a look is one that rates can be told by."""

ENDED_EVERY = 0.3
"""Seconds between looks whether the process is about to end."""

Points = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at.

    Attributes:
        key: the same for whoever watches the same.
        read: returns its data; is handed what it returned the last time, or None.
        points: the values for charts.
    """

    key: Hashable
    read: Callable[[Any], Awaitable[Any]]
    points: Callable[[Any], Points] | None = None


@dataclass(slots=True)
class Part:
    """Something rendered: the *revision* rises when *text* changes, *made_of* tells the look it was made from."""

    text: str = ""
    revision: int = 0
    made_of: int = 0


@dataclass(eq=False, slots=True)
class _Watched:
    """A subject, and what is known of it."""

    subject: Subject
    viewers: set[Viewer] = field(default_factory=set)
    looks: int = 0
    fresh: bool = False
    data: Any = None
    looked_at: float = 0.0
    problem: Refused | None = None
    failed: int = 0
    failing_since: float = 0.0
    points: deque[tuple[float, Points]] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    parts: dict[Hashable, Part] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Viewer:
    """Somebody who watches; `woken` is set when there may be something new for him."""

    def __init__(self, watched: _Watched, key: Hashable, render: Callable[[Any], str]) -> None:
        self._watched, self._key, self._render = watched, key, render
        self.woken = asyncio.Event()
        self.ended = False
        self._seen_revision = 0
        self._seen_problem: Refused | None = None
        self._seen_time: float | None = None

    def part(self) -> str | None:
        """Return the part if it is another one than last time."""
        watched = self._watched
        if not watched.fresh or watched.problem is not None:
            return None
        part = watched.parts.setdefault(self._key, Part())
        if part.made_of != watched.looks:
            part.made_of = watched.looks
            if (text := self._render(watched.data)) != part.text or not part.revision:
                part.text, part.revision = text, part.revision + 1
        if part.revision == self._seen_revision:
            return None
        self._seen_revision = part.revision
        return part.text

    def points(self) -> tuple[bool, list[tuple[float, Points]]]:
        """Return whether these are all points there are, and those that came since last time."""
        newest = self._watched.points[-1][0] if self._watched.points else math.inf
        if self._seen_time is not None and newest < self._seen_time:
            self._seen_time = None  # the clock was set back, and all points are new ones
        first, since = self._seen_time is None, self._seen_time or 0.0
        found = [point for point in self._watched.points if point[0] > since]
        if found:
            self._seen_time = found[-1][0]
        return first, found

    def problem(self) -> Refused | None:
        """Return why the page cannot be read, once."""
        problem, seen = self._watched.problem, self._seen_problem
        self._seen_problem = problem
        if problem is None:
            return None
        if seen is None:
            self._seen_revision = -1  # the part comes again when it is over, changed or not
        return None if seen is not None and (seen.error, seen.message) == (problem.error, problem.message) else problem

    @property
    def failing_since(self) -> float:
        """Unix seconds of the first look that met the `problem`."""
        return self._watched.failing_since

    @property
    def key(self) -> Hashable:
        """What it is rendered for."""
        return self._key


class Sampler:
    """Looks at what is watched.

    Args:
        is_over: whether the store is closed, or the server about to end: then nobody is kept waiting.
        clock, now: time to wait by, and unix seconds for charts.

    Its moment ``looked`` is reached, with the subject's key, after every look.
    """

    def __init__(
        self,
        is_over: Callable[[], bool] = lambda: False,
        *,
        clock: Clock | None = None,
        now: Callable[[], float] = time,
        interval: float = INTERVAL,
    ) -> None:
        self._is_over, self._clock, self._now, self._interval = is_over, clock or LoopClock(), now, interval
        self._watched: OrderedDict[Hashable, _Watched] = OrderedDict()
        self._asked: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._tasks = Tasks()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._guard: asyncio.Task[None] | None = None
        self.moments = Moments()
        self.viewers = 0

    def latest(self, key: Hashable) -> Any:
        """Return the data of the last look at a subject, unless it is too old to tell rates by; None otherwise."""
        watched = self._watched.get(key)
        at, data = self._asked.get(key, (0.0, None))
        if watched is not None and watched.data is not None and watched.looked_at >= at:
            at, data = watched.looked_at, watched.data
        return data if self._now() - at < RECENT else None

    def fresh(self, key: Hashable) -> Any:
        """Return what those who watch have just been shown; None: nobody watches, or it cannot be read."""
        watched = self._watched.get(key)
        if watched is None or not watched.viewers or not watched.fresh or watched.problem is not None:
            return None
        return watched.data if self._now() - watched.looked_at < self._interval else None

    def remember(self, key: Hashable, data: Any) -> None:
        """Note a look that was taken beside these, by a program that asks now and then, for its next one."""
        if self._now() - self._asked.get(key, (0.0, None))[0] < self._interval:
            return  # by a look of a moment ago rates would say little
        self._asked[key] = self._now(), data
        self._asked.move_to_end(key)
        while len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)

    @contextmanager
    def watching(self, subject: Subject, key: Hashable, render: Callable[[Any], str]) -> Iterator[Viewer]:
        """Watch *subject* within the block.

        Args:
            key: what the rendering depends on beside the data; *render* is called once for all with the same.

        Raises:
            Refused: too many watch already.
        """
        busy = sum(one.task is not None for one in self._watched.values())
        known = self._watched.get(subject.key)
        if self.viewers >= MAX_VIEWERS or (busy >= MAX_WATCHED and (known is None or known.task is None)):
            raise Refused(503, "TooManyViewers", "too many pages are open; close some", retry=30)
        watched = known or self._watched.setdefault(subject.key, _Watched(subject))
        viewer = Viewer(watched, key, render)
        watched.viewers.add(viewer)
        viewer.woken.set()
        self.viewers += 1
        self._begin(watched)
        try:
            yield viewer
        finally:
            self.viewers -= 1
            watched.viewers.discard(viewer)
            if all(other.key != viewer.key for other in watched.viewers):
                watched.parts.pop(viewer.key, None)
            if not watched.viewers:
                self._rest(watched)

    def end(self) -> None:
        """Tell everybody who watches that there will be nothing more."""
        for watched in self._watched.values():
            for viewer in watched.viewers:
                viewer.ended = True
                viewer.woken.set()

    async def close(self) -> None:
        """End, and wait until nothing runs any more."""
        self.end()
        await self._tasks.stop()

    # -- inside

    def _begin(self, watched: _Watched) -> None:
        self._watched.move_to_end(watched.subject.key)
        if watched.task is None or watched.task.done():
            # What was seen before is history: it is not shown as if it were so now.
            watched.fresh, watched.problem, watched.failed = False, None, 0
            watched.task = self._tasks.spawn("dashboard: looking", self._look_again(watched))
        if self._guard is None or self._guard.done():
            self._guard = self._tasks.spawn("dashboard: until the end", self._until_the_end())

    def _rest(self, watched: _Watched) -> None:
        """Nobody watches it any more: what was seen is kept for a while, if there are not too many."""
        if watched.task is not None:
            watched.task.cancel()
        watched.task = None
        watched.parts.clear()
        idle = [key for key, one in self._watched.items() if not one.viewers]
        for key in idle[: max(0, len(idle) - REMEMBERED)]:
            del self._watched[key]

    async def _until_the_end(self) -> None:
        while self.viewers:
            if self._is_over():
                self.end()
                return
            await self._clock.sleep(ENDED_EVERY)

    async def _look_again(self, watched: _Watched) -> None:
        while True:
            began = self._clock.time()
            await self._look(watched)
            for viewer in watched.viewers:
                viewer.woken.set()
            self.moments.reach("looked", watched.subject.key)
            if watched.problem is not None and watched.problem.status == 404:
                return
            took = self._clock.time() - began
            rest = SHARE * took
            if watched.failed:  # it may be over in a moment, which somebody waits for
                rest = min(rest, AGAIN_AFTER * 2 ** (min(watched.failed, 10) - 1))
            await self._clock.sleep(max(self._interval - took, rest, 0.0))

    async def _look(self, watched: _Watched) -> None:
        try:
            async with self._slots, asyncio.timeout(READ_WITHIN):
                data = await watched.subject.read(self.latest(watched.subject.key))
        except Exception as error:
            if not watched.failed:
                watched.failing_since = self._now()
            watched.problem, watched.failed = refused(error), watched.failed + 1
            if watched.problem.status == 500:
                log.exception("a page could not be read")
            return
        watched.data, watched.problem, watched.looks = data, None, watched.looks + 1
        watched.fresh, watched.looked_at, watched.failed = True, self._now(), 0
        if watched.subject.points is not None:
            _add(watched.points, watched.looked_at, watched.subject.points(data), self._interval)


def _add(points: deque[tuple[float, Points]], at: float, values: Points, interval: float) -> None:
    """Append a point, forget the old ones, and leave a gap in the chart where nobody looked."""
    if points and at <= points[-1][0]:
        if points[-1][0] - at < 10 * interval:
            return
        points.clear()  # the clock was set back: what was seen lies in the future now
    if points and at - points[-1][0] > 10 * interval:
        points.append((points[-1][0] + interval, dict.fromkeys(values)))
    points.append((at, values))
    while points[0][0] < at - HISTORY:
        points.popleft()
