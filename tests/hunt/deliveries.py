"""Anomalies in the journals of nodes that deliver; see `tests.hunt.checker`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import inf

from tests.hunt.journal import Entry

__all__ = ["check_deliveries"]

Term = tuple[str, int, int]
"""Subscription, partition and epoch: what one owner delivers."""


class Deliveries:
    """The journals of the nodes of one log, sorted by time into what was stored, delivered and settled.

    Attributes:
        window: most events of a partition that a crash may have delivered again.
        crashed: terms that ended without a word.
        again: first attempts at what had been attempted before, unless that failed and its partition has moved since:
            with it the failure is forgotten.
    """

    def __init__(self, entries: Iterable[Entry], subscriptions: Iterable[str], window: int) -> None:
        self.subscriptions, self.window = tuple(subscriptions), window
        self.stored: list[Entry] = []
        self.begun: defaultdict[str, list[Entry]] = defaultdict(list)
        self.ended: defaultdict[str, list[Entry]] = defaultdict(list)
        self.moves: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        self.crashed: dict[Term, str] = {}
        self.halted: set[str] = set()
        self.again: defaultdict[str, list[Entry]] = defaultdict(list)
        self._latest: dict[tuple[str, int], tuple[str, int]] = {}
        for entry in sorted(entries, key=lambda one: one.at):
            self._sort(entry)
        self.stored.sort(key=lambda one: one.position)

    def _sort(self, entry: Entry) -> None:
        match entry.kind:
            case "stored":
                self.stored.append(entry)
            case "begin":
                self.begun[entry.subscription].append(entry)
                before, epoch = self._latest.get(key(entry), ("failed", -1))
                if entry.attempt == 1 and (before != "failed" or epoch == entry.epoch):
                    self.again[entry.subscription].append(entry)
                self._latest[key(entry)] = "begin", entry.epoch
            case "failed":
                self._latest[key(entry)] = "failed", entry.epoch
            case "handled":
                self.ended[entry.subscription].append(entry)
                self._latest[key(entry)] = "handled", entry.epoch
            case "parked":
                self.ended[entry.subscription].append(entry)
                if key(entry) in self._latest:  # and not what was parked without an attempt, behind another
                    self._latest[key(entry)] = "parked", entry.epoch
            case "moved":
                self.moves[entry.subscription, entry.partition].append(entry)
            case "claimed":
                for earlier in self.crashed:
                    if earlier[:2] == term(entry)[:2]:
                        self.crashed[earlier] = ""  # superseded: it can end no more
                self.crashed[term(entry)] = entry.process
            case "lost":
                self.crashed[term(entry)] = ""
            case "released":
                self.crashed.pop(term(entry), None)
            case "end":
                self.crashed = {one: process for one, process in self.crashed.items() if process != entry.process}
            case "stop":
                self.halted.add(entry.process)


def term(entry: Entry) -> Term:
    return entry.subscription, entry.partition, entry.epoch


def key(entry: Entry) -> tuple[str, int]:
    return entry.subscription, entry.position


def unseen(deliveries: Deliveries) -> Iterator[str]:
    """A stored event that a subscription never saw handled, or parked."""
    for name in deliveries.subscriptions:
        ended = {one.position for one in deliveries.ended[name]}
        yield from (f"{name} missed {one}" for one in deliveries.stored if one.position not in ended)


def repeated(deliveries: Deliveries) -> Iterator[str]:
    """More first deliveries of the same events than crashes explain: a window for each term that ended so."""
    for name, again in deliveries.again.items():
        crashes = sum(crashed[0] == name for crashed in deliveries.crashed)
        if len(again) > crashes * deliveries.window:
            yield f"{name} delivered {len(again)} events again after {crashes} crashes: {again[:3]}"


def inverted_order(deliveries: Deliveries) -> Iterator[str]:
    """A stream whose events came out of order: a new owner may go back, but none may skip, nor go back by himself."""
    for name, begun in deliveries.begun.items():
        highest: Counter[str] = Counter()
        last: dict[tuple[Term, str], int] = {}
        for one in begun:
            before = last.get((term(one), one.stream))
            follows = before is None or one.version == before + 1 or (one.version == before and one.attempt > 1)
            if one.version > highest[one.stream] + 1 or not follows:
                yield f"{name}: {one} after version {before or highest[one.stream]}"
            highest[one.stream] = max(highest[one.stream], one.version)
            last[term(one), one.stream] = one.version


def overlapping(deliveries: Deliveries) -> Iterator[str]:
    """Deliveries under an epoch that is over, by a process that was not halted."""
    for name, begun in deliveries.begun.items():
        epochs: Counter[int] = Counter()
        for one in begun:
            if one.epoch < epochs[one.partition] and one.process not in deliveries.halted:
                yield f"{name}: {one} after epoch {epochs[one.partition]}"
            epochs[one.partition] = max(epochs[one.partition], one.epoch)


def checkpoint_fell(deliveries: Deliveries) -> Iterator[str]:
    """A checkpoint that moved back."""
    for moves in deliveries.moves.values():
        yield from (f"{after} after {before.position}" for before, after in falling(moves, "position"))


def epoch_fell(deliveries: Deliveries) -> Iterator[str]:
    """An epoch that came back."""
    for moves in deliveries.moves.values():
        yield from (f"{after} after epoch {before.epoch}" for before, after in falling(moves, "epoch"))


def falling(moves: Iterable[Entry], field: str) -> Iterator[tuple[Entry, Entry]]:
    return ((one, two) for one, two in pairwise(moves) if getattr(two, field) < getattr(one, field))


def aborted_read(deliveries: Deliveries) -> Iterator[str]:
    """A delivery of something that is not in the log."""
    stored = {one.id for one in deliveries.stored}
    for name, begun in deliveries.begun.items():
        yield from (f"{name} delivered {one}, which is not in the log" for one in begun if one.id not in stored)


def settled_unhandled(deliveries: Deliveries) -> Iterator[str]:
    """A checkpoint beyond what anybody was through with: acknowledged too early."""
    for name, move, event, before in unearned(deliveries):
        if not before:
            yield f"{name}: {move} although {event} was not handled"


def stale_write(deliveries: Deliveries) -> Iterator[str]:
    """A checkpoint that passes what only an earlier owner was through with: written under an epoch that was over."""
    for name, move, event, before in unearned(deliveries):
        if before:
            yield f"{name}: {move}, {event} was handled under another epoch only"


def unearned(deliveries: Deliveries) -> Iterator[tuple[str, Entry, Entry, bool]]:
    """Checkpoints beyond what their own owner was through with, the event, and whether another owner was."""
    ends = {name: {place(one): one.at for one in reversed(some)} for name, some in deliveries.ended.items()}
    first = {name: {one.position: one.at for one in reversed(some)} for name, some in deliveries.ended.items()}
    for (name, partition), moves in deliveries.moves.items():
        through = ends.get(name, {})
        mine = [one for one in deliveries.stored if one.bucket % moves[0].pool_size == partition]
        at = 0  # those before it are settled
        for before, after in pairwise(moves):
            while at < len(mine) and mine[at].position <= after.position:
                position = mine[at].position
                ended = min(through.get((epoch, position), inf) for epoch in (after.epoch, ANY))
                if position > before.position and ended > after.at:
                    yield name, after, mine[at], first.get(name, {}).get(position, inf) <= after.at
                at += 1


def place(ended: Entry) -> tuple[int, int]:
    """Where an event counts as settled: what was parked is stored, and holds for every owner."""
    return ANY if ended.kind == "parked" else ended.epoch, ended.position


ANY = -1


DELIVERY_CHECKS: tuple[Callable[[Deliveries], Iterator[str]], ...] = (
    unseen,
    aborted_read,
    repeated,
    inverted_order,
    overlapping,
    checkpoint_fell,
    epoch_fell,
    settled_unhandled,
    stale_write,
)


def check_deliveries(entries: Iterable[Entry], subscriptions: Iterable[str], window: int) -> dict[str, list[str]]:
    """Return the anomalies found in the journals of nodes, by name; an empty dict if there are none.

    Args:
        subscriptions: those that want every event.
        window: `Settings.window` of the nodes.
    """
    deliveries = Deliveries(entries, subscriptions, window)
    found = {one.__name__: list(one(deliveries)) for one in DELIVERY_CHECKS}
    return {name: anomalies for name, anomalies in found.items() if anomalies}
