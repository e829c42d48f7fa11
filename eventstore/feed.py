"""The feed: a node's single reader of new events, and followers, which go from history to live without a seam.

A follower reads pages of history until it reaches the horizon, then taps the feed. Both know the position they have
reached, so the seam is an equality of two numbers: whatever the tap brings at or below the follower's position is
history it has read already. A tap that overflows, or loses its feed, sends its follower back to reading pages. One
loop, two sources.

No position held in memory is trusted across a crash of the database unless an event was read at it: positions of
appends that never committed may be handed out again. So the feed asks for what comes after the last *event* it read,
and when a connection is lost every tap is cut, and followers resume from the last event they returned. If the server
that they come back to may not have got that event, they look for it; see `eventstore.servers`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

from eventstore.counting import Counts
from eventstore.database import Database
from eventstore.errors import CheckpointAheadOfLog, DatabaseUnavailable, Overflow
from eventstore.events import Event
from eventstore.log.read import Page, Share, Window, read_page
from eventstore.mailbox import Mailbox
from eventstore.router import Router
from eventstore.selectors import All, Selector
from eventstore.service import Backoff, LoopClock, Moments, Tasks, Turns, set_within
from eventstore.settings import Settings
from eventstore.signals import Signals

__all__ = ["Deliver", "Feed", "Follower", "Handle", "Tap"]

log = logging.getLogger(__name__)


Handle: TypeAlias = tuple[str, int]
"""A consumer that is published to: subscription and partition of an emitter."""

Shares: TypeAlias = Iterable[tuple[Handle, Selector, Share | None]]


class Deliver(Protocol):
    """Who runs the emitters."""

    async def publish(self, events: dict[Handle, list[Event]], source: Any) -> None:
        """Hand each the events that *source* read for it; returns once all have them, or left."""

    def scanned(self) -> None:
        """Take note that everything up to ``feed.scanned`` was handed over."""

    def cut(self, handles: list[Handle]) -> None:
        """Take note that nothing more comes to these: they go back to reading pages."""

    def unroutable(self, handle: Handle, error: Exception) -> None:
        """Take note that the selector of *handle* failed on an event."""


class Tap:
    """What one follower gets from the feed.

    Attributes:
        start: the feed's position when the tap was attached; every later matching event arrives in `mailbox`.
        scanned: position up to which the feed has offered everything.
        lost: the tap was cut; nothing more comes, and what is queued may have gaps after it.
    """

    __slots__ = ("lost", "mailbox", "scanned", "start")

    def __init__(self, start: int, scanned: int, size: int) -> None:
        self.start, self.scanned = start, scanned
        self.mailbox: Mailbox[Event] = Mailbox(size, overflow="error")
        self.lost = False

    def offer(self, event: Event) -> None:
        """Queue *event*; an overflow cuts the tap."""
        try:
            self.mailbox.put_nowait(event)
        except Overflow:
            self.cut()

    def cut(self) -> None:
        """Send the follower back to reading pages."""
        self.lost = True
        self.mailbox.close()


PUBLISHED_AT_ONCE = 128
"""Emitters that are handed events together. With thousands at once all that is under way would outlive the garbage
collector's young generations, and it would look through everything there is again and again."""

COMPARED_EVERY = 60.0
"""Seconds between two comparisons of this node's clock with the database's, which the delay of the feed is told by."""

SPACING = 0.002
"""Seconds between two looks at the log. The first after a pause is immediate; under a stream of appends a look brings
several events, instead of competing with each append for the processor."""


