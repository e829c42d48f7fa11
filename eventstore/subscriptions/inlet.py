"""Where an emitter's events come from: pages of history first, then its node's feed. One queue, joined by position."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from eventstore.database import Database
from eventstore.events import Event
from eventstore.feed import Feed, Handle, Shares
from eventstore.log.read import Page, Window, read_page
from eventstore.settings import Settings
from eventstore.subscriptions.model import Claim

__all__ = ["Inlet", "Source"]

MOST = 1_000
"""Events that wait for one emitter; with more it goes back to reading pages, and the feed waits for nobody."""


class Source(Protocol):
    """Somebody who reads the log for several emitters."""

    @property
    def scanned(self) -> int:
        """Position up to which everything was handed over."""


class Reader(Protocol):
    """Who takes events from an inlet."""

    def was_cut(self) -> None:
        """Take note that the feed left it behind."""


class Inlet:
    """The events of one partition, in order, each once.

    Attributes:
        queue: read and not taken yet.
        read: everything that matches up to here went through `queue`.
        source: who brings more; None: `fetch` has to read it.
    """

    __slots__ = (
        "_ahead",
        "_claim",
        "_database",
        "_feed",
        "_page_size",
        "_reader",
        "_scan_window",
        "_window",
        "closed",
        "queue",
        "read",
        "source",
    )

    def __init__(self, claim: Claim, feed: Feed, database: Database, settings: Settings, reader: Reader) -> None:
        self._claim, self._feed, self._database, self._reader = claim, feed, database, reader
        self._page_size, self._scan_window = settings.page_size, settings.scan_window
        self._window: Window | None = None
        self._ahead: asyncio.Task[Page] | None = None
        self.queue: deque[Event] = deque()
        self.read = claim.checkpoint
        self.source: Source | None = None
        self.closed = False

    @property
    def live(self) -> bool:
        """The history is read; the feed brings what is new."""
        return self.source is self._feed

    @property
    def scanned(self) -> int:
        """Position up to which everything that matches went through `queue`."""
        return self.read if self.source is None else max(self.read, self.source.scanned)

    def offer(self, source: Source, events: Iterable[Event]) -> None:
        """Queue what *source* brings; beyond `MOST` the emitter is on its own from there."""
        if source is not self.source:
            return  # on its own since
        self._put(events)
        if len(self.queue) > MOST:
            self._leave_feed()
            self._reader.was_cut()

    def shares(self) -> Shares:
        """Return how this emitter joins the feed, which brings its events from now on; nothing once it is closed."""
        if self.closed:
            return []
        self.source = self._feed
        self._window = None
        return [(self._handle, self._claim.selector, self._claim.share)]

    async def fetch(self) -> None:
        """Read the next page of history into the queue; at the end of it, join the feed.

        The page after it is read ahead, while this one is being handled.
        """
        if self._window is None:
            self._window = self._new_window()
        if self._ahead is None:
            self._ahead = asyncio.ensure_future(self._page(self.read))
        ahead = self._ahead
        try:
            page = await asyncio.shield(ahead)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._ahead is None and task is not None and not task.cancelling():
                return  # `reread` gave this page up, not this emitter
            self._forget()
            raise
        except Exception:
            self._ahead = None
            raise
        if self._ahead is not ahead:
            return  # `reread` came meanwhile: this page begins elsewhere
        self._ahead = None
        if self.closed or self.source is not None:
            return
        self._take(page)
        if page.scanned >= page.horizon:
            await self._feed.join(self.shares, lambda: self.read, self._read_to)
        else:
            self._ahead = asyncio.ensure_future(self._page(page.scanned))

    def reread(self, after: int) -> None:
        """Forget what is queued and go on reading after *after*: the connection was lost."""
        self._forget()
        self.queue.clear()
        self.source, self.read = None, after

    def leave(self) -> None:
        """Bring nothing more than what is queued; how far its source comes from now on says nothing about it."""
        self.read = self.scanned
        self._leave_feed()

    def close(self) -> None:
        """Bring nothing more."""
        self.closed = True
        self._leave_feed()
        self._forget()
        self.queue.clear()

    @property
    def _handle(self) -> Handle:
        return self._claim.name, self._claim.partition

    def _leave_feed(self) -> None:
        # Only who joined: the feed knows no inlets but names, and a later emitter of this partition may have joined.
        if self.live:
            self._feed.leave(self._handle)
        self.source = None

    def _put(self, events: Iterable[Event]) -> None:
        floors = self._claim.floors
        for event in events:
            if event.position > self.read:
                self.read = event.position
                if floors is None or event.position > floors[event.bucket]:
                    self.queue.append(event)

    def _take(self, page: Page) -> None:
        self._put(page.events)
        self.read = max(self.read, page.scanned)

    async def _read_to(self, position: int) -> None:
        # On the feed's connections: it stands still meanwhile, and those of appends may all be waiting for a lock.
        while (after := self.read) < position:
            page = await self._page(after, position, self._feed.database)
            if self.read == after:  # or `reread` came meanwhile: this page begins elsewhere
                self._take(page)

    async def _page(self, after: int, upto: int | None = None, database: Database | None = None) -> Page:
        window = self._window or self._new_window()
        claim, limit = self._claim, self._page_size
        return await window.read(
            lambda size: read_page(
                database or self._database,
                claim.selector,
                limit=limit,
                window=size,
                after=after,
                upto=upto,
                share=claim.share,
            ),
            limit,
        )

    def _new_window(self) -> Window:
        return Window(self._scan_window, asyncio.get_running_loop().time)

    def _forget(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._ahead = None
