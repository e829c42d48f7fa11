"""Envelopes that wait to be sent: while some are on their way, further ones gather and leave together.

Each flush wakes every node of the cluster. So while many senders send now and then, flushes are spaced, and what they
carry grows. A sender that waits for its answer and sends again at once is not made to wait: it would only send less.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from eventstore.errors import DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope
from eventstore.pubsub.frames import Prepared
from eventstore.service import raise_if_cancelled, set_within

__all__ = ["Outbox", "Refused"]

SPACING = 0.005
"""Seconds between two flushes once `BURST` of them came within so many times this, one after another."""

BURST = 4

CLOSED = "the PubSub was closed before the message was known to be sent"

_Batch = dict[asyncio.Future[None], tuple[Envelope, int]]


class Refused(Exception):
    """What was to be sent was refused as a whole: nothing of it was sent, and without some of it the rest may pass."""


class Outbox:
    """A bounded queue in front of one sender at a time.

    Args:
        flush: sends envelopes in their order; returns once they are sent, raises if they were not. After `Refused`
            they are sent in halves, so that those that cannot be sent fail alone.
        most: envelopes that may wait. Whoever comes later waits for room, as beyond `most_bytes`.
        most_bytes: bytes of their messages and topics; a single envelope may be larger.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        flush: Callable[[list[Envelope]], Awaitable[None]],
        *,
        most: int = 10_000,
        most_bytes: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flush, self._most, self._most_bytes = flush, most, most_bytes
        self._waiting: _Batch = {}
        self._bytes = 0
        self._flushing = self._closed = False
        self._filled, self._room, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._clock = clock
        self._flushes: deque[float] = deque([-SPACING * BURST] * BURST, maxlen=BURST)
        self._senders: set[int] = set()
        self._answered: set[int] = set()
        self._hurry = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def send(self, envelope: Envelope) -> None:
        """Send *envelope* after those that came before; one whose sender is cancelled in time is left out.

        Raises:
            DatabaseUnavailable: it was not sent, or nobody knows.
        """
        size = _size(envelope)
        while not self._closed and not self._fits(size):
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise DatabaseUnavailable(CLOSED)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[sent] = envelope, size
        self._bytes += size
        self._senders.add(sender := id(asyncio.current_task()))
        if sender in self._answered:
            self._hurry.set()
        self._filled.set()
        self._idle.clear()
        try:
            await sent
        except asyncio.CancelledError:
            self._forget(sent)
            raise

    async def run(self, healthy: Callable[[], None]) -> None:
        """Send what waits, for ever. A flush that fails is the failure of those who wait for it."""
        while True:
            raise_if_cancelled()  # also after a flush that lost it
            await self._filled.wait()
            if (pause := self._pause()) > 0:
                await set_within(self._hurry, pause)
            await self._flush_waiting()
            healthy()

    async def drained(self) -> None:
        """Wait until nothing waits and nothing is on its way."""
        await self._idle.wait()

    def close(self) -> None:
        """Take nothing more, and fail what still waits."""
        self._closed = True
        self._hurry.set()
        _fail(self._take(), None)

    def _fits(self, size: int) -> bool:
        return not self._waiting or (len(self._waiting) < self._most and self._bytes + size <= self._most_bytes)

    def _forget(self, sent: asyncio.Future[None]) -> None:
        if (found := self._waiting.pop(sent, None)) is not None:
            self._bytes -= found[1]
            self._room.set()
            self._rest()

    def _take(self) -> _Batch:
        taken, self._waiting, self._bytes = self._waiting, {}, 0
        self._room.set()
        self._rest()
        return taken

    def _rest(self) -> None:
        if not self._waiting:
            self._filled.clear()
            if not self._flushing:
                self._idle.set()

    def _pause(self) -> float:
        """Return how long to let further envelopes gather."""
        now = self._clock()
        busy = now - self._flushes[0] < SPACING * BURST
        return self._flushes[-1] + SPACING - now if busy and not self._hurry.is_set() else 0.0

    async def _flush_waiting(self) -> None:
        self._flushing = True
        self._flushes.append(self._clock())
        self._answered, self._senders = self._senders, set()
        self._hurry.clear()
        batch = self._take()
        try:
            await self._flush_batch(batch)
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._flushing = False
            self._rest()

    async def _flush_batch(self, batch: _Batch) -> None:
        try:
            await self._flush([envelope for envelope, _ in batch.values()])
        except Refused as error:
            if len(batch) == 1:
                _fail(batch, error.__cause__ or error)
                return
        else:
            for sent in batch:
                if not sent.done():
                    sent.set_result(None)
            return
        # Halves, in their order: one culprit among many costs a few statements, not one for each of the others.
        entries, middle = list(batch.items()), len(batch) // 2
        await self._flush_batch(dict(entries[:middle]))
        await self._flush_batch(dict(entries[middle:]))


def _fail(batch: _Batch, error: BaseException | None) -> None:
    """Raise in each who waits an error of its own: tracebacks grow with every raise."""
    closed = error is None or not isinstance(error, Exception)
    for sent in batch:
        if not sent.done():
            failure = DatabaseUnavailable(CLOSED if closed else str(error))
            failure.__cause__ = None if closed else error
            sent.set_exception(failure)


def _size(envelope: Envelope) -> int:
    if isinstance(envelope, Prepared):
        return len(envelope.packed) + len(envelope.topic)
    message = envelope.message
    return (len(message) if message.isascii() else len(message.encode())) + len(envelope.topic)
