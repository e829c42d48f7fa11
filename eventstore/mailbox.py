"""A bounded inbox: one reader, any number of writers, and an explicit rule for when it is full."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Generic, Literal, TypeVar

from eventstore.errors import ConfigurationError, Overflow

__all__ = ["Mailbox", "Rule"]

T = TypeVar("T")
Rule = Literal["drop_oldest", "drop_newest", "block", "error"]

log = logging.getLogger(__name__)


class Mailbox(Generic[T]):
    """A FIFO queue of at most *maxsize* items.

    Attributes:
        overflow: what happens to a full mailbox: ``drop_oldest`` (default) and ``drop_newest`` lose an item and count
            it in `dropped`, ``block`` makes `put` wait, ``error`` raises `Overflow`.
        dropped: how many items were lost.
        closed: nothing can be put any more; what is queued can still be read.
    """

    def __init__(self, maxsize: int = 1000, overflow: Rule = "drop_oldest") -> None:
        if maxsize < 1:
            raise ConfigurationError(f"a mailbox holds at least 1 item, not {maxsize}")
        if overflow not in ("drop_oldest", "drop_newest", "block", "error"):
            raise ConfigurationError(f"unknown overflow rule {overflow!r}")
        self.maxsize, self.overflow = maxsize, overflow
        self.dropped, self.closed = 0, False
        self._items: deque[T] = deque()
        self._filled, self._drained = asyncio.Event(), asyncio.Event()
        self._warned = False

    def __len__(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        """Queue *item* without waiting; what a full mailbox does is its overflow rule.

        Raises:
            Overflow: it is full and the rule is ``error`` (or ``block``, which cannot wait here).
        """
        if self.closed:
            return
        if len(self._items) >= self.maxsize:
            if self.overflow in ("error", "block"):
                raise Overflow(f"the mailbox is full ({self.maxsize} items)")
            self.dropped += 1
            if self.overflow == "drop_newest":
                return
            self._items.popleft()
        self._items.append(item)
        self._filled.set()
        self._warn()

    async def put(self, item: T) -> None:
        """Queue *item*; waits for room under ``block``, otherwise like `put_nowait`."""
        while self.overflow == "block" and len(self._items) >= self.maxsize and not self.closed:
            self._drained.clear()
            await self._drained.wait()
        self.put_nowait(item)

    async def take(self, most: int) -> list[T]:
        """Return what is queued, at least one and at most *most* items; an empty list once closed and drained."""
        while not self._items:
            if self.closed:
                return []
            self._filled.clear()
            await self._filled.wait()
        return self.take_nowait(most)

    def take_nowait(self, most: int) -> list[T]:
        """Return what is queued, at most *most* items, possibly none."""
        taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
        self._drained.set()
        if len(self._items) < self.maxsize // 2:
            self._warned = False
        return taken

    def close(self) -> None:
        """Refuse further items and wake the reader."""
        self.closed = True
        self._filled.set()
        self._drained.set()

    def _warn(self) -> None:
        if not self._warned and len(self._items) * 5 >= self.maxsize * 4 > 4:
            self._warned = True
            log.warning("a mailbox is %d %% full (%d of %d)", 80, len(self._items), self.maxsize)
