"""What a subscription is, what a handler is told about a delivery, and how a start is written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from eventstore.codec import check_text
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, InvalidEvent
from eventstore.events import Event
from eventstore.log.read import Share, check_time
from eventstore.selectors import Selector

__all__ = [
    "After",
    "Claim",
    "Delivery",
    "Handler",
    "Partition",
    "Subscription",
    "check_subscription",
    "check_subscription_name",
    "encode_after",
]

After = int | Literal["current"] | datetime
"""Where to begin: after a position (0: the beginning), after what there is now, or after a time."""

MAX_POOL_SIZE = 1024
MAX_NAME_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a handler is told beside the event.

    Attributes:
        attempt: 1 for the first delivery by this node; more after the handler raised.
        epoch: raised by every new owner of the partition.
    """

    subscription: str
    partition: int
    epoch: int
    attempt: int


Handler = Callable[[Event, Delivery], Awaitable[None]]
"""Returns: the event is settled. Raises: it is delivered again."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as stored.

    Attributes:
        checkpoint: position up to which it is settled.
        owner: name of the node that runs it, None if nobody does.
        lease_until: when that node's lease ends unless renewed.
        state: ``running`` or ``idle`` (nobody owns it).
    """

    number: int
    checkpoint: int
    epoch: int
    owner: str | None
    lease_until: datetime | None
    state: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as stored.

    Attributes:
        key: hash of selector and name.
        after: as declared; `start_position` is what it resolved to when it was created.
        state: ``active`` or ``paused``.
    """

    id: int
    key: str
    name: str
    selector: Selector
    pool_size: int
    after: After
    state: str
    options: dict[str, Any]
    created_at: datetime
    start_position: int
    partitions: list[Partition] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs handlers, as stored.

    Attributes:
        incarnation: new at every start.
        alive: its lease runs; what it owned is free for others if not.
        partitions: name of the subscription and number, of each it owns.
    """

    incarnation: UUID
    name: str
    started_at: datetime
    lease_until: datetime
    alive: bool
    partitions: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition this node owns: under this epoch, until it is lost."""

    subscription_id: int
    name: str
    partition: int
    checkpoint: int
    epoch: int
    pool_size: int
    selector: Selector
    last_position: int
    owner: UUID

    @property
    def key(self) -> tuple[int, int]:
        """Subscription id and partition number."""
        return self.subscription_id, self.partition

    @property
    def share(self) -> Share | None:
        """Which events are this partition's; None: all."""
        return Share(self.pool_size, self.partition) if self.pool_size > 1 else None

    def check_log(self) -> None:
        """Raise `CheckpointAheadOfLog` if the checkpoint lies beyond the last position drawn."""
        if self.checkpoint > self.last_position:
            raise CheckpointAheadOfLog(self.name, self.checkpoint, self.last_position)


def check_subscription_name(name: str) -> None:
    """Refuse a name that cannot be stored (`ConfigurationError`)."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ConfigurationError(f"a subscription's name has 1 to {MAX_NAME_LENGTH} characters, not {name!r}")
    try:
        check_text(name, "subscription name")
    except InvalidEvent as error:
        raise ConfigurationError(str(error)) from None


def check_subscription(name: str, after: After, pool_size: int) -> None:
    """Refuse a definition that cannot be stored (`ConfigurationError`)."""
    check_subscription_name(name)
    if type(pool_size) is not int or not 1 <= pool_size <= MAX_POOL_SIZE:
        raise ConfigurationError(f"pool_size must be between 1 and {MAX_POOL_SIZE}, not {pool_size!r}")
    if isinstance(after, datetime):
        check_time("after", after)
    elif after != "current" and (type(after) is not int or not 0 <= after < 1 << 63):
        raise ConfigurationError(f"after must be a position, 'current' or a datetime, not {after!r}")


def encode_after(after: After) -> int | str:
    """Return *after* as the JSON value that is stored: times as UTC text."""
    return after.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(after, datetime) else after


def decode_after(value: int | str) -> After:
    """Return what `encode_after` made *value* of."""
    if isinstance(value, int):
        return value
    return "current" if value == "current" else datetime.fromisoformat(value)
