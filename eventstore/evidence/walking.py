"""What is wrong with one event, and with what a seal covers: pure, fed with rows as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eventstore.evidence.hashing import NONE, Malformed, digest_of, link, record, running, stored_link
from eventstore.evidence.seals import MARKS, Mark, Seal
from eventstore.evidence.switching import chained

__all__ = ["Break", "Marking", "SealWalk", "examined", "sort_key"]


@dataclass(frozen=True, slots=True)
class Break:
    """Something that no append, no scavenging and no seal leaves behind.

    Attributes:
        what: what is wrong, in words.
        position: of the event; of what only a seal tells, the last position of the range in question.
        after: None: it is this event. Otherwise it lies after that position, up to `position`.
        stream, version: of the event, or of the stream.
        seal: number of the seal that tells.
    """

    what: str
    position: int | None = None
    after: int | None = None
    stream: str | None = None
    version: int | None = None
    seal: int | None = None


def sort_key(found: Break) -> tuple[float, bool]:
    """Order breaks by where they are: what has no place comes last, an event before a range that ends with it."""
    return (float("inf") if found.position is None else found.position, found.after is not None)


Periods = Sequence[tuple[int, int | None]]


def examined(row: Any, periods: Periods) -> tuple[bytes, str | None]:
    """Return the record of a row of ``chain_page_v1``, and what is wrong with the row; None: nothing."""
    try:
        written = record(row, digest_of(row))
    except Malformed as error:
        return repr(tuple(row)).encode(), error.what
    return written, _wrong(row, written, periods)


def _wrong(row: Any, written: bytes, periods: Periods) -> str | None:
    stored, on = stored_link(row.hash), chained(periods, row.position)
    if (stored is not None) is not on:
        return "it has no hash, though the chain was on" if on else "it has a hash, though the chain was off"
    if row.position < 1:
        return "its position is below 1"
    if row.stream is None:
        before = None
    else:
        if row.stream_version is None:
            return "its stream has no row"
        if row.version > row.stream_version:
            return f"its stream's row ends at version {row.stream_version}"
        if row.version != 1:
            if row.version < 1:
                return "its version is below 1"
            if row.before_position is None:
                return f"version {row.version - 1} of its stream is missing"
            if row.before_position >= row.position:
                return f"version {row.version - 1} of its stream has a later position"
        before = stored_link(row.before_hash)
    if stored is not None and stored != link(before, written):
        return "its hash is not that of the event and of the one before it in its stream"
    if row.untagged:
        return "one of its tags is missing in event_tags"
    return None


class Marking:
    """Makes the marks of a seal: all of them while it is small, then every second one, fourth one and so on."""

    def __init__(self, start: bytes) -> None:
        self.events, self.digest = 0, start
        self._marks: list[Mark] = []
        self._step = 1

    def feed(self, row: Any, written: bytes) -> None:
        """Take the next event."""
        self.digest = running(self.digest, written, row.hash)
        self.events += 1
        if self.events % self._step:
            return
        self._marks.append(Mark(row.position, self.events, self.digest.hex()))
        if len(self._marks) == MARKS:
            self._marks = self._marks[1::2]
            self._step *= 2

    def marks(self, position: int) -> tuple[Mark, ...]:
        """Return the marks of a seal that ends at *position*."""
        last = Mark(position, self.events, self.digest.hex())
        return (*(mark for mark in self._marks if mark.position < position), last)


class SealWalk:
    """Compares what is read, in the order of positions, with the marks of seals that follow each other."""

    def __init__(self, seals: Sequence[Seal]) -> None:
        self._left = list(reversed(seals))
        self._begin()

    def _begin(self) -> None:
        self._seal = self._left.pop() if self._left else None
        self._mark, self._events, self._told = 0, 0, False
        self._running = NONE if self._seal is None else self._seal.start
        self._last: Any = None

    def feed(self, row: Any, written: bytes) -> Iterator[Break]:
        """Take the next event; yield what is told by the marks before it."""
        yield from self.finish(row.position)
        if self._seal is not None and row.position > self._seal.after:
            self._running = running(self._running, written, row.hash)
            self._events, self._last = self._events + 1, row

    def finish(self, before: float = float("inf")) -> Iterator[Break]:
        """Compare all marks that lie before a position; of each seal only the first that differs is told."""
        while self._seal is not None and (mark := self._seal.marks[self._mark]).position < before:
            if not self._told and (mark.events, mark.digest) != (self._events, self._running.hex()):
                self._told = True
                yield self._differs(self._seal)
            self._mark += 1
            if self._mark == len(self._seal.marks):
                self._begin()

    def _differs(self, seal: Seal) -> Break:
        mark = seal.marks[self._mark]
        after, counted = seal.marks[self._mark - 1][:2] if self._mark else (seal.after, 0)
        more = self._events - mark.events
        what = "an event was changed or replaced" if not more else f"{abs(more)} too {'many' if more > 0 else 'few'}"
        # A mark of one event names it; it may be gone.
        there = mark.events == counted + 1 and self._last is not None and self._last.position == mark.position
        return Break(
            f"these are not the events that seal {seal.number} covers: {what}",
            mark.position,
            after,
            self._last.stream if there else None,
            self._last.version if there else None,
            seal.number,
        )
