"""Anomalies in a journal, under the names that Jepsen's Kafka workload gave them where there is one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from tests.hunt.journal import Entry

__all__ = ["check"]


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
