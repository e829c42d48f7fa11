"""Checkpoints on their way to the database: those of many partitions in one statement, none more often than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from eventstore.database import Database
from eventstore.feed import Handle
from eventstore.service import Clock, Moments, set_within
from eventstore.settings import Settings
from eventstore.subscriptions.emitter import Emitter
from eventstore.subscriptions.ledger import Ledger

__all__ = ["Settling"]

LOOKED_EVERY = 5.0
"""Seconds between checkpoints that only record how far partitions looked without finding anything."""

LOOKED_AT_ONCE = 1_000
"""Most of those, so that ten thousand quiet subscriptions under a busy log cost what a few hundred do."""


class Settling:
    """Stores the checkpoints of emitters.

    Args:
        emitters: those that run here, as they are now.
        lost: is told which emitters' claims did not hold.

    Attributes:
        moments: ``settled`` (with how many checkpoints).
        on_stored: called after each store.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        emitters: Mapping[Handle, Emitter],
        lost: Callable[[list[Emitter]], None],
        clock: Clock,
        moments: Moments,
    ) -> None:
        self._database, self._ledger, self._settings = database, Ledger(database), settings
        self._emitters, self._lost, self._clock = emitters, lost, clock
        self._moved: dict[Emitter, None] = {}
        self._anything, self._hurry = asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()
        self.moments = moments
        self.on_stored: set[Callable[[], None]] = set()

    def moved(self, emitter: Emitter, hurry: bool) -> None:
        """Store the checkpoint of *emitter* within `Settings.settle_interval`, or at once."""
        self._moved[emitter] = None
        self._anything.set()
        if hurry:
            self._hurry.set()

    async def run(self, node: Callable[[], UUID | None], healthy: Callable[[], None]) -> None:
        """Store what moved, for as long as this runs."""
        looked = self._clock.time()
        while True:
            await set_within(self._anything, LOOKED_EVERY)
            if self._anything.is_set():
                await set_within(self._hurry, self._settings.settle_interval)
            self._anything.clear()
            self._hurry.clear()
            emitters, self._moved = self._moved, {}
            if self._clock.time() - looked >= LOOKED_EVERY:
                looked = self._clock.time()
                emitters |= dict.fromkeys(self._quiet())
            try:
                await self.store(node(), emitters)
            except BaseException:
                self._moved = emitters | self._moved
                self._anything.set()
                raise
            healthy()

    def _quiet(self) -> Iterable[Emitter]:
        """Return those that came further without handling anything, the least recently stored first."""
        further = [one for one in self._emitters.values() if one.settleable() > one.progress.checkpoint]
        return sorted(further, key=lambda one: one.progress.stored_at)[:LOOKED_AT_ONCE]

    async def store(self, node: UUID | None, emitters: Iterable[Emitter]) -> None:
        """Write the checkpoints that moved; emitters whose claim did not hold are lost.

        Raises:
            DatabaseUnavailable: nobody knows what was written; write again.
        """
        emitters = [one for one in emitters if not one.closed]
        if node is None or not emitters:
            return
        # One writer at a time. And positions are taken on the connection that stores them: had the server crashed in
        # between, the connection would be gone as well, and with it positions that only looked at appends which never
        # committed.
        async with self._writing, self._database.acquire() as connection:
            moved = [(one, one.settleable()) for one in emitters if not one.closed]
            moved = [(one, position) for one, position in moved if position > one.progress.checkpoint]
            if not moved:
                return
            moved.sort(key=lambda each: each[0].claim.key)  # rows are locked in one order
            held = await self._ledger.settle(node, [(one.claim, position) for one, position in moved], on=connection)
        lost = []
        for emitter, position in moved:
            if emitter.claim.key not in held:
                lost.append(emitter)
            elif not emitter.closed:
                emitter.stored(position)
        self.moments.reach("settled", len(held))
        for callback in tuple(self.on_stored):
            callback()
        if lost:
            self._lost(lost)
