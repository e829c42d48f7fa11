"""A delivery as its handler sees it, the shapes of handlers, and what appends know of the event being handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

from eventstore.errors import ConfigurationError
from eventstore.events import Event, NewEvent

if TYPE_CHECKING:
    from eventstore.database import Connection

__all__ = [
    "BatchHandler",
    "Call",
    "Delivery",
    "Handler",
    "Middleware",
    "Nacked",
    "Outcome",
    "Projection",
    "Registration",
    "caused",
    "handling",
]


class Nacked(Exception):
    """A handler refused an event by `Delivery.nack` or `Delivery.park`; the reason is the message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery.

    Attributes:
        error: why it failed; None: it is settled.
        park: set it aside now, whatever attempts are left.
        delay: seconds until the next attempt; None: as the failure policy says.
    """

    error: BaseException | None = None
    park: bool = False
    delay: float | None = None

    def pause(self, otherwise: float) -> float:
        """Return the seconds until the next attempt; an error can ask for them by an attribute ``retry_after``."""
        asked = self.delay if self.delay is not None else getattr(self.error, "retry_after", None)
        return float(asked) if _is_pause(asked) else otherwise


LONGEST_PAUSE = 1e6
"""Seconds; what asks for more gets what the failure policy says."""


def _is_pause(value: object) -> TypeGuard[float]:
    # Compared and not converted: an integer may be too large for a float. NaN is no pause either.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST_PAUSE


DONE = Outcome()


class Decider(Protocol):
    """Whoever made a delivery, and is told of its outcome."""

    def decided(self, delivery: Delivery) -> None:
        """Take note that ``delivery.outcome`` is known; raises `LeaseLost` where that comes too late."""


class Delivery:
    """What a handler is told beside the event, and how it can settle it by hand.

    A handler that returns has settled the event, one that raises has not. By hand it can do so earlier; with
    ``ack="manual"`` it has to, and may do so long after it returned. The first word counts.

    Attributes:
        subscription: its name.
        partition: number of the partition, from 0.
        epoch: raised by every new owner of the partition; what is written elsewhere can be fenced by it. It says
            nothing about other partitions.
        attempt: 1 for the first delivery by this owner; more after the handler failed.
    """

    __slots__ = ("_decider", "attempt", "epoch", "outcome", "partition", "position", "subscription")

    def __init__(
        self,
        subscription: str,
        partition: int,
        epoch: int,
        attempt: int,
        position: int = 0,
        decider: Decider | None = None,
    ) -> None:
        self.subscription, self.partition, self.epoch, self.attempt = subscription, partition, epoch, attempt
        self.position, self._decider = position, decider
        self.outcome: Outcome | None = None

    def ack(self) -> None:
        """Settle the event: it is not delivered again, whatever the handler does from here on.

        Raises:
            LeaseLost: too late, the partition has another owner or was rewound; the event is delivered again.
        """
        self._decide(DONE)

    def nack(self, reason: str = "refused by the handler", *, delay: float | None = None) -> None:
        """Count the delivery as failed; the failure policy says what follows.

        Args:
            delay: seconds until the next attempt, if there is one, instead of what the policy says.

        Raises:
            ConfigurationError: *delay* is no number of seconds from 0 to a million.
            LeaseLost: as `ack`.
        """
        if delay is not None and not _is_pause(delay):
            raise ConfigurationError(f"delay is a number of seconds from 0 to {LONGEST_PAUSE:.0f}, not {delay!r}")
        self._decide(Outcome(Nacked(reason), delay=delay))

    def park(self, reason: str = "parked by the handler") -> None:
        """Set the event aside now, without further attempts; with a policy of ``park_key`` its key follows.

        Raises:
            LeaseLost: as `ack`.
        """
        self._decide(Outcome(Nacked(reason), park=True))

    def _decide(self, outcome: Outcome) -> None:
        if self.position < 0:
            raise ConfigurationError("a batch is settled by returning; one event of it cannot be settled by hand")
        if self.outcome is None:
            self.outcome = outcome
            if self._decider is not None:
                self._decider.decided(self)

    def __repr__(self) -> str:
        return (
            f"Delivery(subscription={self.subscription!r}, partition={self.partition}, epoch={self.epoch}, "
            f"attempt={self.attempt})"
        )


Handler: TypeAlias = Callable[[Event, Delivery], Awaitable[object]]
"""Returns: the event is settled. Raises: it is delivered again, as the failure policy says."""

BatchHandler: TypeAlias = Callable[[list[Event], Delivery], Awaitable[object]]
"""As `Handler`, for several events of one partition, in their order."""

Projection: TypeAlias = "Callable[[list[Event], Connection], Awaitable[object]]"
"""Runs inside the transaction that ends with the checkpoint; may take the `Delivery` as a third argument."""

Call: TypeAlias = Callable[[list[Event], Delivery, Any], Awaitable[object]]
"""What every kind of handler becomes: events, delivery, and the connection of a projection (else None)."""

Middleware: TypeAlias = Callable[[Call], Call]
"""Takes what delivers, and returns what is called in its place."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler as it is run.

    Attributes:
        batch_size: most events of one call; 1 for a plain handler.
        manual: returning does not settle.
        transactional: called inside the transaction of its checkpoint.
        fallback: runs only where no node has another handler for the subscription.
    """

    name: str
    call: Call
    batch_size: int = 1
    manual: bool = False
    transactional: bool = False
    fallback: bool = False


handling: ContextVar[Event | None] = ContextVar("handling", default=None)
"""The event that the handler which runs here was given; None outside of handlers, and in batches of several."""


@contextmanager
def caused_by(event: Event | None) -> Iterator[None]:
    """Let what is appended inside carry where it comes from."""
    token = handling.set(event)
    try:
        yield
    finally:
        handling.reset(token)


def caused(events: Sequence[NewEvent]) -> Sequence[NewEvent]:
    """Return *events* with ``correlation_id`` and ``causation_id`` of the event being handled, unless they are set.

    The correlation is that of the handled event, or its id where it has none; the causation is its id.
    """
    cause = handling.get()
    if cause is None:
        return events
    origin = {"correlation_id": cause.metadata.get("correlation_id", str(cause.id)), "causation_id": str(cause.id)}
    return [
        event if origin.keys() <= event.metadata.keys() else event.with_metadata({**origin, **event.metadata})
        for event in events
    ]