class Feed:
    """Reads new events once and hands each to those who want it; reads nothing while nobody does.

    Listeners tap it, each with a mailbox of its own. Emitters join it: they are published to, all of one page at once.

    Attributes:
        position: of the last event read; None while nobody wants any.
        scanned: the largest horizon read up to; everything wanted up to it was handed over.
        put_back: how often events that were read may have got lost.
        moments: ``read`` (with the page), ``cut``.
        around: makes what is entered while a page is handed over.
    """

    def __init__(self, database: Database, signals: Signals, settings: Settings, counts: Counts | None = None) -> None:
        self.database, self._signals, self._settings = database, signals, settings
        self._counts, self._compared = counts or Counts(), float("-inf")
        self._taps: set[Tap] = set()
        self._router: Router[Tap | Handle] = Router(self._failed)
        self._deliver: Deliver | None = None
        # Held while a page is handed over: who attaches or joins does so between two pages.
        self._wake, self._paging = asyncio.Event(), asyncio.Lock()
        self._tasks, self._clock = Tasks(), LoopClock()
        self._forget: list[Callable[[], None]] = []
        self.position: int | None = None
        self.scanned = self.put_back = 0
        self.moments = Moments()
        self.around: Callable[[Page], AbstractContextManager[object]] = nullcontext

    async def start(self, _dsn: str, _schema: str) -> None:
        """Begin to follow the log, in the background."""
        self._wake, self._paging = asyncio.Event(), asyncio.Lock()  # of this event loop
        self._forget = [
            self._signals.on_wake(self._woken),
            self.database.on_lost(self._cut_all),
            self.database.on_put_back(self._was_put_back),
        ]
        self._tasks.supervise("feed", self._run, most=1.0)

    async def stop(self) -> None:
        """Cut everybody off and stop."""
        for forget in self._forget:
            forget()
        await self._tasks.stop()
        self._cut_all()

    def deliver_to(self, deliver: Deliver) -> None:
        """Say who runs the emitters, once."""
        self._deliver = deliver

    def _woken(self) -> None:
        # Without anybody nothing is read; waking for each append would cost it a tenth of its time.
        if len(self._router):
            self._wake.set()

    async def attach(self, selector: Selector, share: Share | None = None) -> Tap:
        """Return a tap that brings every matching event after ``tap.start``."""
        async with self._paging:
            start = await self._begun()
            tap = Tap(start, self.scanned, self._settings.mailbox_size)
            self._taps.add(tap)
            self._router.add(tap, selector, _numbers(share))
        self._wake.set()
        return tap

    def detach(self, tap: Tap) -> None:
        """End *tap*; detaching twice is fine."""
        tap.cut()
        self._taps.discard(tap)
        self._router.remove(tap)
        self._rest()

    async def join(
        self, members: Callable[[], Shares], after: Callable[[], int], read_to: Callable[[int], Awaitable[None]]
    ) -> None:
        """Publish to *members* every matching event from here on; they have seen everything up to *after*.

        If the feed is further, ``read_to(position)`` is awaited first, to read what lies between; the feed stands still
        meanwhile, so that both meet exactly. Then *members* says who is still there. Both are asked anew after each
        wait: a cut meanwhile begins the feed further on, and sends members back.
        """
        async with self._paging:
            while (position := await self._begun()) > after():
                await read_to(position)
            for handle, selector, share in members():
                self._router.add(handle, selector, _numbers(share))
            self._rest()
        self._wake.set()

    def leave(self, handle: Handle) -> None:
        """Publish nothing more to *handle*; leaving twice is fine."""
        self._router.remove(handle)
        self._rest()

    async def _begun(self) -> int:
        """Return the position of the last event read, having found out where the log ends if nobody knows."""
        while self.position is None:
            page = await read_page(self.database, All(), limit=1, window=None, backwards=True)
            self.position = page.events[0].position if page.events else 0
            self.scanned = page.horizon
        return self.position

    def _rest(self) -> None:
        if not len(self._router):
            self.position = None

    async def _run(self, healthy: Callable[[], None]) -> None:
        behind = Backoff(0.001, 0.05)
        try:
            while True:
                self._wake.clear()
                waits_for_append = await self._read_new() if len(self._router) else False
                healthy()
                if not waits_for_append:
                    behind.reset()
                # The append ahead of the horizon may roll back and signal nobody, so it is looked for again soon.
                pause = behind.next() if waits_for_append else self._signals.jittered(self._settings.poll_interval)
                if not waits_for_append and len(self._router):
                    await asyncio.sleep(SPACING)
                woken = await set_within(self._wake, pause)
                self._counts.polls += not woken and not waits_for_append
        except BaseException:
            self._cut_all()
            raise

    async def _read_new(self) -> bool:
        """Hand over what is new; tell whether the horizon waits for an append under way."""
        while True:
            async with self._paging:
                if (after := self.position) is None:
                    return False
                limit = self._settings.page_size
                page = await read_page(self.database, All(), limit=limit, window=limit, after=after)
                if self.position != after:
                    continue  # cut and begun anew meanwhile: this page begins elsewhere
                with self.around(page):
                    await self._hand_over(page)
                await self._count(page)
            if page.scanned >= page.horizon:
                return page.last_position is not None and page.horizon < page.last_position

    async def _hand_over(self, page: Page) -> None:
        published, turns = dict[Handle, list[Event]](), Turns(self._clock)
        for event in page.events:
            for target in self._router.route(event):
                if isinstance(target, Tap):
                    target.offer(event)
                    if target.lost:
                        self._counts.left_behind += 1
                        self._taps.discard(target)
                        self._router.remove(target)
                else:
                    published.setdefault(target, []).append(event)
            if len(published) >= PUBLISHED_AT_ONCE:
                await self._publish(published)
                published = {}
                await turns.give()
        if page.events and self.position is not None:
            self.position = page.events[-1].position
        for tap in self._taps:
            tap.scanned = max(tap.scanned, page.scanned)
        if published:
            await self._publish(published)
        if self.position is not None:  # or it was cut off meanwhile, and what was only looked at is void
            # Only now: an emitter takes everything up to here for handed over.
            self.scanned = max(self.scanned, page.scanned)
            if self._deliver is not None:
                self._deliver.scanned()
        self._rest()
        self.moments.reach("read", page)

    async def _count(self, page: Page) -> None:
        """Count a page that was handed over, and how old its first event was by the clock that recorded it."""
        if not page.events:
            return
        now = time.time()
        if time.monotonic() - self._compared >= COMPARED_EVERY:
            await self._compare_clocks()
        self._counts.feed.pages += 1
        self._counts.feed.events += len(page.events)
        age = now + (self._counts.clock_offset or 0.0) - page.events[0].recorded_at.timestamp()
        self._counts.feed_seconds.observe(max(0.0, age))

    async def _compare_clocks(self) -> None:
        """Measure by how much the database's clock is ahead of this node's, to half of a round trip."""
        self._compared = time.monotonic()
        try:
            async with self.database.acquire() as connection:
                before = time.time()
                there = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
                self._counts.clock_offset = there - (before + time.time()) / 2
        except DatabaseUnavailable as error:
            log.debug("the clocks were not compared: %s", error)

    async def _publish(self, events: dict[Handle, list[Event]]) -> None:
        if self._deliver is not None:
            await self._deliver.publish(events, self)

    def _failed(self, target: Tap | Handle, event: Event, error: Exception) -> None:
        if isinstance(target, Tap):
            log.error("a listener's selector failed on the event at %s", event.position, exc_info=error)
            self.detach(target)
        else:
            self.leave(target)
            if self._deliver is not None:
                self._deliver.unroutable(target, error)

    def _was_put_back(self) -> None:
        self.put_back += 1
        self.scanned = 0
        self._cut_all()

    def _cut_all(self) -> None:
        cut: list[Handle] = []
        for target in self._router.targets():
            self._router.remove(target)
            if isinstance(target, Tap):
                target.cut()
            else:
                cut.append(target)
        self._taps.clear()
        self.position = None
        if cut and self._deliver is not None:
            self._deliver.cut(cut)
        self.moments.reach("cut")


