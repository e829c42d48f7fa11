"""What every process of a hunt did and saw, one JSON object a line; the checker reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Entry", "Journal", "entries"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing done or seen.

    Attributes:
        kind: ``append`` by a writer, ``read`` by a reader, ``end`` when a process has nothing left to do. Of those who
            deliver: ``claimed``, ``released`` and ``lost`` of a partition, ``begin`` when a handler is called,
            ``handled`` when it is through, ``parked`` when the event was set aside. Of those who watch them: ``stop``
            when a process was halted by a signal, ``moved`` for each state of a stored checkpoint.
        process: who.
        outcome: ``ok`` (acknowledged), ``fail`` (rolled back or refused), ``unknown`` (the reply was lost).
        id: the event's.
        position: the event's, or the checkpoint.
        bucket: the event's.
        pool_size: with ``moved``: how many partitions there were.
        at: seconds by the clock that all processes of a machine share.
    """

    kind: Literal["append", "read", "end", "claimed", "released", "lost", "begin", "handled", "parked", "stop", "moved"]
    process: str
    outcome: Literal["ok", "fail", "unknown"] = "ok"
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


class Journal:
    """Entries in the order they were noted; written through to a file at once, so that a crash keeps them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self.path = path

    def note(self, entry: Entry) -> None:
        """Add an entry."""
        self._file.write(json.dumps(asdict(entry)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal."""
    with path.open() as lines:
        for line in lines:
            yield Entry(**json.loads(line))
