"""What a subscription is, what a handler is told about a delivery, and how a start is written down."""

from __future__ import annotations

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
    "Claimed",
    "Failed",
    "Lag",
    "Node",
    "Owned",
    "Parked",
    "ParkedKey",
    "Partition",
    "PartitionLag",
    "Renewal",
    "Replayable",
    "Rewound",
    "Subscription",
    "check_pool_size",
    "check_subscription",
    "check_subscription_name",
    "decode_after",
    "encode_after",
    "key_of",
]

After = int | Literal["current"] | datetime
"""Where to begin: after a position (0: the beginning), after what there is now, or after a time."""

MAX_POOL_SIZE = 1024
MAX_NAME_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as stored.

    Attributes:
        checkpoint: position up to which it is settled.
        owner: name of the node that runs it, None if nobody does.
        lease_until: when that node's lease ends unless renewed.
        state: ``running``, ``idle`` (nobody owns it) or ``halted``.
        halted: why it stopped until it is resumed: ``error`` (its type), ``message``, ``traceback``, ``at``; and if it
            is for an event, its ``position``, ``id``, ``type`` and ``stream``.
    """

    number: int
    checkpoint: int
    epoch: int
    owner: str | None
    lease_until: datetime | None
    state: str
    halted: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as stored.

    Attributes:
        key: hash of selector and name.
        after: as declared; `start_position` is what it resolved to when it was created.
        state: ``active`` or ``paused``.
        resize_to: the number of partitions it gets as soon as nobody runs one; None: no resize is pending.
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
    resize_to: int | None = None


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
    """A partition this node owns: under this epoch, until it is lost.

    Attributes:
        floors: events of bucket *b* at or below ``floors[b]`` are settled already, as after a resize; None: no such.
        parked: there are parked events to know of before the first delivery; see `Ledger.load_parked`.
        parked_revision: raised whenever an operator replays or discards parked events of the partition.
    """

    subscription_id: int
    name: str
    partition: int
    checkpoint: int
    epoch: int
    pool_size: int
    selector: Selector
    last_position: int
    owner: UUID
    options: dict[str, Any] = field(default_factory=dict)
    floors: tuple[int, ...] | None = None
    parked: bool = False
    parked_revision: int = 0

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


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a node got.

    Attributes:
        missing: how many partitions of its fair share were free and locked by others: ask again soon.
    """

    claims: list[Claim]
    missing: int


@dataclass(frozen=True, slots=True)
class Owned:
    """A partition that a node owns.

    Attributes:
        release: why to give it back as soon as possible: ``paused``, ``resizing``, ``not_handled`` or ``share`` (more
            than this node's fair share); None: keep it.
    """

    subscription_id: int
    partition: int
    epoch: int
    release: str | None
    parked_revision: int

    @property
    def key(self) -> tuple[int, int]:
        """Subscription id and partition number, as `Claim.key`."""
        return self.subscription_id, self.partition


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a node learns when it renews its lease.

    Attributes:
        renewed: False: it ran out, and everything it held is lost.
        generation: another one than last time: look at what is owned, and claim.
        next_expiry: seconds until the first lease of another node runs out; not above 0: has already; None: no other.
    """

    renewed: bool
    generation: int
    next_expiry: float | None


@dataclass(frozen=True, slots=True)
class Failed:
    """An event that an emitter sets aside, as `Ledger.settle_one` is told.

    Attributes:
        key: see `key_of`.
        state: ``parked`` or ``skipped``.
        blocking: later events of the key queue behind it.
        replay: it is to be delivered again.
        attempts: deliveries that failed now; 0: none, it queues behind an earlier event of its key.
    """

    position: int
    bucket: int
    key: str
    state: Literal["parked", "skipped"] = "parked"
    blocking: bool = True
    replay: bool = False
    attempts: int = 0
    error: str | None = None
    message: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A parked event, or the first of a closed key, that an emitter begins with."""

    key: str
    blocking: bool
    replay: bool
    position: int


@dataclass(frozen=True, slots=True)
class Replayable:
    """A parked event to deliver again.

    Attributes:
        event: None: scavenging emptied it, there is nothing to deliver.
    """

    position: int
    key: str
    attempts: int
    blocking: bool
    event: Event | None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a subscription set aside.

    Attributes:
        key: what keeps order with it: its stream, or its own id if it has none.
        state: ``parked``, ``skipped`` or ``discarded``.
        blocking: later events of its key queue behind it.
        replay: it is about to be delivered again.
        attempts: deliveries that failed; 0: none yet, it queues behind an earlier event of its key.
        error: type of the last exception.
        data: None, as *metadata*, where scavenging emptied the event.
    """

    position: int
    partition: int
    key: str
    state: str
    blocking: bool
    replay: bool
    attempts: int
    error: str | None
    message: str | None
    traceback: str | None
    first_failed_at: datetime
    last_failed_at: datetime
    id: UUID
    type: str
    stream: str | None
    version: int | None
    data: Any
    metadata: dict[str, Any] | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far one partition is behind; the fields are those of `Lag`."""

    number: int
    checkpoint: int
    behind: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a subscription is behind.

    Attributes:
        head: position up to which there is anything to read.
        behind: how many positions lie between the checkpoint of its last partition and *head*, matching or not.
        seconds: age of the first event after that checkpoint, matching or not; 0 if there is none.
    """

    name: str
    head: int
    behind: int
    seconds: float
    partitions: list[PartitionLag]


@dataclass(frozen=True, slots=True)
class Rewound:
    """What a rewind did.

    Attributes:
        after: events after this position are delivered again.
        partitions: how many stood beyond it.
        parked: how many parked events beyond it were forgotten.
    """

    after: int
    partitions: int
    parked: int


def key_of(event: Event) -> str:
    """Return what keeps order with the event: its stream, or itself if it has none."""
    return f"e:{event.id}" if event.stream is None else f"s:{event.stream}"


def check_subscription_name(name: str) -> None:
    """Refuse a name that cannot be stored (`ConfigurationError`)."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ConfigurationError(f"a subscription's name has 1 to {MAX_NAME_LENGTH} characters, not {name!r}")
    try:
        check_text(name, "subscription name")
    except InvalidEvent as error:
        raise ConfigurationError(str(error)) from None


def check_pool_size(pool_size: int) -> None:
    """Refuse a number of partitions that no subscription can have (`ConfigurationError`)."""
    if type(pool_size) is not int or not 1 <= pool_size <= MAX_POOL_SIZE:
        raise ConfigurationError(f"pool_size must be between 1 and {MAX_POOL_SIZE}, not {pool_size!r}")


def check_subscription(name: str, after: After, pool_size: int) -> None:
    """Refuse a definition that cannot be stored (`ConfigurationError`)."""
    check_subscription_name(name)
    check_pool_size(pool_size)
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
