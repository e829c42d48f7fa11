"""How far one partition has come: what its handler has in hand, what is settled, what is stored.

Three marks, each at or before the next:

- the *checkpoint* is stored in the database;
- *settled* is how far it may be moved: every event taken at or below it is acknowledged, and everything else there
  was looked at and does not match;
- *read* is how far the reader has looked, all it found on the way being taken.

What a crash costs: the next owner begins at the stored checkpoint, so every event taken after it is delivered again,
also those acknowledged since, and nothing else is. `Progress.unstored` counts them.

Nothing here waits, writes or knows what time it is; times are handed in, in seconds of any clock that only goes
forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Final

__all__ = ["NotInFlight", "NotSettled", "OutOfOrder", "Progress"]


class OutOfOrder(ValueError):
    """An event was taken at or before a position that was read already: it may lie below the checkpoint."""

    def __init__(self, position: int, read: int) -> None:
        self.position, self.read = position, read
        super().__init__(
            f"the event at position {position} comes after {read} was read; take events in increasing order, "
            "call scanned() only once they are taken, and reread() when a connection was lost"
        )


class NotInFlight(ValueError):
    """An acknowledgement of what was not taken, as by a handler from before a rewind."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(f"position {position} is not in flight; end the handlers before rewound()")


class NotSettled(ValueError):
    """A checkpoint beyond what is settled: a crash would lose the events between."""

    def __init__(self, position: int, settled: int) -> None:
        self.position, self.settled = position, settled
        super().__init__(f"position {position} is stored, but only {settled} is settled; store settled")


_NONE: Final[set[int]] = set()
"""What every partition has acknowledged out of order at first; never added to."""


class Progress:
    """What one partition has in flight, and how far it is settled.

    Every call costs what it changes, not what is in flight.

    Attributes:
        checkpoint: the position stored last; only `rewound` moves it back.
    """

    __slots__ = (
        "_acked",
        "_flying",
        "_last",
        "_once",
        "_read",
        "_stored_at",
        "_unstored",
        "_waiting",
        "checkpoint",
    )

    def __init__(self, checkpoint: int, now: float = -inf) -> None:
        """Begin after *checkpoint*, stored at *now*; by default so long ago that the next one is due at once."""
        self.rewound(checkpoint, now)

    def rewound(self, checkpoint: int, now: float = -inf) -> None:
        """Forget everything and begin after *checkpoint*: an operator's rewind, or a new epoch.

        The handlers of what was in flight must have ended: a late acknowledgement is refused (`NotInFlight`) until
        the same event is taken again, and would then pass for that of the new delivery.
        """
        self.checkpoint = self._read = self._last = self._once = checkpoint
        self._stored_at = now
        self._flying: set[int] = set()
        # Taken and beyond settled, in order: its head is the lowest in flight, behind it some are acknowledged.
        self._waiting: deque[int] = deque()
        self._acked: set[int] = _NONE
        # Settled events that are not stored, in order.
        self._unstored: deque[int] = deque()

    # -- asking

    @property
    def settled(self) -> int:
        """The highest position at or below which every event taken is acknowledged; what may be stored.

        Moves back by `rewound`, and by `reread` over positions that were only looked at; never below `checkpoint`
        or an event that is settled.
        """
        return self._waiting[0] - 1 if self._waiting else self._read

    @property
    def in_flight(self) -> int:
        """How many events are taken and not acknowledged."""
        return len(self._flying)

    @property
    def held(self) -> int:
        """How many events are taken and cannot be settled: the lowest in flight, and all behind it."""
        return len(self._waiting)

    @property
    def unstored(self) -> int:
        """How many events a crash would have delivered again: those taken after the stored checkpoint."""
        return len(self._waiting) + len(self._unstored)

    @property
    def stored_at(self) -> float:
        """When the checkpoint was stored last."""
        return self._stored_at

    # -- what the reader and the handler did

    def take(self, position: int) -> None:
        """Hand one event to the handler (`OutOfOrder`)."""
        if position <= self._read:
            raise OutOfOrder(position, self._read)
        self._flying.add(position)
        self._waiting.append(position)
        self._read = self._last = position

    def took(self, positions: Sequence[int]) -> None:
        """Hand a batch to the handler: each event is in flight until it is acknowledged.

        Raises:
            OutOfOrder: a position is not above all that were taken or scanned; none of them is taken.
        """
        for before, position in pairwise((self._read, *positions)):
            if position <= before:
                raise OutOfOrder(position, before)
        if not positions:
            return
        self._flying.update(positions)
        self._waiting.extend(positions)
        self._read = self._last = positions[-1]

    def ack(self, position: int) -> bool:
        """Settle an event: handled, skipped or parked, and if parked then stored as such. In any order.

        Returns:
            False if it was settled before: acknowledging twice, or what a checkpoint has passed, changes nothing.

        Raises:
            NotInFlight: it is beyond `settled`, and was not taken.
        """
        if position not in self._flying:
            if position > self.settled and position not in self._acked:
                raise NotInFlight(position)
            return False
        self._flying.remove(position)
        if self._waiting[0] == position:
            self._unstored.append(self._waiting.popleft())
        else:
            if self._acked is _NONE:
                self._acked = set()
            self._acked.add(position)
        # Only the events that follow each other without one missing: the low-water mark, not the highest.
        while self._acked and self._waiting[0] in self._acked:
            self._acked.remove(self._waiting[0])
            self._unstored.append(self._waiting.popleft())
        return True

    def scanned(self, position: int) -> None:
        """Take note that everything up to *position* was read and all that matches was taken.

        Moves `settled` over events that do not match, up to just before the lowest in flight; the rest of the way
        counts once that is acknowledged. Lower than before changes nothing. The caller answers for it that no
        matching event at or below *position* still waits to be taken; `OutOfOrder` tells when one does.
        """
        self._read = max(self._read, position)

    def reread(self) -> int:
        """Go back to what is safe after a lost connection, and return the position to read on from.

        A server that crashed hands out again the positions whose transactions it lost, so what was only looked at
        may be filled differently now. An event that was read was committed, and so is everything drawn before it;
        the same holds for a stored checkpoint.
        """
        self._once = max(self._once, self.settled)
        self._read = max(self._last, self.checkpoint)
        return self._read

    def stored(self, position: int, now: float) -> None:
        """Take note that the checkpoint is stored at *position*; a lower one than before changes nothing.

        Raises:
            NotSettled: it is beyond what is, or before a `reread` was, settled.
        """
        settled = self.settled if self._waiting else max(self._read, self._once)
        if position > settled:
            raise NotSettled(position, settled)
        if position < self.checkpoint:
            return
        # Stored means committed, which also makes safe what a reread took back meanwhile.
        self._read = max(self._read, position)
        self.checkpoint, self._stored_at = position, now
        while self._unstored and self._unstored[0] <= position:
            self._unstored.popleft()
