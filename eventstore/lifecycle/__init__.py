"""Lifecycle events: topic families of an instance, kinds, and which kind goes where.

`WorkflowLifecycle` tells what happens to workflows, `StoreLifecycle` what happens to the subscriptions and nodes of a
store. Both are PubSub messages: delivered at most once, and nobody's failure.
"""

from __future__ import annotations

from eventstore.errors import NoPubSub
from eventstore.lifecycle.stores import StoreKind, StoreLifecycle
from eventstore.lifecycle.workflows import START, Kind, WorkflowKind, WorkflowLifecycle, server_for

__all__ = [
    "START",
    "Kind",
    "NoPubSub",
    "StoreKind",
    "StoreLifecycle",
    "WorkflowKind",
    "WorkflowLifecycle",
    "server_for",
]
