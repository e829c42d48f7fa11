"""`Batcher`: gathers the requests of a node and stores them, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from eventstore.analytics.broadcasting import SENT
from eventstore.analytics.logs import RequestLog
from eventstore.errors import ConfigurationError, DatabaseUnavailable, MigrationRequired, TransactionConflict
from eventstore.lifecycle.families import Losses
from eventstore.mailbox import Mailbox
from eventstore.service import Backoff, Clock, LoopClock, Moments, Tasks, to_its_end

if TYPE_CHECKING:
    from eventstore.analytics.broadcasting import RequestPubSub

__all__ = ["Batcher", "Storage"]

log = logging.getLogger(__name__)

CLOSED_WITHIN = 5.0
"""Seconds that `Batcher.close` tries to store what it still holds."""

SORTED_AFTER = 3
"""How often a batch fails, not because the storage is away, before its parts are tried."""

REFUSALS = 64
"""How many parts of a batch may fail before one of them is stored; more, and it is the storage that fails."""

_AWAY = (OSError, DatabaseUnavailable, MigrationRequired, TransactionConflict)
"""Failures that say nothing about what was to be stored."""


class Storage(Protocol):
    """Where requests go."""

    async def insert(self, logs: Sequence[RequestLog], /) -> object:
        """Store *logs*. Those whose request_id is stored already change nothing: a batch may come again."""


class Batcher:
    """Stores the requests that are broadcast, and those given to `insert`, in batches.

    It subscribes when it is made, which takes a running event loop and an open PubSub, and works until it is closed::

        async with Batcher(requests, RequestTable(dsn)):
            ...

    A batch is stored when there are *batch_size* requests, or *interval* seconds after the first one came. One that
    fails is kept, and tried again after 0.1 to 5 seconds, while the newer ones wait in the buffer. If it fails three
    times, and not because the storage is away, its parts are tried: a request that the storage refuses while it takes
    others is dropped, so that it does not hold them up.

    Args:
        requests: what to subscribe to.
        storage: anything with ``async insert(logs)``.
        batch_size: most requests of one insert.
        interval: seconds a request waits for others, at most.
        max_buffer: requests that wait at most, beside those of the batch in hand; beyond that the oldest are dropped.
        clock: what *interval* is measured by.

    Attributes:
        stored: how many requests were handed to the storage and taken.
        moments: ``stored``, ``failed``.

    Raises:
        ConfigurationError: a number is out of range, or no event loop runs.
        PubSubClosed: the PubSub is not open.
    """

    def __init__(
        self,
        requests: RequestPubSub,
        storage: Storage,
        *,
        batch_size: int = 1000,
        interval: float = 1.0,
        max_buffer: int = 100_000,
        clock: Clock | None = None,
    ) -> None:
        _check(batch_size, interval, max_buffer)
        self._storage, self._size, self._interval = storage, batch_size, interval
        self._clock: Clock = clock or LoopClock()
        self._buffer = _Buffer(max_buffer, min(batch_size, max_buffer))
        self._batch: list[RequestLog] = []
        self._refused = 0  # times in a row that the batch in hand failed by itself
        self._turn = asyncio.Lock()
        self._backoff = Backoff(0.1, 5.0)
        self._tasks = Tasks()
        self._closing: asyncio.Future[None] | None = None
        self._lost = 0
        self._failures = Losses("requests could not be stored, and wait to be tried again (%d times until now): %s")
        self._drops = Losses("requests were dropped (%d until now): %s")
        self._strangers = Losses("what is no request was left out on the topic of requests (%d until now): %s")
        self.stored = 0
        self.moments = Moments()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError("a Batcher is made where an event loop runs, which it works in") from None
        requests.subscribe(self._buffer)
        self._tasks.supervise("request batcher", self._run)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def dropped(self) -> int:
        """How many requests were lost: the buffer was full, or they could not be stored before the end."""
        return self._lost + self._buffer.dropped

    @property
    def failures(self) -> int:
        """How often the storage failed."""
        return self._failures.count

    @property
    def ignored(self) -> int:
        """How many messages on the topic were no requests."""
        return self._strangers.count

    def __len__(self) -> int:
        """How many requests wait to be stored."""
        return len(self._batch) + len(self._buffer)

    def insert(self, log: RequestLog) -> None:
        """Store *log* with one of the next batches. After `close` it is dropped, and counted."""
        if self._buffer.closed:
            self._lost += 1
        else:
            self._buffer.put_nowait((SENT, log))

    async def flush(self) -> bool:
        """Try once to store what waits now; tells whether all of it is stored. What is not stays, to be tried again."""
        return await self._flush(len(self))

    async def close(self) -> None:
        """Take no more requests, and try for up to 5 seconds to store those that wait; the others count as dropped.

        Closing twice is fine.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await to_its_end(self._closing)

    async def _run(self, healthy: Any) -> None:
        while True:
            await self._buffer.some.wait()
            await self._clock.wait(self._buffer.full, self._interval)
            dropped = self._buffer.dropped
            while not await self._flush(len(self)):
                await self._clock.sleep(self._backoff.next())
            if self._buffer.dropped > dropped:
                self._drops.add("the buffer was full", self._buffer.dropped - dropped)

    async def _flush(self, count: int) -> bool:
        """Store *count* requests, or as many as there are; False when the storage fails."""
        async with self._turn:
            done = 0
            while done < count and self._take():
                count_in_hand = len(self._batch)
                if not await self._store() and not await self._sort_out():
                    return False
                done += count_in_hand
            return True

    def _take(self) -> bool:
        """Have a batch in hand: the one that failed, or the next of the buffer."""
        while not self._batch and len(self._buffer):
            self._batch, self._refused = self._requests(self._size), 0
        return bool(self._batch)

    def _requests(self, most: int) -> list[RequestLog]:
        """Take requests from the buffer. Anybody may broadcast anything on the topic: the rest is left out."""
        messages = self._buffer.take_nowait(most)
        pairs = (one for one in messages if type(one) is tuple and len(one) == 2)
        found = [log for kind, log in pairs if kind == SENT and isinstance(log, RequestLog)]
        if strangers := len(messages) - len(found):
            self._strangers.add("only RequestLog are stored", strangers)
        return found

    async def _store(self) -> bool:
        """Store the batch in hand."""
        error = await self._insert(self._batch)
        if error is None:
            self._batch = []
            return True
        self._refused = 0 if isinstance(error, _AWAY) else self._refused + 1
        return False

    async def _insert(self, logs: list[RequestLog]) -> Exception | None:
        """Store *logs*, or return why not."""
        try:
            await self._storage.insert(logs)
        except Exception as error:  # noqa: BLE001 - any storage, any failure: it is tried again
            self._failures.add(error)
            self.moments.reach("failed", error)
            return error
        self._backoff.reset()
        self.stored += len(logs)
        self.moments.reach("stored", len(logs))
        return None

    async def _sort_out(self) -> bool:
        """Try the parts of a batch that fails again and again; tells whether all of it is stored, but for the culprits.

        Halves of halves, in turn the largest left, so that most of a batch with one culprit is stored at once, and the
        smallest, which finds some that can be stored among many culprits. Only when the storage took some are those
        that it refuses, each alone, dropped. If it takes none, it is itself what fails.
        """
        if self._refused == 0 or self._refused % SORTED_AFTER:
            return False
        # Whether the storage takes anything at all, a batch of one cannot tell.
        self._batch += self._requests(max(0, self._size - len(self._batch)))
        parts, culprits, failures, before = [self._batch], list[tuple[RequestLog, Exception]](), 0, self.stored
        while parts and (self.stored > before or failures < REFUSALS):
            parts.sort(key=len)
            part = parts.pop(failures % 2 - 1)
            error = await self._insert(part)
            if isinstance(error, _AWAY):
                parts.append(part)
                break
            if error is not None:
                failures += 1
                half = len(part) // 2
                parts.extend((part[:half], part[half:]) if half else ())
                culprits += [] if half else [(part[0], error)]
        if self.stored > before:
            for culprit, error in culprits:
                self._lost += 1
                self._drops.add(f"the storage takes others and refuses {culprit.method} {culprit.path!r}: {error!r}")
            culprits = []
        self._batch = [one for one, _ in culprits] + [one for part in parts for one in part]
        return not self._batch

    async def _close(self) -> None:
        self._buffer.close()
        await self._tasks.stop()
        try:
            async with asyncio.timeout(CLOSED_WITHIN):
                while not await self._flush(len(self)):
                    await self._clock.sleep(self._backoff.next())
        except TimeoutError:
            self._drops.add("they could not be stored before the end", len(self))
        # After a time-out the batch in hand may be stored all the same; nobody can tell.
        self._lost += len(self)
        self._batch = []
        self._buffer.take_nowait(len(self._buffer))


class _Buffer(Mailbox[Any]):
    """A mailbox that wakes its reader when there is something, and when there is enough, but not for each message."""

    __slots__ = ("_enough", "full", "some")

    def __init__(self, maxsize: int, enough: int) -> None:
        super().__init__(maxsize, "drop_oldest", name="the buffer of requests")
        self._enough = enough
        self.some, self.full = asyncio.Event(), asyncio.Event()

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        count = len(self._items)
        if count == 1:
            self.some.set()
        if count >= self._enough:
            self.full.set()

    def take_nowait(self, most: int) -> list[Any]:
        taken = super().take_nowait(most)
        if not self._items:
            self.some.clear()
        if len(self._items) < self._enough:
            self.full.clear()
        return taken


def _check(batch_size: int, interval: float, max_buffer: int) -> None:
    for name, value in (("batch_size", batch_size), ("max_buffer", max_buffer)):
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r}")
    if not (isinstance(interval, (int, float)) and 0 < interval < 1e6):
        raise ConfigurationError(f"interval must be a number of seconds above 0, not {interval!r}")
