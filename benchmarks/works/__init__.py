"""The works; importing this registers them."""

from benchmarks.works import (
    appends,
    batches,
    conditions,
    latency,
    listeners,
    peer_eventsourcing,
    peer_message_db,
    pubsub,
    reads,
    subscriptions,
)

__all__ = [
    "appends",
    "batches",
    "conditions",
    "latency",
    "listeners",
    "peer_eventsourcing",
    "peer_message_db",
    "pubsub",
    "reads",
    "subscriptions",
]
