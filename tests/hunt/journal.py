"""What every process of a hunt did and saw, one JSON object a line; the checker reads nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from time import time as now
from typing import Literal

__all__ = ["Entry", "Journal", "entries", "now"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing done or seen.

    Attributes:
        kind: ``append`` by a writer, ``read`` by a reader, ``end`` when a process has nothing left to do. Of a reader
            that does not read everything: ``follow`` when it begins, with the position it begins after and the stream's
            beginning that it looks for; what it is to have seen then ends at the position of its ``end``. Of those who
            deliver: ``claimed``, ``released`` and ``lost`` of a partition, ``begin`` when a handler is called,
            ``handled`` when it is through, ``failed`` when it raised or was cancelled, ``parked`` when the event was
            set aside. Of those who watch them: ``stop`` when a process was halted, by a signal or by a busy machine,
            ``moved`` for each state of a stored checkpoint. What is there in the end: ``stored`` for each event of the
            log, ``folded`` for each row of a projection.
        process: who.
        outcome: ``invoke`` (about to be sent), ``ok`` (acknowledged), ``fail`` (rolled back or refused), ``unknown``
            (the reply was lost). A writer that is killed leaves its last word at ``invoke``, which is unknown as well.
        id: the event's.
        position: the event's, or the checkpoint.
        bucket: the event's.
        pool_size: with ``moved``: how many partitions there were.
        at: seconds by the clock that all processes of a machine share.
        append: which append the event belongs to, where it has several.
        value: the event's data, a number; with ``folded`` their sum.
        count: with ``folded``: of how many events.
    """

    kind: Literal["append", "read", "follow", "end", "claimed", "released", "lost", "begin", "handled", "failed",
                  "parked", "stop", "moved", "stored", "folded"]  # fmt: skip
    process: str
    outcome: Literal["invoke", "ok", "fail", "unknown"] = "ok"
    id: str = ""
    position: int = 0
    stream: str = ""
    version: int = 0
    subscription: str = ""
    partition: int = 0
    epoch: int = 0
    attempt: int = 1
    bucket: int = 0
    pool_size: int = 0
    at: float = 0.0
    append: str = ""
    value: int = 0
    count: int = 0


DEFAULTS = {one.name: one.default for one in fields(Entry)}


class Journal:
    """Entries in the order they were noted; written through to a file at once, so that a crash keeps them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self.path = path

    def note(self, entry: Entry) -> None:
        """Add an entry."""
        told = {name: value for name in DEFAULTS if (value := getattr(entry, name)) != DEFAULTS[name]}
        self._file.write(json.dumps(told) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal."""
    with path.open() as lines:
        for line in lines:
            told = json.loads(line)
            # An id stands in a dozen entries, a name in thousands: half an hour of journals has to fit.
            yield Entry(**{name: sys.intern(one) if type(one) is str else one for name, one in told.items()})
