"""What happens to an event whose handler fails, and which keys wait because one of theirs did.

An event is tried a number of times, with growing pauses. After that its key is parked: the event and all later ones
of that key queue up, while every other key goes on. A replay hands the queue out in order; what comes meanwhile joins
its end, and once it is empty the key is open again. So no event of a key ever overtakes another.

Nothing here waits, stores anything or rolls dice: chance is handed in, and the queues are in the database.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from eventstore.errors import ConfigurationError

__all__ = [
    "FailurePolicy",
    "Halt",
    "KeyGate",
    "KeyState",
    "NotPending",
    "NotReplaying",
    "Park",
    "Retry",
    "Skip",
    "Step",
    "Then",
    "dump",
    "load",
]

Then: TypeAlias = Literal["park_key", "park_event", "skip", "halt"]
"""What follows the last attempt."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Deliver the event again after so many seconds; its key waits for it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Park:
    """Set the event aside; with *key*, the later events of its key too."""

    key: bool


@dataclass(frozen=True, slots=True)
class Skip:
    """Go on without the event, and record that."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop the partition, and report it."""


Step: TypeAlias = Retry | Park | Skip | Halt


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """How often a failing event is delivered, how long the pauses are, and what follows.

    Attributes:
        attempts: deliveries altogether, the first one counted; None: for ever.
        delay: seconds before the second delivery, at most.
        delay_max: the longest pause in seconds.
        factor: each pause is so many times the one before.
        timeout: seconds a delivery may take before it counts as failed; None: any time.
        then: what follows the last attempt. ``park_key`` sets the event aside and holds back the later events of its
            key, which is its stream; ``park_event`` lets them overtake it; ``skip`` records the event and goes on;
            ``halt`` stops the partition until it is resumed.

    Raises:
        ConfigurationError: a value is out of range; the message names the field.
    """

    attempts: int | None = 5
    delay: float = 0.1
    delay_max: float = 30.0
    factor: float = 4.0
    timeout: float | None = None
    then: Then = "park_key"

    def __post_init__(self) -> None:
        if self.attempts is not None and (type(self.attempts) is not int or self.attempts < 1):
            raise ConfigurationError(f"attempts must be a whole number of at least 1, or None, not {self.attempts!r}")
        if not _is_number(self.factor) or not 1 <= self.factor <= 1000:
            raise ConfigurationError(f"factor must be a number from 1 to 1000, not {self.factor!r}")
        for name in ("delay", "delay_max", "timeout"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < 1e6) and not (name == "timeout" and value is None):
                raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
        if self.delay_max < self.delay:
            raise ConfigurationError(f"delay_max must be at least delay ({self.delay}), not {self.delay_max!r}")
        if self.then not in get_args(Then):
            raise ConfigurationError(f"then must be one of {', '.join(get_args(Then))}, not {self.then!r}")

    def next_step(self, attempt: int, rng: Callable[[], float]) -> Step:
        """Return what follows when delivery number *attempt* (1 is the first) has failed.

        A pause is half fixed and half chance, so that keys which failed together do not all come back together, and
        none comes back at once. *rng* returns 0 to 1, and is asked only for a retry.
        """
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not {attempt}")
        if self.attempts is None or attempt < self.attempts:
            return Retry(self._pause(attempt) * (0.5 + rng() / 2))
        match self.then:
            case "skip":
                return Skip()
            case "halt":
                return Halt()
            case "park_key" | "park_event":
                return Park(key=self.then == "park_key")

    def _pause(self, attempt: int) -> float:
        try:
            return min(self.delay_max, self.delay * float(self.factor) ** (attempt - 1))
        except OverflowError:
            return self.delay_max


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_USUAL = FailurePolicy()


def dump(policy: FailurePolicy) -> dict[str, Any]:
    """Return *policy* as a JSON object of what differs from the defaults.

    The rest is left out because definitions are compared at every boot: a field that a later release adds must not
    make all stored subscriptions differ.
    """
    defaults = asdict(FailurePolicy())
    return {name: value for name, value in asdict(policy).items() if value != defaults[name]}


