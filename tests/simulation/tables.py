"""What the database holds, in memory: the rows that the functions of `ledger`, `parking` and `operating` work on.

Each function runs at one instant, alone. What stands for the locks of Postgres: partitions that an open transaction has
settled are in `locked`; who needs one of them raises `Locked` and is run again once it is free, and who skips locked
rows skips these. `contended` locks more of them, by chance, as another statement that runs just then might.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from eventstore.errors import SubscriptionNotFound
from tests.simulation.log import Log

__all__ = ["Checkpoint", "Key", "Locked", "NodeRow", "ParkedRow", "SubscriptionRow", "Tables", "rows"]

Key = tuple[int, int]
"""Subscription id and partition."""

BUCKETS = 1024


class Locked(Exception):
    """Another transaction holds the partition; try again when it has ended."""


class Row(tuple[Any, ...]):
    """A row as asyncpg returns it: by place and by name."""

    __slots__ = ()
    places: ClassVar[dict[str, int]] = {}

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.places[key] if type(key) is str else key)

    def keys(self) -> Iterable[str]:
        return self.places.keys()


def rows(*names: str) -> type[Row]:
    """Make the type of rows that have these columns."""
    return type("Row", (Row,), {"__slots__": (), "places": {name: n for n, name in enumerate(names)}})


@dataclass(slots=True)
class SubscriptionRow:
    id: int
    name: str
    selector: str
    after: str
    options: str
    pool_size: int
    start_position: int
    created_at: int
    state: str = "active"
    resize_to: int | None = None
    floors: list[int] | None = None


@dataclass(slots=True)
class Checkpoint:
    position: int
    epoch: int = 0
    owner: UUID | None = None
    halted: str | None = None
    parked_revision: int = 0


@dataclass(slots=True)
class NodeRow:
    name: str
    started_at: int
    lease_until: int


@dataclass(slots=True)
class ParkedRow:
    bucket: int
    key: str
    state: str
    blocking: bool
    replay: bool
    attempts: int
    error: str | None
    message: str | None
    traceback: str | None
    first_failed_at: int
    last_failed_at: int


@dataclass
class Tables:
    """The tables.

    Attributes:
        clock: the database's time in microseconds since the year 2000.
        handled: which node handles which subscription; true: as a fallback.
        changed: called after each change that nodes should look at.
        contended: tells whether somebody else has a partition locked just now.
        asking: the time by the clock of the node that called; what no function may go by.
    """

    log: Log
    clock: Callable[[], int]
    subscriptions: dict[int, SubscriptionRow] = field(default_factory=dict)
    checkpoints: dict[Key, Checkpoint] = field(default_factory=dict)
    nodes: dict[UUID, NodeRow] = field(default_factory=dict)
    handled: dict[tuple[int, UUID], bool] = field(default_factory=dict)
    parked: dict[tuple[int, int], ParkedRow] = field(default_factory=dict)
    generation: int = 0
    last_id: int = 0
    locked: set[Key] = field(default_factory=set)
    changed: Callable[[], None] = lambda: None
    contended: Callable[[Key], bool] = lambda _: False
    asking: int = 0

    def changed_v1(self) -> None:
        self.generation += 1
        self.changed()

    def find_subscription_v1(self, name: str) -> SubscriptionRow:
        for one in self.subscriptions.values():
            if one.name == name:
                return one
        raise SubscriptionNotFound(name)

    def lock_subscription_v1(self, name: str) -> SubscriptionRow:
        found = self.find_subscription_v1(name)
        if any(key[0] == found.id for key in self.locked):
            raise Locked
        return found

    def partitions(self, subscription: int) -> list[tuple[int, Checkpoint]]:
        """All partitions of a subscription by number, also those that a smaller pool has no use for."""
        found = [(key[1], one) for key, one in self.checkpoints.items() if key[0] == subscription]
        return sorted(found, key=lambda each: each[0])

    def free_to_lock(self, key: Key) -> bool:
        """Whether ``for update skip locked`` gets the row."""
        return key not in self.locked and not self.contended(key)

    def owned_by(self, node: UUID) -> list[tuple[Key, Checkpoint]]:
        found = [(key, one) for key, one in self.checkpoints.items() if one.owner == node]
        return sorted(found, key=lambda each: each[0])
