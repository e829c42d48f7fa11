"""A bounded inbox: any number of writers, an explicit rule for when it is full, and an end that others notice."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Literal, Self, TypeVar

from eventstore.errors import ConfigurationError, MailboxClosed, Overflow

__all__ = ["Mailbox", "Rule"]

T = TypeVar("T")
Rule = Literal["drop_oldest", "drop_newest", "block", "error"]
_RULES = ("drop_oldest", "drop_newest", "block", "error")

log = logging.getLogger(__name__)


class Mailbox(Generic[T]):
    """A FIFO queue of at most *maxsize* items, and the identity of who reads it.

    It ends when it is closed, when an ``async with`` block over it is left, when its *owner* is done, or when it is
    garbage-collected; what it was subscribed to ends with it. What is queued can still be read.

    Args:
        maxsize: items it holds; at 80 % of them a warning is logged, once until it is half empty again.
        overflow: what happens to a full mailbox: ``drop_oldest`` and ``drop_newest`` lose an item and count it in
            `dropped`, ``block`` makes `put` wait, ``error`` raises `Overflow`.
        owner: a task whose end closes the mailbox.
        name: how warnings call it.

    Attributes:
        dropped: how many items were lost.
        closed: nothing can be put any more.

    Raises:
        ConfigurationError: an argument is none of these.
    """

    __slots__ = (
        "__weakref__",
        "_ends",
        "_getters",
        "_high",
        "_items",
        "_putters",
        "_warned",
        "closed",
        "dropped",
        "maxsize",
        "name",
        "overflow",
        "owner",
    )

    def __init__(
        self,
        maxsize: int = 1000,
        overflow: Rule = "drop_oldest",
        owner: asyncio.Task[Any] | None = None,
        *,
        name: str = "a mailbox",
    ) -> None:
        if type(maxsize) is not int or maxsize < 1:
            raise ConfigurationError(f"a mailbox holds at least 1 item, not {maxsize!r}")
        if overflow not in _RULES:
            raise ConfigurationError(f"unknown overflow rule {overflow!r}; there are {', '.join(_RULES)}")
        if owner is not None and not isinstance(owner, asyncio.Task):
            raise ConfigurationError(f"the owner of a mailbox is a task, not {type(owner).__name__}")
        self.maxsize, self.overflow, self.owner, self.name = maxsize, overflow, owner, name
        self.dropped, self.closed = 0, False
        self._items: deque[T] = deque()
        # From here on a put has more to do than to append. Small ones are full before a warning would help.
        self._high = maxsize * 4 // 5 if maxsize > 4 else maxsize
        self._warned = maxsize <= 4
        self._getters: deque[asyncio.Future[None]] = deque()
        self._putters: deque[asyncio.Future[None]] = deque()
        self._ends: dict[Callable[[Mailbox[Any]], None], None] = {}
        if owner is not None:
            _close_with(owner, self)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.overflow
        return f"<{type(self).__name__} {self.name}: {len(self._items)} of {self.maxsize}, {state}>"

    # -- putting

    def put_nowait(self, item: T) -> None:
        """Queue *item* without waiting; what a full mailbox does is its overflow rule. A closed one takes nothing.

        Raises:
            Overflow: it is full and the rule is ``error`` (or ``block``, which cannot wait here).
        """
        if len(self._items) >= self._high and not self._has_room():
            return
        self._items.append(item)
        if self._getters:
            _wake_one(self._getters)

    async def put(self, item: T) -> None:
        """Queue *item*; waits for room under ``block``, otherwise like `put_nowait`."""
        waited = False
        while self.overflow == "block" and len(self._items) >= self.maxsize and not self.closed:
            # Who was overtaken by a newcomer keeps its place.
            await _turn(self._putters, first=waited)
            waited = True
        self.put_nowait(item)

    def room(self, *, first: bool = False) -> asyncio.Future[None]:
        """Return a future that is done when there may be room, in turn with `put`; *first*: it was overtaken before.

        For those who must not keep the mailbox alive while they wait. Who does not use the room says `pass_on`.
        """
        future = asyncio.get_running_loop().create_future()
        if first:
            self._putters.appendleft(future)
        else:
            self._putters.append(future)
        return future

    def pass_on(self) -> None:
        """Wake the next who waits for room."""
        _wake_one(self._putters)

    def _has_room(self) -> bool:
        """Make room by the overflow rule; tell whether the new item is to be queued."""
        if self.closed:
            return False
        if not self._warned:
            self._warned = True
            log.warning("%s is %d %% full (%d of %d)", self.name, 80, len(self._items), self.maxsize)
        if len(self._items) < self.maxsize:
            return True
        if self.overflow in ("error", "block"):
            raise Overflow(f"{self.name} is full ({self.maxsize} items)")
        self.dropped += 1
        if self.overflow == "drop_newest":
            return False
        self._items.popleft()
        return True

    # -- taking

    async def get(self) -> T:
        """Return the next item; waits for it.

        Raises:
            MailboxClosed: the mailbox is closed and drained.
        """
        while not self._items:
            if self.closed:
                raise MailboxClosed(f"{self.name} is closed")
            await _turn(self._getters)
        return self.get_nowait()

    def get_nowait(self) -> T:
        """Return the next item.

        Raises:
            asyncio.QueueEmpty: nothing is queued.
        """
        if not self._items:
            raise asyncio.QueueEmpty
        item = self._items.popleft()
        self._drained()
        return item

    async def take(self, most: int) -> list[T]:
        """Return what is queued, at least one and at most *most* items; an empty list once closed and drained."""
        while not self._items and not self.closed:
            await _turn(self._getters)
        return self.take_nowait(most)

    def take_nowait(self, most: int) -> list[T]:
        """Return what is queued, at most *most* items, possibly none."""
        taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
        self._drained()
        return taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self.closed:
                raise StopAsyncIteration
            await _turn(self._getters)
        item = self._items.popleft()
        if self._putters or self._warned:
            self._drained()
        return item

    def _drained(self) -> None:
        if self._putters:
            for _ in range(self.maxsize - len(self._items)):
                _wake_one(self._putters)
        if self._warned and len(self._items) * 2 < self.maxsize and self.maxsize > 4:
            self._warned = False

    # -- the end

    def close(self) -> None:
        """Refuse further items, wake who waits, and tell everybody who asked by `on_close`. Closing twice is fine."""
        if self.closed:
            return
        self.closed, self._high = True, 0
        while self._getters:
            _wake_one(self._getters)
        while self._putters:
            _wake_one(self._putters)
        told = tuple(self._ends)
        self._ends.clear()
        for callback in told:
            try:
                callback(self)
            except Exception:
                log.exception("what follows the end of %s failed", self.name)

    def on_close(self, callback: Callable[[Mailbox[Any]], None]) -> Callable[[], None]:
        """Call *callback* with the mailbox when it is closed (not when it is collected: see `weakref`).

        Returns a function that ends that. On a closed mailbox it is called at once.
        """
        if self.closed:
            callback(self)
        else:
            self._ends[callback] = None
        ends = self._ends  # not the mailbox, which would then live as long as whoever may forget it
        return lambda: ends.pop(callback, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _close_with(owner: asyncio.Task[Any], mailbox: Mailbox[Any]) -> None:
    """Close *mailbox* when *owner* is done; neither keeps the other alive, and the owner forgets what ended first."""
    held = weakref.ref(owner)

    def forget(_: object) -> None:
        if (task := held()) is not None:
            task.remove_done_callback(close)

    reference = weakref.ref(mailbox, forget)

    def close(_: object) -> None:
        if (left := reference()) is not None:
            left.close()

    owner.add_done_callback(close)
    mailbox.on_close(forget)


async def _turn(waiting: deque[asyncio.Future[None]], *, first: bool = False) -> None:
    """Wait until woken; who is cancelled after that hands the wake-up on (whoever gets it looks for itself)."""
    future = asyncio.get_running_loop().create_future()
    if first:
        waiting.appendleft(future)
    else:
        waiting.append(future)
    try:
        await future
    except BaseException:
        if future.done() and not future.cancelled():
            _wake_one(waiting)
        elif future in waiting:
            waiting.remove(future)
        raise


def _wake_one(waiting: deque[asyncio.Future[None]]) -> None:
    while waiting:
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)
            return
