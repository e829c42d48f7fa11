"""What every process of a hunt did and saw, one JSON object a line; the checker reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Entry", "Journal"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing done or seen.

    Attributes:
        kind: ``append`` by a writer, ``read`` by a reader, ``end`` when a reader has nothing left to read.
        process: who.
        outcome: ``ok`` (acknowledged), ``fail`` (rolled back or refused), ``unknown`` (the reply was lost).
        id: the event's.
    """

    kind: Literal["append", "read", "end"]
    process: str
    outcome: Literal["ok", "fail", "unknown"] = "ok"
    id: str = ""
    position: int = 0
    stream: str = ""
    version: int = 0


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
