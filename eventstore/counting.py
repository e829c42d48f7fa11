"""Counts of what a node does: plain numbers that cost next to nothing, for whoever wants to show them.

Every part of a store adds to one `Counts`, in the event loop and without a lock; counters only ever grow while the
store lives, also over closing and opening it again. Nothing in the package decides by them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["APPENDING", "FEEDING", "HANDLING", "Counts", "Handled", "Histogram", "Reads", "Subscriptions"]

APPENDING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds, in seconds, of the buckets for the time of an append."""

FEEDING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds, in seconds, of the buckets for the delay of the feed."""

HANDLING = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Upper bounds, in seconds, of the buckets for the time of a handler; few, since every subscription has its own."""

KEPT = 1_000
"""Subscriptions that are counted whether or not they still run here; beyond them only those that do."""


class Histogram:
    """How often values fell into buckets.

    Attributes:
        bounds: upper bounds of the buckets, inclusive, rising; one more bucket takes what is larger than all.
        buckets: how many values each holds, not added up.
        sum: of all values.
    """

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Count what *other*, which has the same bounds, has counted."""
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.buckets)


class Handled:
    """What this node's handlers made of the events of one subscription.

    Attributes:
        seconds: how long each call of the handler took, however it ended; one call may be for a batch. None: no call.
        handled: events that were settled because the handler, or a sink, took them.
        failed: deliveries that failed, each attempt counted; a batch that failed is one.
        parked: events that were set aside, with those that queued behind them; not those set aside again.
        skipped: events that were given up.
        replayed: parked events that were settled at last.
    """

    __slots__ = ("failed", "handled", "parked", "replayed", "seconds", "skipped")

    def __init__(self) -> None:
        self.seconds: Histogram | None = None
        self.handled = self.failed = self.parked = self.skipped = self.replayed = 0

    def took(self, seconds: float) -> None:
        """Count a call."""
        if self.seconds is None:
            self.seconds = Histogram(HANDLING)
        self.seconds.observe(seconds)

    def add(self, other: Handled) -> None:
        """Count what *other* has counted."""
        self.handled += other.handled
        self.failed += other.failed
        self.parked += other.parked
        self.skipped += other.skipped
        self.replayed += other.replayed
        if other.seconds is not None:
            self.seconds = self.seconds or Histogram(HANDLING)
            self.seconds.add(other.seconds)


class Subscriptions:
    """The counts of each subscription that ran here; bounded by how many run here now, and `KEPT`.

    Attributes:
        forgotten: what those counted that were forgotten, so that sums over all never fall.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.forgotten = Handled()
        self._all: dict[str, Handled] = {}
        self._kept = self._most = kept

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[tuple[str, Handled]]:
        return iter(tuple(self._all.items()))

    def __getitem__(self, name: str) -> Handled:
        return self._all[name]

    def of(self, name: str, running: Callable[[], Collection[str]]) -> Handled:
        """Return the counts of *name*; *running* says which run here, when it is time to forget the others."""
        if (found := self._all.get(name)) is not None:
            return found
        if len(self._all) >= self._most:
            self.forget(set(self._all).difference(running()))
            self._most = max(self._kept, 2 * len(self._all))
        made = self._all[name] = Handled()
        return made

    def forget(self, names: Collection[str]) -> None:
        """Drop the counts of *names*: those subscriptions are gone."""
        for name in names:
            if (gone := self._all.pop(name, None)) is not None:
                self.forgotten.add(gone)


@dataclass(slots=True, eq=False)
class Reads:
    """Pages of events that were read, and the events in them."""

    pages: int = 0
    events: int = 0


@dataclass(slots=True, eq=False)
class Counts:
    """What one node did, since its store was made.

    Attributes:
        append_seconds: the time of each call of `append` and its like, however it ended.
        appends: calls by what came of them: ``stored``, ``repeated`` (its events were there), ``in_transaction`` (of a
            caller, which commits or not). Those that failed are in `append_failures`.
        append_failures: calls that failed, by the name of the error. What was refused before anything was sent
            because an event breaks a rule is not among them.
        events_stored: events that are in the log because of this node.
        events_in_transactions: events appended in transactions of callers, which commit or not.
        reads: what was read for `read`, `read_all`, `listen` and subscriptions that catch up.
        feed: what the feed read, for everybody who follows the log.
        feed_seconds: for each page of the feed, how long its first event had been recorded when it was handed over.
        clock_offset: seconds that the database's clock is ahead of this node's, as last measured; None: never was.
        left_behind: how often the feed was too fast for somebody, who went back to reading pages.
        polls: looks at the log that no signal asked for.
        signals_sent, signals_heard: to, and from, other nodes.
        listen_losses, listen_reconnects: of the LISTEN connection.
        leases_lost: how often this node lost its lease, and all partitions with it.
        partitions_claimed, partitions_lost, partitions_released, partitions_halted: of this node; lost are also those
            whose release failed.
        crashes: emitters that ended by an error of their own.
            subscriptions: what handlers did.
    """

    OUTCOMES: ClassVar = ("stored", "repeated", "in_transaction")

    append_seconds: Histogram = field(default_factory=lambda: Histogram(APPENDING))
    appends: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    append_failures: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    events_stored: int = 0
    events_in_transactions: int = 0
    reads: Reads = field(default_factory=Reads)
    feed: Reads = field(default_factory=Reads)
    feed_seconds: Histogram = field(default_factory=lambda: Histogram(FEEDING))
    clock_offset: float | None = None
    left_behind: int = 0
    polls: int = 0
    signals_sent: int = 0
    signals_heard: int = 0
    listen_losses: int = 0
    listen_reconnects: int = 0
    leases_lost: int = 0
    partitions_claimed: int = 0
    partitions_lost: int = 0
    partitions_released: int = 0
    partitions_halted: int = 0
    crashes: int = 0
    subscriptions: Subscriptions = field(default_factory=Subscriptions)

    def appended(self, events: int, seconds: float, *, repeated: bool, lent: bool) -> None:
        """Count an append of *events* that succeeded, on a connection *lent* by a caller or not."""
        self.append_seconds.observe(seconds)
        if lent:
            self.appends["in_transaction"] += 1
            self.events_in_transactions += 0 if repeated else events
        else:
            self.appends["repeated" if repeated else "stored"] += 1
            self.events_stored += 0 if repeated else events

    def append_failed(self, error: BaseException, seconds: float) -> None:
        """Count an append that ended in *error*."""
        self.append_seconds.observe(seconds)
        self.append_failures[type(error).__name__] += 1
