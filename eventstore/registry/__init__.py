"""A registry of consumers that start on demand; see `ConsumerRegistry`."""

from __future__ import annotations

from eventstore.registry.consumers import Clock, Consumer, DirectConsumer, Suspend
from eventstore.registry.registry import ConsumerRegistry

__all__ = ["Clock", "Consumer", "ConsumerRegistry", "DirectConsumer", "Suspend"]