def load(source: object) -> FailurePolicy:
    """Return the policy that `dump` made *source* of.

    Raises:
        ConfigurationError: it is no object, or has an unknown or a bad field; the message names it.
    """
    if source == {}:
        return _USUAL
    if not isinstance(source, dict):
        raise ConfigurationError(f"a failure policy is an object, not {source!r}")
    known = [each.name for each in fields(FailurePolicy)]
    if unknown := sorted(map(str, source.keys() - set(known))):
        raise ConfigurationError(f"a failure policy has no field {unknown[0]!r}; there are {', '.join(known)}")
    return FailurePolicy(**source)


# -- which keys are closed

KeyState: TypeAlias = Literal["open", "parked", "replaying"]


class NotPending(ValueError):
    """More events of a key were reported as written to its queue than were sent there."""


class NotReplaying(ValueError):
    """The key is not being replayed."""


class KeyGate:
    """Which keys of one partition are closed: parked, or being replayed.

    A key is whatever keeps order: the stream, or the id of an event without one. The queues are in the database and
    an operator may empty them, so they are not counted here; what counts is what is on its way there. Ask `state`
    before each delivery: open, deliver it; else `park` it. The partition's writes must reach the queue in that order.

    An event that is set aside alone (``Park(key=False)``) closes nothing and is not told to the gate.
    """

    __slots__ = ("_keys", "_tick")

    def __init__(self, parked: Iterable[Hashable] = ()) -> None:
        """Begin with the keys whose queue, as stored, holds back later events."""
        self._tick = 0
        self._keys: dict[Hashable, _Closed] = {key: _Closed() for key in parked}

    def __len__(self) -> int:
        return len(self._keys)

    def state(self, key: Hashable) -> KeyState:
        """Tell whether an event of *key* may be delivered now: only if it is ``open``."""
        closed = self._keys.get(key)
        return "open" if closed is None else "replaying" if closed.replaying else "parked"

    def park(self, key: Hashable) -> None:
        """Send an event to the queue of its key: it failed, which closes the key, or the key is closed already."""
        closed = self._keys.setdefault(key, _Closed())
        closed.pending += 1
        self._touch(closed)

    def written(self, key: Hashable, count: int = 1) -> None:
        """Take note that *count* events sent to the queue are stored there (`NotPending`)."""
        closed = self._keys.get(key)
        if closed is None or closed.pending < count:
            raise NotPending(f"{count} events of {key!r} were written, but not so many sent; call park() first")
        closed.pending -= count
        self._touch(closed)

    def replaying(self) -> list[Any]:
        """Return the keys that are being replayed."""
        return [key for key, closed in self._keys.items() if closed.replaying]

    def replay(self, key: Hashable) -> bool:
        """Begin to hand out the queue of *key*; False if that is under way.

        An open key is closed for it, so that events set aside alone are not delivered beside new ones. Wait until
        none of the key is in flight.
        """
        closed = self._keys.setdefault(key, _Closed())
        if closed.replaying:
            return False
        closed.replaying = True
        self._touch(closed)
        return True

    def parked_again(self, key: Hashable) -> None:
        """End a replay whose event failed once more and keeps its place in the queue (`NotReplaying`)."""
        closed = self._keys.get(key)
        if closed is None or not closed.replaying:
            raise NotReplaying(f"{key!r} is not being replayed; call replay() first")
        closed.replaying = False

    def mark(self) -> int:
        """Return a mark to take before the database is asked what a queue still holds, and give to `drained`."""
        return self._tick

    def drained(self, key: Hashable, mark: int) -> bool:
        """Open *key* if its queue, found empty by a query sent after *mark*, is still empty; tell whether it is open.

        It may not be: an event that came since, or was on its way, is in the queue or will be. Ask again then.
        """
        closed = self._keys.get(key)
        if closed is None:
            return True
        if closed.pending or closed.touched > mark:
            return False
        del self._keys[key]
        return True

    def _touch(self, closed: _Closed) -> None:
        # One count for all keys: a key that was opened and closed again cannot pass for what it was.
        self._tick += 1
        closed.touched = self._tick


@dataclass(slots=True)
class _Closed:
    replaying: bool = False
    pending: int = 0
    touched: int = 0
