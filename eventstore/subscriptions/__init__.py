"""Subscriptions: their records, the ledger that stores them, and the emitters that deliver.

From here come types to annotate with: what `EventStore.subscriptions` returns, what handlers and middleware are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.lazily import lazy

if TYPE_CHECKING:
    from eventstore.subscriptions.delivery import Call, Delivery, Middleware
    from eventstore.subscriptions.model import (
        After,
        Lag,
        Node,
        Parked,
        Partition,
        PartitionLag,
        Rewound,
        Subscription,
    )
    from eventstore.subscriptions.policy import FailurePolicy

__all__ = [
    "After",
    "Call",
    "Delivery",
    "FailurePolicy",
    "Lag",
    "Middleware",
    "Node",
    "Parked",
    "Partition",
    "PartitionLag",
    "Rewound",
    "Subscription",
]

_HOMES = {
    "eventstore.subscriptions.delivery": ("Call", "Delivery", "Middleware"),
    "eventstore.subscriptions.model": (
        "After",
        "Lag",
        "Node",
        "Parked",
        "Partition",
        "PartitionLag",
        "Rewound",
        "Subscription",
    ),
    "eventstore.subscriptions.policy": ("FailurePolicy",),
}

if not TYPE_CHECKING:  # or checkers would take any name for one of the package
    __getattr__, __dir__ = lazy(globals(), _HOMES)
