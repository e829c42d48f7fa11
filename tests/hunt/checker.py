"""Anomalies in journals, under the names that Jepsen's Kafka workload gave them where there is one.

What was appended is held against what readers saw and what the log holds in the end; `tests.hunt.deliveries` does the
same for nodes that deliver. An append whose outcome nobody knows may be there or not, but wholly and once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from math import inf

from tests.hunt.deliveries import check_deliveries
from tests.hunt.journal import Entry

__all__ = ["History", "check", "check_all", "check_deliveries", "merged"]

LOG = "the log"
"""As a reader, of what is stored in the end."""


class Scope:
    """What a reader is to have seen.

    Attributes:
        after, upto: positions; without a word when it ended, it need only have seen what lies before its last event.
        begins: how the names of its streams begin.
    """

    def __init__(self, after: int = 0, begins: str = "", upto: float = inf) -> None:
        self.after, self.begins, self.upto = after, begins, upto

    def holds(self, event: Entry) -> bool:
        return self.after < event.position <= self.upto and event.stream.startswith(self.begins)


class History:
    """A journal, sorted into what was written, what is stored in the end and what each reader saw.

    Attributes:
        acknowledged, failed: events by id; those of unknown outcome are in neither.
        appends: ids of each append of several events.
        stored: what the log holds in the end; empty where nobody looked.
        reads: of each reader, and of the log.
        scopes: of the readers that do not read everything.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.acknowledged: dict[str, Entry] = {}
        self.failed: set[str] = set()
        self.appends: defaultdict[str, set[str]] = defaultdict(set)
        self.stored: list[Entry] = []
        self.reads: defaultdict[str, list[Entry]] = defaultdict(list)
        self.scopes: dict[str, Scope] = {}
        self.folded: list[Entry] = []
        doubtful: set[str] = set()
        for entry in entries:
            match entry.kind:
                case "append":
                    self._wrote(entry, doubtful)
                case "read":
                    self.reads[entry.process].append(entry)
                case "follow":
                    self.scopes[entry.process] = Scope(entry.position, entry.stream, -1)
                case "end" if entry.process in self.scopes:
                    self.scopes[entry.process].upto = entry.position
                case "stored":
                    self.stored.append(entry)
                case "folded":
                    self.folded.append(entry)
        self.failed -= doubtful  # a second attempt that failed says nothing about the first
        for reader, scope in self.scopes.items():
            scope.upto = max(scope.upto, *(read.position for read in self.reads[reader]), 0)
        if self.stored:
            self.reads[LOG] = self.stored
        # Without a look at the log, what was acknowledged is all that is known to be there.
        self.known = sorted(self.stored or self.acknowledged.values(), key=lambda one: one.position)

    def _wrote(self, entry: Entry, doubtful: set[str]) -> None:
        if entry.append:
            self.appends[entry.append].add(entry.id)
        if entry.outcome == "ok":
            self.acknowledged[entry.id] = entry
        elif entry.outcome == "fail":
            self.failed.add(entry.id)
        elif entry.outcome == "unknown":
            doubtful.add(entry.id)

    def wanted(self, reader: str) -> list[Entry]:
        """What *reader* is to have seen, by position."""
        scope = self.scopes.get(reader)
        return self.known if scope is None else [one for one in self.known if scope.holds(one)]


def lost_write(history: History) -> Iterator[str]:
    """An event that was acknowledged, and is not in the log in the end."""
    stored = {one.id for one in history.stored}
    for one in history.acknowledged.values():
        if stored and one.id not in stored:
            yield f"{one} is not in the log"


def torn_append(history: History) -> Iterator[str]:
    """An append of which a part is in the log."""
    stored = {one.id for one in history.stored}
    for append, ids in history.appends.items():
        if (there := len(ids & stored)) and there < len(ids):
            yield f"{there} of {len(ids)} events of {append} are in the log"


def unseen(history: History) -> Iterator[str]:
    """An event that is there, and that a reader never got."""
    for reader, reads in history.reads.items():
        seen = {read.id for read in reads}
        if reader != LOG:
            yield from (f"{reader} missed {one}" for one in history.wanted(reader) if one.id not in seen)


def skipped_poll(history: History) -> Iterator[str]:
    """An event that a reader passed over: it got a later one before."""
    for reader, reads in history.reads.items():
        wanted = history.wanted(reader)
        positions = [one.position for one in wanted]
        at = 0
        for read in reads:
            upto = bisect_right(positions, read.position)
            for passed in wanted[at:upto]:
                if passed.position < read.position:
                    yield f"{reader} read {read} before {passed}"
            at = max(at, upto)


