"""Anomalies in journals: of readers, under the names that Jepsen's Kafka workload gave them where there is one, and of
nodes that deliver.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import inf

from tests.hunt.journal import Entry

__all__ = ["check", "check_deliveries"]


class History:
    """A journal, sorted into what was written and what each reader saw."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.acknowledged: dict[str, Entry] = {}
        self.failed: set[str] = set()
        self.reads: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.kind == "append" and entry.outcome == "ok":
                self.acknowledged[entry.id] = entry
            elif entry.kind == "append" and entry.outcome == "fail":
                self.failed.add(entry.id)
            elif entry.kind == "read":
                self.reads[entry.process].append(entry)


def unseen(history: History) -> Iterator[str]:
    """An acknowledged event that a reader never got."""
    for reader, reads in history.reads.items():
        for missed in history.acknowledged.keys() - {read.id for read in reads}:
            yield f"{reader} missed {history.acknowledged[missed]}"


def aborted_read(history: History) -> Iterator[str]:
    """A ghost: an event that was rolled back, and read."""
    for reader, reads in history.reads.items():
        yield from (f"{reader} saw the rolled back {read}" for read in reads if read.id in history.failed)


def duplicate_read(history: History) -> Iterator[str]:
    """An event one reader got twice."""
    for reader, reads in history.reads.items():
        yield from (f"{reader} got {one} {n} times" for one, n in Counter(r.id for r in reads).items() if n > 1)


def nonmonotonic_poll(history: History) -> Iterator[str]:
    """Positions that do not increase along one reader's way."""
    for reader, reads in history.reads.items():
        for before, after in pairwise(reads):
            if after.position <= before.position:
                yield f"{reader} read {after} after {before}"


def version_inversion(history: History) -> Iterator[str]:
    """Versions of one stream that are not 1, 2, 3 … along one reader's way."""
    for reader, reads in history.reads.items():
        last: Counter[str] = Counter()
        for read in reads:
            if read.version != last[read.stream] + 1:
                yield f"{reader} read {read} after version {last[read.stream]}"
            last[read.stream] = read.version


def position_conflict(history: History) -> Iterator[str]:
    """One position that held two events, or an event that was read elsewhere than it was acknowledged."""
    holders = {entry.position: entry.id for entry in history.acknowledged.values()}
    for reader, reads in history.reads.items():
        for read in reads:
            if holders.setdefault(read.position, read.id) != read.id:
                yield f"{reader} read {read}, but position {read.position} holds {holders[read.position]}"


CHECKS: tuple[Callable[[History], Iterator[str]], ...] = (
    unseen,
    aborted_read,
    duplicate_read,
    nonmonotonic_poll,
    version_inversion,
    position_conflict,
)


def check(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the anomalies found, by name; an empty dict if there are none."""
    history = History(entries)
    found = {one.__name__: list(one(history)) for one in CHECKS}
    return {name: anomalies for name, anomalies in found.items() if anomalies}


# -- deliveries

Term = tuple[str, int, int]
"""Subscription, partition and epoch: what one owner delivers."""


class Deliveries:
    """The journals of the nodes of one log, sorted by time into what was stored, delivered and settled.

    Attributes:
        window: most events of a partition that a crash may have delivered again.
        crashed: terms that ended without a word.
    """

    def __init__(self, entries: Iterable[Entry], subscriptions: Iterable[str], window: int) -> None:
        self.subscriptions, self.window = tuple(subscriptions), window
        self.stored: list[Entry] = []
        self.begun: defaultdict[str, list[Entry]] = defaultdict(list)
        self.ended: defaultdict[str, list[Entry]] = defaultdict(list)
        self.moves: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        self.crashed: dict[Term, str] = {}
        self.halted: set[str] = set()
        for entry in sorted(entries, key=lambda one: one.at):
            self._sort(entry)
        self.stored.sort(key=lambda one: one.position)

    def _sort(self, entry: Entry) -> None:
        match entry.kind:
            case "append":
                self.stored.append(entry)
            case "begin":
                self.begun[entry.subscription].append(entry)
            case "handled" | "parked":
                self.ended[entry.subscription].append(entry)
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


def lost(deliveries: Deliveries) -> Iterator[str]:
    """A stored event that a subscription never saw handled, or parked."""
    for name in deliveries.subscriptions:
        ended = {one.position for one in deliveries.ended[name]}
        yield from (f"{name} lost {one}" for one in deliveries.stored if one.position not in ended)


def repeated(deliveries: Deliveries) -> Iterator[str]:
    """More first deliveries of the same events than crashes explain: a window for each term that ended so."""
    for name, begun in deliveries.begun.items():
        times = Counter(one.position for one in begun if one.attempt == 1)
        repeats = times.total() - len(times)
        crashes = sum(crashed[0] == name for crashed in deliveries.crashed)
        if repeats > crashes * deliveries.window:
            yield f"{name} delivered {repeats} events again after {crashes} crashes, {times.most_common(1)}"


def inverted(deliveries: Deliveries) -> Iterator[str]:
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


def settled_unhandled(deliveries: Deliveries) -> Iterator[str]:
    """A checkpoint beyond what its own owner was through with: acknowledged too early, or written by an earlier one."""
    ends = {name: {place(one): one.at for one in reversed(some)} for name, some in deliveries.ended.items()}
    for (name, partition), moves in deliveries.moves.items():
        through = ends.get(name, {})
        mine = [one for one in deliveries.stored if one.bucket % moves[0].pool_size == partition]
        at = 0  # those before it are settled
        for before, after in pairwise(moves):
            while at < len(mine) and mine[at].position <= after.position:
                position = mine[at].position
                ended = min(through.get((epoch, position), inf) for epoch in (after.epoch, ANY))
                if position > before.position and ended > after.at:
                    yield f"{name}: {after} although {mine[at]} was not handled under that epoch"
                at += 1


def place(ended: Entry) -> tuple[int, int]:
    """Where an event counts as settled: what was parked is stored, and holds for every owner."""
    return ANY if ended.kind == "parked" else ended.epoch, ended.position


ANY = -1


DELIVERY_CHECKS: tuple[Callable[[Deliveries], Iterator[str]], ...] = (
    lost,
    repeated,
    inverted,
    overlapping,
    checkpoint_fell,
    epoch_fell,
    settled_unhandled,
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
