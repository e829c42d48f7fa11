"""What happened at a shop: orders, payments, shipments and warehouses, generated from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any
from uuid import UUID

from eventstore.events import NewEvent

__all__ = ["Fact", "generate"]

OPENING = datetime(2025, 1, 1, 8, tzinfo=UTC)
BETWEEN_ORDERS = 240.0
"""Seconds from one order to the next, on average; each takes days, so thousands of streams interleave."""

CUSTOMERS = 400
REGIONS = ("north", "south", "east", "west")
TIERS = ("standard", "standard", "standard", "plus", "VIP")
CHANNELS = ("web", "app", "phone")


@dataclass(frozen=True, slots=True)
class Fact:
    """An event and the stream it belongs to."""

    stream: str
    event: NewEvent


def generate(count: int, seed: int = 1) -> list[Fact]:
    """Return the first *count* facts of the history that *seed* begins, in the order they happened."""
    rng = Random(seed)
    # Orders overlap. Each has at least four facts, so this many are enough; what happens after the last is cut off.
    played = [fact for number in range(1, count // 4 + 2) for fact in _order(number, rng)]
    played.sort(key=lambda fact: fact.event.created_at)
    return list(islice(played, count))


def _order(number: int, rng: Random) -> Iterator[Fact]:
    """Play one order from its placing to its end."""
    order = _Order(number, rng)
    yield order.happens("order", "OrderPlaced", {"items": rng.randint(1, 6), **order.worth}, minutes=0)
    yield order.happens(order.warehouse, "StockReserved", {"order": order.name})
    yield from _paid(order, rng)
    if order.failed:
        yield order.happens(order.warehouse, "StockReleased", {"order": order.name})
        yield order.happens("order", "OrderCancelled", {"reason": "payment failed"})
        return
    yield order.happens("order", "OrderConfirmed", order.worth)
    yield from _shipped(order, rng)
    yield order.happens("order", "OrderCompleted", order.worth)


def _paid(order: _Order, rng: Random) -> Iterator[Fact]:
    yield order.happens("payment", "PaymentRequested", {"total": order.worth["total"]})
    for attempt in range(1, 4):
        if rng.random() < 0.8:
            yield order.happens("payment", "PaymentAuthorized", {"attempt": attempt, **order.worth})
            order.failed = False
            return
        yield order.happens("payment", "PaymentFailed", {"attempt": attempt, "reason": "declined"})


def _shipped(order: _Order, rng: Random) -> Iterator[Fact]:
    yield order.happens("shipment", "ShipmentPrepared", {"parcels": rng.randint(1, 3)}, minutes=600)
    yield order.happens(order.warehouse, "StockDispatched", {"order": order.name})
    yield order.happens("payment", "PaymentCaptured", order.worth)
    yield order.happens("shipment", "ShipmentDelivered", {"signed": rng.random() < 0.5}, minutes=2000)


class _Order:
    """One order on its way: who, what for, and what time it is there."""

    def __init__(self, number: int, rng: Random) -> None:
        self.name = f"order-{number:05d}"
        self.number, self.failed = number, True
        self._rng = rng
        customer = rng.randrange(CUSTOMERS)
        # A customer keeps region and tier, whatever the order.
        region = REGIONS[customer % len(REGIONS)]
        self.warehouse = f"warehouse-{region}"
        self.worth: dict[str, Any] = {"tier": TIERS[customer % len(TIERS)], "total": round(rng.lognormvariate(4, 1), 2)}
        self._tags = (f"customer:{customer}", f"region:{region}")
        self._metadata = {"channel": rng.choice(CHANNELS), "correlation": self.name}
        self._now = OPENING + timedelta(seconds=(number + rng.random()) * BETWEEN_ORDERS)

    def happens(self, stream: str, type: str, data: dict[str, Any], minutes: float = 20) -> Fact:
        """Return the next fact, some time after the last one; *stream* is a kind, or a name of its own."""
        self._now += timedelta(minutes=minutes * self._rng.uniform(0.2, 1.8))
        name = stream if stream.startswith("warehouse-") else f"{stream}-{self.number:05d}"
        identity = UUID(int=self._rng.getrandbits(128), version=4)
        return Fact(name, NewEvent(type, data, self._metadata, self._tags, identity, self._now))
