"""What the database knows, read at most once a second however many ask, and never waited for in vain."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import asyncpg

from eventstore.reports.horizon import read_blockers
from eventstore.service import Tasks
from eventstore.store import EventStore

__all__ = ["Look", "Looks", "Measured", "looks_of"]

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds for which what was read is good."""

LOOK_WITHIN = 10.0
"""Seconds after which reading is given up, long after nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One subscription.

    Attributes:
        behind: positions between the checkpoint of its last partition and the horizon, matching or not.
        seconds: age of the first event after that checkpoint, matching or not.
        unowned: partitions that no live node runs; *unhandled*: those of them for which none has a handler.
        parked: events set aside; *replaying*: those of them that are about to be delivered again.
    """

    name: str
    paused: bool
    behind: int
    seconds: float
    halted: int
    unowned: int
    unhandled: int
    parked: int
    replaying: int


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        began: by the clock of `Looks`.
        took: seconds.
        horizon_age: seconds that the oldest transaction which holds the horizon has lasted. Where this role may not
            see that, for how long a committed event has been hidden behind it. 0.0: nothing holds it.
        subscriptions: those in trouble first, then those furthest behind.
        sums: of all subscriptions, also of those that are not listed: ``subscriptions``, ``partitions``,
            ``unowned`` and ``parked``.
    """

    began: float
    took: float
    horizon: int
    last_position: int
    horizon_age: float
    nodes_alive: int
    nodes_expired: int
    subscriptions: Sequence[Measured]
    sums: dict[str, dict[str, int]]


class Looks:
    """Looks at the database of one store, one at a time.

    Attributes:
        most: most subscriptions to read; the largest number anybody asked for.
        last: what the last look found; None: there was none, or it failed.
    """

    def __init__(self) -> None:
        self.most = 0
        self.last: Look | None = None
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._tried, self._failure = float("-inf"), ""

    async def latest(self, store: EventStore, within: float) -> Look | None:
        """Return what was found within the last second, or look; None if that fails or takes too long.

        Raises nothing. A look that takes too long goes on by itself, and no other is begun meanwhile: it ends after
        `LOOK_WITHIN` seconds, or when the store is closed and its connection with it.
        """
        loop = asyncio.get_running_loop()
        if self._task is not None and (self._task.done() or self._task.get_loop() is not loop):
            self._task = None
        if self._task is None:
            if time.monotonic() - self._tried < EVERY:
                return self.last
            self._tried = time.monotonic()
            self._task = self._tasks.spawn("metrics", self._try(store))
        await asyncio.wait((self._task,), timeout=within)
        if not self._task.done():
            self.last = None
        return self.last

    async def _try(self, store: EventStore) -> None:
        """Look, and tell the log once of what goes wrong."""
        found, failure = None, ""
        try:
            found = await self._look(store)
        except Exception as error:  # noqa: BLE001 - whatever it is, a scrape is answered
            failure = str(error) or type(error).__name__
        self.last = found  # only now: the one before is being rendered, perhaps
        if failure and failure != self._failure:
            log.warning("metrics: the database could not be asked: %s", failure)
        self._failure = failure

    async def _look(self, store: EventStore) -> Look:
        async with asyncio.timeout(LOOK_WITHIN):
            began, database = time.monotonic(), store._control
            (row,) = await database.rows("store_measures_v1")
            horizon, last = row["horizon"], row["last_position"]
            age = 0.0
            if horizon < last:
                lasted = [one.seconds for one in await read_blockers(database, last)]
                age = max([row["hidden_for"], *(one for one in lasted if one is not None)])
            rows = await database.rows("subscription_measures_v1", horizon, self.most)
            sums = json.loads(rows.pop()["sums"])
            await _forget_deleted(store)
        return Look(
            began,
            time.monotonic() - began,
            horizon,
            last,
            age,
            row["nodes_alive"],
            row["nodes_expired"],
            [_measured(one) for one in rows],
            sums,
        )


def _measured(row: asyncpg.Record) -> Measured:
    *values, _ = row
    return Measured(*values)


async def _forget_deleted(store: EventStore) -> None:
    """Drop the counts of subscriptions that are gone."""
    running = {one.claim.name for one in store._pools.emitters}
    if elsewhere := [name for name, _ in store.counts.subscriptions if name not in running]:
        rows = await store._control.rows("missing_subscriptions_v1", elsewhere)
        gone = {row[0] for row in rows} - {one.claim.name for one in store._pools.emitters}
        store.counts.subscriptions.forget(gone)


_looks: WeakKeyDictionary[EventStore, Looks] = WeakKeyDictionary()


def looks_of(store: EventStore, most: int = 0) -> Looks:
    """Return the looks of *store*, which all who ask share."""
    looks = _looks.setdefault(store, Looks())
    looks.most = max(looks.most, most)
    return looks
