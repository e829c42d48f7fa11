"""The log in memory: appends that are under way, the horizon, and a server that crashes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5
from itertools import count
from typing import Any
from uuid import UUID

from eventstore.events import Event
from eventstore.log.read import to_events
from eventstore.selectors import load

__all__ = ["Append", "Log", "bucket_v1"]

load_selector = lru_cache(load)


@lru_cache
def bucket_v1(name: str) -> int:
    return int(md5(name.encode()).hexdigest()[:4], 16) % 1024


@dataclass(slots=True, eq=False)
class Append:
    """Positions that are drawn and not committed."""

    stream: str
    first: int
    count: int
    before: int


class Log:
    """Events by position.

    Attributes:
        last_value: last position drawn.
        flushed: the least that the sequence is set to after a crash.
    """

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.rows: list[tuple[Any, ...]] = []
        self.events: dict[int, Event] = {}
        self.versions: dict[str, int] = {}
        self.under_way: list[Append] = []
        self.last_value = self.flushed = 0
        self._ids = count(1)

    @property
    def horizon(self) -> int:
        return min((one.before for one in self.under_way), default=self.last_value)

    def begin(self, stream: str, many: int) -> Append | None:
        """Draw positions; None while another append to the stream is under way."""
        if any(one.stream == stream for one in self.under_way):
            return None
        append = Append(stream, self.last_value + 1, many, self.last_value)
        self.last_value += many
        self.under_way.append(append)
        return append

    def roll_back(self, append: Append) -> None:
        if append in self.under_way:
            self.under_way.remove(append)

    def commit(self, append: Append, recorded_at: int = 0) -> list[Event]:
        """Store the events; nothing if the server crashed in between."""
        if append not in self.under_way:
            return []
        self.under_way.remove(append)
        made = []
        for position in range(append.first, append.first + append.count):
            version = self.versions[append.stream] = self.versions.get(append.stream, 0) + 1
            row = (
                UUID(int=next(self._ids)), "Happened", "null", "{}", (), append.stream, version, position,
                bucket_v1(append.stream), recorded_at, recorded_at,
            )  # fmt: skip
            at = bisect_right(self.positions, position)
            self.positions.insert(at, position)
            self.rows.insert(at, row)
            made += to_events([row])  # type: ignore[list-item]
            self.events[position] = made[-1]
        self.flushed = max(self.flushed, append.first + append.count - 1)
        return made

    def crash(self) -> None:
        """Lose what is not committed; the positions it had are drawn again, unless something later was flushed."""
        self.under_way.clear()
        self.last_value = self.flushed

    def read(
        self, selector: str | None, low: int, high: int, backwards: bool, limit: int, modulus: int | None,
        remainder: int | None,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """Rows of events after *low*, up to *high*."""
        wanted = load_selector(selector) if selector is not None else None
        found = []
        between = self.rows[bisect_right(self.positions, low) : bisect_right(self.positions, high)]
        for row in reversed(between) if backwards else between:
            if modulus is not None and row[8] % modulus != remainder:
                continue
            if wanted is None or wanted.matches(self.events[row[7]]):
                found.append(row)
                if len(found) == limit:
                    break
        return found
