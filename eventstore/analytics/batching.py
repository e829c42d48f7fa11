"""`Batcher`: gathers the requests of a node and stores them, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from eventstore.analytics.broadcasting import SENT
from eventstore.errors import ConfigurationError
from eventstore.lifecycle.families import Losses
from eventstore.mailbox import Mailbox
from eventstore.service import Backoff, Clock, LoopClock, Moments, Tasks, to_its_end

if TYPE_CHECKING:
    from eventstore.analytics.broadcasting import RequestPubSub
    from eventstore.analytics.logs import RequestLog

__all__ = ["Batcher", "Storage"]

log = logging.getLogger(__name__)

CLOSED_WITHIN = 5.0
"""Seconds that `Batcher.close` tries to store what it still holds."""


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
    fails is kept, and tried again after 0.1 to 5 seconds, while the newer ones wait in the buffer.

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
        self._turn = asyncio.Lock()
        self._backoff = Backoff(0.1, 5.0)
        self._tasks = Tasks()
        self._closing: asyncio.Future[None] | None = None
        self._lost = 0
        self._failures = Losses("requests could not be stored, and wait to be tried again (%d times until now): %s")
        self._drops = Losses("requests were dropped (%d until now): %s")
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
                if not await self._store():
                    return False
                done += len(self._batch)
                self._batch = []
            return True

    def _take(self) -> bool:
        """Have a batch in hand: the one that failed, or the next of the buffer."""
        while not self._batch and len(self._buffer):
            messages = self._buffer.take_nowait(self._size)
            # Anybody may broadcast anything on the topic.
            self._batch = [one[1] for one in messages if type(one) is tuple and len(one) == 2 and one[0] == SENT]
        return bool(self._batch)

    async def _store(self) -> bool:
        try:
            await self._storage.insert(self._batch)
        except Exception as error:  # noqa: BLE001 - any storage, any failure: it is tried again
            self._failures.add(error)
            self.moments.reach("failed", error)
            return False
        self._backoff.reset()
        self.stored += len(self._batch)
        self.moments.reach("stored", len(self._batch))
        return True

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
