"""Where subscriptions without a handler deliver: sinks that are stored with them, and mailboxes of this node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from eventstore.errors import ConfigurationError
from eventstore.events import Event
from eventstore.pubsub.hub import PubSub
from eventstore.sinks import Sink, open_sink
from eventstore.subscriptions.delivery import Delivery, Registration
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import check_subscription_name

__all__ = ["Outlets", "is_delivery_topic"]

log = logging.getLogger(__name__)

PREFIX = "subscription:"
MAILBOX_BATCH = 100


def is_delivery_topic(topic: str) -> bool:
    """Whether the mailboxes of *topic* are handed the events of a subscription: ``subscription:<name>``."""
    return topic.startswith(PREFIX)


class Outlets:
    """Makes registrations of what is stored, and of who listens.

    Args:
        changed: called when there may be other registrations than before.
    """

    def __init__(self, pubsub: PubSub, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._pubsub, self._ledger, self._changed = pubsub, ledger, changed
        self._sinks: dict[str, tuple[Any, Registration, AsyncExitStack]] = {}
        self._refused: dict[str, Any] = {}
        self._outdated: list[AsyncExitStack] = []
        self._mailboxes: set[str] = set()
        self._came = asyncio.Event()

    def interest(self, topic: str, wanted: bool) -> None:
        """Take note that a topic has got its first subscriber, or lost its last."""
        name = topic.removeprefix(PREFIX)
        if not is_delivery_topic(topic) or not _can_be_stored(name):
            return
        if wanted:
            self._mailboxes.add(name)
            came, self._came = self._came, asyncio.Event()
            came.set()
        else:  # its partitions go back; whoever has a mailbox for it next gets what comes after the checkpoint
            self._mailboxes.discard(name)
        self._changed()

    async def registrations(self) -> list[Registration]:
        """Return what this node delivers without a handler: to sinks, and as a last resort to its mailboxes."""
        stored = await self._ledger.sinks()
        # Whoever delivered to them has been replaced since they were put there.
        outdated, self._outdated = self._outdated, []
        for closing in outdated:
            await closing.aclose()
        for name in self._sinks.keys() - stored.keys():
            self._outdated.append(self._sinks.pop(name)[2])
        sinks = [one for name, options in stored.items() if (one := await self._sink(name, options)) is not None]
        waiting = [self._mailbox(name) for name in self._mailboxes if name not in stored]
        return sinks + waiting

    async def close(self) -> None:
        """Close the sinks."""
        open_ones = [*self._outdated, *(one[2] for one in self._sinks.values())]
        self._sinks.clear()
        self._refused.clear()
        self._outdated.clear()
        for one in open_ones:
            await one.aclose()

    async def _sink(self, name: str, options: Mapping[str, Any]) -> Registration | None:
        found = self._sinks.get(name)
        if found is not None and found[0] == options:
            return found[1]
        closing = AsyncExitStack()
        try:
            sink = await closing.enter_async_context(
                open_sink(options["sink"], options.get("sink_options", {}), self._pubsub)
            )
        except ConfigurationError as error:
            if self._refused.get(name) != options:
                log.error("this node cannot deliver %r: %s", name, error)
                self._refused[name] = options
            return None
        if found is not None:
            self._outdated.append(found[2])
        self._sinks[name] = (options, Registration(name, _to(sink), batch_size=sink.batch_size), closing)
        return self._sinks[name][1]

    def _mailbox(self, name: str) -> Registration:
        topic = PREFIX + name

        async def deliver(events: list[Event], _delivery: Delivery, _transaction: Any) -> None:
            came = self._came
            while not await self._pubsub.local_offer(topic, ("events", events)):
                if self._pubsub.subscribed(topic):  # but nobody has room
                    await asyncio.sleep(0.05)
                else:
                    await came.wait()
                came = self._came

        return Registration(name, deliver, batch_size=MAILBOX_BATCH, fallback=True)


def _can_be_stored(name: str) -> bool:
    """Whether there can be a subscription of that name; topics often come from users."""
    try:
        check_subscription_name(name)
    except ConfigurationError:
        return False
    return True


def _to(sink: Sink) -> Callable[[list[Event], Delivery, Any], Any]:
    async def deliver(events: list[Event], delivery: Delivery, _transaction: Any) -> None:
        await sink.deliver(events, subscription=delivery.subscription, attempt=delivery.attempt)

    return deliver