def _numbers(share: Share | None) -> tuple[int, int] | None:
    return (share.modulus, share.remainder) if share else None


class Follower:
    """One reader's way along the log: pages of history, then the feed.

    Attributes:
        position: everything matching up to here is done with: a batch is once the next one is asked for.
        returned: position of the last event returned, or where it began; safe to resume from after any crash.
        live: the last batch came from the feed.
        served: a primary has answered: a standby that is found there now is one that will be promoted, or replaced.
        moments: ``live``.
    """

    def __init__(
        self,
        feed: Feed,
        database: Database,
        settings: Settings,
        selector: Selector,
        after: int,
        share: Share | None = None,
    ) -> None:
        self._feed, self._database, self._settings = feed, database, settings
        self._selector, self._share = selector, share
        self._window = Window(settings.scan_window)
        self._tap: Tap | None = None
        self._position = self.returned = after
        self._last: Event | None = None
        self._put_back = feed.put_back
        self._outstanding: int | None = None
        self.served = False
        self.moments = Moments()

    @property
    def live(self) -> bool:
        """Whether the history has been read and the feed brings the rest."""
        return self._tap is not None and self._position >= self._tap.start

    @property
    def position(self) -> int:
        """Everything matching up to here was returned by `next`, and the batch after it asked for."""
        if self._outstanding is not None:
            return self._outstanding
        tap = self._tap
        if tap is not None and not tap.lost and not len(tap.mailbox) and self._position >= tap.start:
            return max(self._position, tap.scanned)
        return self._position

    async def next(self) -> list[Event]:
        """Return the next matching events, at least one, in position order; waits for them.

        Raises:
            DatabaseUnavailable: history could not be read; call again to go on after the last event returned.
            CheckpointAheadOfLog: the log has not got that event any more, or ends before where this began.
        """
        self._outstanding = None
        try:
            while True:
                if events := await (self._live() if self.live else self._history()):
                    # In the same step as the position moves: whoever reads it in between must not see too much.
                    self._outstanding = events[0].position - 1
                    self._last = events[-1]
                    self.returned = self._last.position
                    self._position = max(self._position, self.returned)
                    return events
        except Exception:
            self.close()
            self._position = self.returned
            raise

    def settled(self, position: int) -> None:
        """Take note of a stored checkpoint: its commit has made every position below it safe to resume from."""
        self.returned = max(self.returned, position)

    def close(self) -> None:
        """Leave the feed."""
        tap, self._tap = self._tap, None
        if tap is not None:
            self._feed.detach(tap)

    async def _history(self) -> list[Event]:
        limit = self._settings.page_size
        page = await self._window.read(
            lambda window: read_page(
                self._database,
                self._selector,
                limit=limit,
                window=window,
                after=self._position,
                upto=self._tap.start if self._tap else None,
                share=self._share,
            ),
            limit,
        )
        self.served = True
        await self._check_log(page)
        if self._tap is None and page.scanned >= page.horizon:
            # Attached before the page is returned: at most what came meanwhile is left to read from SQL.
            self._tap = await self._feed.attach(self._selector, self._share)
        self._position = max(self._position, page.scanned)
        if self.live:
            self.moments.reach("live")
        return page.events

    async def _check_log(self, page: Page) -> None:
        """Refuse to go on where what was returned is gone: what came in its place would be taken for it."""
        if page.last_position is not None and page.last_position < self.returned:
            raise CheckpointAheadOfLog(None, self.returned, page.last_position)
        if (put_back := self._feed.put_back) == self._put_back or self._last is None:
            return
        at = self._last.position
        found = await read_page(self._database, All(), limit=1, window=1, after=at - 1, upto=at)
        if not found.events or found.events[0].id != self._last.id:
            raise CheckpointAheadOfLog(None, at, page.horizon)
        self._put_back = put_back

    async def _live(self) -> list[Event]:
        tap = self._tap
        assert tap is not None
        taken = await tap.mailbox.take(self._settings.page_size)
        if tap.lost:
            # Queued events are whole up to the cut, but reading them again is simpler and as right.
            self._tap = None
            self._position = self.returned
            return []
        return [event for event in taken if event.position > self._position]