def aborted_read(history: History) -> Iterator[str]:
    """An event that was read, or stored, although its append failed; or that was read and is not there."""
    stored = {one.id for one in history.stored}
    for reader, reads in history.reads.items():
        for read in reads:
            if read.id in history.failed or (stored and read.id not in stored):
                yield f"{reader} saw {read}, which was never written"


def duplicate(history: History) -> Iterator[str]:
    """An event one reader got twice, or that is stored twice."""
    for reader, reads in history.reads.items():
        yield from (f"{reader} got {one} {n} times" for one, n in Counter(r.id for r in reads).items() if n > 1)


def nonmonotonic_poll(history: History) -> Iterator[str]:
    """Positions that do not increase along one reader's way."""
    for reader, reads in history.reads.items():
        for before, after in pairwise(reads):
            if after.position <= before.position:
                yield f"{reader} read {after} after {before}"


def inverted_order(history: History) -> Iterator[str]:
    """Versions of one stream that are not 1, 2, 3 … along one reader's way; who joined late begins anywhere."""
    for reader, reads in history.reads.items():
        late = reader in history.scopes and history.scopes[reader].after > 0
        last: dict[str, int] = {}
        for read in reads:
            before = last.get(read.stream, read.version - 1 if late else 0)
            if read.stream and read.version != before + 1:
                yield f"{reader} read {read} after version {before}"
            last[read.stream] = read.version


def position_conflict(history: History) -> Iterator[str]:
    """A position, or a version of a stream, that held two events; or an event elsewhere than it was acknowledged."""
    holders: dict[tuple[str, int], str] = {}
    homes: dict[tuple[str, str], int] = {}
    for writer, reads in (("a writer", history.acknowledged.values()), *history.reads.items()):
        for read in reads:
            for place in places(read):
                of, number = place
                if holders.setdefault(place, read.id) != read.id:
                    yield f"{writer} has {read}, but {place} holds {holders[place]}"
                elif homes.setdefault((read.id, of), number) != number:
                    yield f"{writer} has {read}, which is at {of} {homes[read.id, of]} elsewhere"


def places(event: Entry) -> Iterator[tuple[str, int]]:
    """Where an event is, as far as it is known."""
    if event.position:
        yield "position", event.position
    if event.stream and event.version:
        yield event.stream, event.version


def misfolded(history: History) -> Iterator[str]:
    """A row of a projection that is not what the log folds to."""
    if not history.folded:
        return
    rows = {one.stream: (one.count, one.value, one.version) for one in history.folded}
    expected = folds(history.stored)
    for stream in sorted(rows.keys() | expected.keys()):
        if rows.get(stream) != expected.get(stream):
            yield f"{stream} has (count, sum, last) {rows.get(stream)} and not {expected.get(stream)}"


def folds(log: Iterable[Entry]) -> dict[str, tuple[int, int, int]]:
    """Count, sum and last version of each stream."""
    made: dict[str, tuple[int, int, int]] = {}
    for one in log:
        count, total, last = made.get(one.stream, (0, 0, 0))
        made[one.stream] = count + 1, total + one.value, max(last, one.version)
    return made


CHECKS: tuple[Callable[[History], Iterator[str]], ...] = (
    lost_write,
    torn_append,
    unseen,
    skipped_poll,
    aborted_read,
    duplicate,
    nonmonotonic_poll,
    inverted_order,
    position_conflict,
    misfolded,
)


def check(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the anomalies found among writers and readers, by name; an empty dict if there are none."""
    history = History(entries)
    found = {one.__name__: list(one(history)) for one in CHECKS}
    return {name: anomalies for name, anomalies in found.items() if anomalies}


def check_all(entries: Iterable[Entry], subscriptions: Iterable[str], window: int) -> dict[str, list[str]]:
    """Return the anomalies among writers, readers and nodes that deliver; arguments as `check_deliveries`."""
    entries = list(entries)
    return merged(check(entries), check_deliveries(entries, subscriptions, window))


def merged(*found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """All of them, by name."""
    all_of_them: defaultdict[str, list[str]] = defaultdict(list)
    for one in found:
        for name, anomalies in one.items():
            all_of_them[name] += anomalies
    return dict(all_of_them)
