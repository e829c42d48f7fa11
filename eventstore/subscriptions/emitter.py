"""An emitter delivers one partition's events to its handler, in order, one at a time."""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from eventstore.errors import DatabaseUnavailable, TransactionConflict
from eventstore.events import Event
from eventstore.feed import Follower
from eventstore.service import Backoff, Moments, set_within
from eventstore.settings import Settings
from eventstore.subscriptions.model import Claim, Delivery, Handler

__all__ = ["Emitter"]

log = logging.getLogger(__name__)


class Emitter:
    """Runs one claimed partition until it is stopped.

    A handler that raises gets the same event again after a pause that doubles; the partition waits, the others go on.

    Attributes:
        position: everything up to here is handled; what may be settled.
        moments: ``live``, ``handled`` (with the event), ``failed`` (with the exception).
    """

    def __init__(
        self, claim: Claim, handler: Handler, follower: Follower, settings: Settings, moments: Moments
    ) -> None:
        self.claim, self.moments = claim, moments
        self._handler, self._follower, self._settings = handler, follower, settings
        self._stopping = asyncio.Event()
        self._handled = claim.checkpoint

    @property
    def position(self) -> int:
        """Position up to which the partition is handled, non-matching events included."""
        return max(self._handled, self._follower.position)

    @property
    def handled(self) -> int:
        """Position of the last event handled, or the checkpoint it began with."""
        return self._handled

    @property
    def live(self) -> bool:
        """Whether the history is read and new events come from the feed."""
        return self._follower.live

    def settled(self, position: int) -> None:
        """Take note that the checkpoint is stored."""
        self._follower.settled(position)

    def stop(self) -> None:
        """End after the event that is being handled."""
        self._stopping.set()

    async def run(self) -> None:
        """Fetch, handle, until stopped; what is handled is settled by the pool."""
        backoff = Backoff(0.05, 5.0)
        try:
            while not self._stopping.is_set():
                try:
                    events = await self._fetch()
                except (DatabaseUnavailable, TransactionConflict, asyncpg.PostgresError) as error:
                    log.warning("%s: %s; trying again", self.claim.name, error)
                    await set_within(self._stopping, backoff.next())
                    continue
                backoff.reset()
                await self._handle(events)
        finally:
            self._follower.close()

    async def _fetch(self) -> list[Event]:
        fetching = asyncio.ensure_future(self._follower.next())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
            return fetching.result() if fetching.done() else []
        finally:
            stopping.cancel()
            if not fetching.done():
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)

    async def _handle(self, events: list[Event]) -> None:
        for event in events:
            if self._stopping.is_set() or not await self._deliver(event):
                return
            self._handled = event.position

    async def _deliver(self, event: Event) -> bool:
        """Call the handler until it returns; False if the emitter was stopped before it did."""
        backoff = Backoff(self._settings.retry_delay, self._settings.retry_delay_max)
        while not self._stopping.is_set():
            attempt = backoff.attempts + 1
            try:
                await self._handler(event, Delivery(self.claim.name, self.claim.partition, self.claim.epoch, attempt))
            except (Exception, asyncio.CancelledError) as error:
                _raise_if_cancelled()
                delay = backoff.next()
                log.exception(
                    "handler of %r failed at position %d (attempt %d); again in %.1f s",
                    self.claim.name, event.position, attempt, delay,
                )  # fmt: skip
                self.moments.reach("failed", error)
                await set_within(self._stopping, delay)
            else:
                _raise_if_cancelled()
                self.moments.reach("handled", event)
                return True
        return False


def _raise_if_cancelled() -> None:
    """Go on with a cancellation of this emitter, whatever its handler made of it: swallowed or another error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError
