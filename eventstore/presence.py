"""The nodes as they see each other: a tracker in which every node that runs handlers is present.

It is for people who watch. Who owns what is decided by the nodes table alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from eventstore.pubsub.hub import PubSub
from eventstore.subscriptions.pool import Pools
from eventstore.tracker.owners import Owner
from eventstore.tracker.shard import TopicDiff
from eventstore.tracker.tracker import Tracker

__all__ = ["NODES", "NodePresence", "nodes_tracker"]

NODES = "nodes"
"""Name of the tracker, and its one topic."""

SETTLED = 0.2
"""Seconds for further changes to come along: a node claims its partitions one after another."""


class _Watching:
    """A handler that sets an event at every change."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed

    async def handle_diff(self, _diff: TopicDiff, state: Any) -> Any:
        self._changed.set()
        return state


def nodes_tracker(pubsub: PubSub, changed: asyncio.Event) -> Tracker:
    """Return the tracker of nodes, for ``async with``; *changed* is set whenever its list changes."""
    return Tracker(_Watching(changed), NODES, pubsub, permdown_on_shutdown=True)


class NodePresence:
    """Keeps this node's presence as its lease and its partitions are."""

    def __init__(self, pubsub: PubSub, pools: Pools, node_name: str, version: str) -> None:
        self._pubsub, self._pools = pubsub, pools
        self._node_name, self._version = node_name, version

    async def run(self, healthy: Callable[[], None]) -> None:
        """Be present while there is a lease, until cancelled."""
        async with nodes_tracker(self._pubsub, asyncio.Event()) as tracker, Owner(self._node_name) as owner:
            key, started = None, ""
            while True:
                self._pools.changed.clear()
                node, partitions = self._pools.holdings
                if key is not None and key != str(node):
                    await tracker.untrack(owner)
                    key = None
                if node is not None and key is None:
                    key, started = str(node), datetime.now(UTC).isoformat()
                    await tracker.track(owner, NODES, key, self._meta(started, partitions))
                elif node is not None and key is not None:
                    await tracker.update(owner, NODES, key, self._meta(started, partitions))
                healthy()
                await asyncio.sleep(SETTLED)
                await self._pools.changed.wait()

    def _meta(self, started: str, partitions: list[tuple[str, int]]) -> dict[str, Any]:
        return {
            "name": self._node_name,
            "version": self._version,
            "started_at": started,
            "partitions": len(partitions),
            "subscriptions": sorted({name for name, _ in partitions})[:20],
        }
