"""Ids derived from content, which make importing a file again harmless.

The id of a row is the UUID version 5 of its content and of how often that content came before in the file. So a
repeated import adds nothing, a longer file adds what is new, and rows that are equal stay different events. Neither
the file's name, nor the mapping, nor a line's number enters it.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from hashlib import sha1
from typing import Any
from uuid import UUID

import orjson

__all__ = ["NAMESPACE", "DerivedIds", "canonical"]

NAMESPACE = UUID("8a0e6f0c-3d1b-5c58-9f0e-5d7c1f2b7a64")


def canonical(columns: Mapping[str, Any]) -> bytes:
    """Return compact JSON with sorted keys, of columns that hold what can be stored."""
    try:
        return orjson.dumps(columns, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(columns, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class DerivedIds:
    """Hands out the ids of one file's rows, in order: ``uuid5(NAMESPACE, "<canonical JSON>\\n<times before>")``.

    Memory: 8 bytes for each different row. Contents are told apart by 64 bits of their hash; should two ever share
    them, the later counts as a repetition of the earlier, and still gets an id of its own, the same at every import.
    """

    def __init__(self) -> None:
        self._seen: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))
        self._repeated: dict[int, int] = {}

    def next(self, columns: Mapping[str, Any]) -> UUID:
        """Return the id of the file's next row."""
        content = sha1(NAMESPACE.bytes + canonical(columns), usedforsecurity=False)
        before = self._times_before(int.from_bytes(content.digest()[:8]))
        content.update(b"\n%d" % before)
        return UUID(bytes=content.digest()[:16], version=5)

    def _times_before(self, content: int) -> int:
        # Sorted arrays in 4,096 slots: a tenth of the memory of a set, and no rehashing.
        slot = self._seen[content >> 52]
        place = bisect_left(slot, content)
        if place == len(slot) or slot[place] != content:
            slot.insert(place, content)
            return 0
        self._repeated[content] = self._repeated.get(content, 0) + 1
        return self._repeated[content]
