"""`RequestPubSub`: the topic on which a node tells of the requests it answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventstore.analytics.logs import RequestLog
from eventstore.errors import BroadcastError

if TYPE_CHECKING:
    from eventstore.mailbox import Mailbox
    from eventstore.pubsub.hub import PubSub

__all__ = ["SENT", "TOPIC", "RequestPubSub"]

TOPIC = "request_topic"
"""The topic of requests."""

SENT = "request_sent"
"""What messages begin with: ``("request_sent", log)``."""

SENT_WITHIN = 1.0
"""Seconds that a broadcast to other nodes may take, so that requests do not pile up behind a broken medium."""


class RequestPubSub:
    """Requests as messages ``("request_sent", RequestLog)`` on the topic ``request_topic``.

    Where all nodes store their requests in one Postgres, each request is broadcast on its own node only, and stored by
    that node's batcher. A broadcast to the cluster would reach the batcher of every node, and each would insert the
    request: N times the work for rows that are there already. Where every node has a storage of its own, such as a
    file, a broadcast to the cluster is how each of them gets all requests.

    Args:
        pubsub: opened and closed by its owner.
        shared_storage: all nodes store in one place.
    """

    def __init__(self, pubsub: PubSub, *, shared_storage: bool) -> None:
        self._pubsub, self.shared_storage = pubsub, shared_storage
        if not shared_storage:
            pubsub.codec.register(RequestLog)

    @property
    def name(self) -> str:
        """The name of the PubSub below."""
        return self._pubsub.name

    def subscribe(self, mailbox: Mailbox[Any]) -> None:
        """Put the requests that are broadcast from now on into *mailbox*.

        Raises:
            PubSubClosed: the PubSub is not open.
        """
        self._pubsub.subscribe(TOPIC, mailbox)

    async def broadcast(self, log: RequestLog) -> None:
        """Tell of a request: this node if the storage is shared, every node otherwise.

        Locally nobody waits: a subscriber whose mailbox is full loses it, by whatever rule, and counts that.

        Raises:
            PubSubClosed: the PubSub is not open.
            BroadcastError: the other nodes could not be told, or not within a second.
        """
        message = (SENT, log)
        if self.shared_storage:
            self._pubsub.local_broadcast_nowait(TOPIC, message)
            return
        try:
            async with asyncio.timeout(SENT_WITHIN):
                await self._pubsub.broadcast(TOPIC, message)
        except TimeoutError:
            raise BroadcastError(f"the request was not sent within {SENT_WITHIN:g} s") from None
