"""Who waits for a position says so to the nodes: they store their checkpoints at once, instead of with many others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from eventstore.errors import EventStoreError
from eventstore.mailbox import Mailbox
from eventstore.pubsub.hub import PubSub
from eventstore.subscriptions.pool import Pools

__all__ = ["Wanted"]

log = logging.getLogger(__name__)

REMEMBERED = 30.0
"""Seconds after which a node forgets what somebody else waits for."""


class Wanted:
    """The hint "somebody waits until *name* has come to *position*"; lost, it costs the usual delay."""

    def __init__(self, pubsub: PubSub, instance: str, pools: Pools) -> None:
        self._pubsub, self._topic, self._pools = pubsub, f"store:{instance}:wanted", pools

    async def ask(self, name: str, position: int) -> None:
        """Tell the other nodes; never fails."""
        try:
            await self._pubsub.broadcast(self._topic, ("wanted", {"subscription": name, "position": position}))
        except EventStoreError as error:
            log.debug("nobody was asked to hurry: %s", error)

    async def run(self, healthy: Callable[[], None]) -> None:
        """Hurry for whoever asks, until cancelled."""
        loop = asyncio.get_running_loop()
        async with Mailbox[object](1_000, "drop_oldest", name="wanted") as mailbox:
            self._pubsub.subscribe(self._topic, mailbox)
            async for message in mailbox:
                match message:
                    case ("wanted", {"subscription": str(name), "position": int(position)}):
                        waiting = self._pools.hurried(name, position)
                        waiting.__enter__()
                        loop.call_later(REMEMBERED, waiting.__exit__, None, None, None)
                healthy()
