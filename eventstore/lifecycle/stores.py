"""What happens to the subscriptions, nodes and log of a store, as messages ``("store_event", kind, payload)``."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum, auto
from itertools import groupby
from operator import itemgetter
from typing import Any

from eventstore.errors import AlreadyStarted, BroadcastError, ConfigurationError, InvalidEvent
from eventstore.lifecycle.families import Family, Lifecycle, Losses
from eventstore.pubsub.hub import PubSub
from eventstore.pubsub.local import Alone, Local
from eventstore.service import Tasks, to_its_end

__all__ = ["StoreKind", "StoreLifecycle"]

QUEUE = 10_000
"""Messages that may wait to be sent."""

TOGETHER = 100
"""Messages sent at the same time: their broadcasts share a statement of the Postgres adapter. More of them gain nothing
and occupy the event loop for longer at once."""

STOP_WITHIN = 1.0
"""Seconds that `StoreLifecycle.stop` lets what waits be sent."""


class StoreKind(StrEnum):
    """What happened; the part before the first ``_`` names the family."""

    SUBSCRIPTION_CREATED = auto()
    SUBSCRIPTION_PAUSED = auto()
    SUBSCRIPTION_RESUMED = auto()
    SUBSCRIPTION_REWOUND = auto()
    SUBSCRIPTION_RESIZED = auto()
    SUBSCRIPTION_CAUGHT_UP = auto()
    SUBSCRIPTION_LAGGING = auto()
    SUBSCRIPTION_HALTED = auto()
    SUBSCRIPTION_DELETED = auto()
    PARTITION_CLAIMED = auto()
    PARTITION_LOST = auto()
    PARTITION_RELEASED = auto()
    PARTITION_HALTED = auto()
    EMITTER_STARTED = auto()
    EMITTER_SUSPENDED = auto()
    EMITTER_RESUMED = auto()
    EMITTER_CRASHED = auto()
    EVENT_PARKED = auto()
    EVENT_SKIPPED = auto()
    EVENT_REPLAYED = auto()
    EVENT_DISCARDED = auto()
    NODE_JOINED = auto()
    NODE_LEFT = auto()
    SCAVENGED = auto()


def _family(name: str, shared: str | None = None, each: str | None = None, *, stays: bool = False) -> Family:
    kinds = frozenset(kind for kind in StoreKind if kind.partition("_")[0] == name)
    return Family(name, kinds, shared, each, "subscription", stays)


_FAMILIES = (
    _family("subscription", "subscriptions", "subscription"),
    _family("partition", None, "subscription"),
    _family("emitter", None, "subscription", stays=True),
    _family("event", None, "subscription"),
    _family("node", "nodes"),
    _family("scavenged", "log"),
)
_FAMILY_OF = {kind.value: (kind.value, family) for family in _FAMILIES for kind in family.kinds}

_Told = tuple[bool, tuple[str, ...], str, dict[str, Any], float]
"""Whether it is for this node's subscribers only, its topics, kind, payload and time. (A named tuple costs thrice.)"""


class StoreLifecycle(Lifecycle):
    """Tells what happens in a store. `tell` costs about two microseconds, and waits for nothing.

    One task sends what was told, in its order, between `start` and `stop`. What concerns emitters stays on its node;
    everything else goes to all nodes, and to this one's subscribers even if the others cannot be reached.

    Args:
        instance: second part of every topic; a store's nodes have the same.
        pubsub: borrowed, and open between `start` and `stop`; None: nobody is told anything.
        clock: seconds since 1970.

    Attributes:
        server: the PubSub, or None.
    """

    def __init__(self, instance: str, pubsub: PubSub | None, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__("store", instance, pubsub)
        self._clock = clock
        self._queue: deque[_Told] = deque()
        self._filled, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._under_way = 0
        self._drops = Losses(f"lifecycle of {instance!r}: messages were dropped (%d until now): %s")
        self._tasks, self._running, self._stopped = Tasks(), False, False

    @property
    def dropped(self) -> int:
        """How many messages were not sent, because too many waited or it was stopped; among the latter some may be."""
        return self._drops.count

    # -- topics

    def subscriptions_topic(self) -> str:
        """Return the topic of what happens to any subscription as a whole."""
        return f"{self._prefix}subscriptions"

    def subscription_topic(self, name: str) -> str:
        """Return the topic of what happens to one subscription, its partitions, emitters and events."""
        return f"{self._prefix}subscription:{name}"

    def nodes_topic(self) -> str:
        """Return the topic of nodes that come and go."""
        return f"{self._prefix}nodes"

    def log_topic(self) -> str:
        """Return the topic of what happens to the log itself."""
        return f"{self._prefix}log"

    # -- telling

    def tell(self, kind: StoreKind, /, **payload: Any) -> None:
        """Let everybody who subscribed know, soon. ``at`` and ``node`` are added where they are not given.

        After `stop` it does nothing; before `start` what is told waits.

        Raises:
            InvalidEvent: there is no such kind, or ``subscription`` is missing from the payload of one that needs it.
        """
        try:
            value, family = _FAMILY_OF[kind]
        except (KeyError, TypeError):
            raise InvalidEvent(f"{kind!r} is no kind of store event; use one of StoreKind") from None
        topics, pubsub = family.topics(self._prefix, value, payload), self.server
        if pubsub is None or self._stopped:
            return
        here = family.stays or (isinstance(pubsub.adapter, Local) and _is_alone(pubsub.adapter, pubsub.name))
        if here and not any(map(pubsub.subscribed, topics)):
            return
        if len(self._queue) >= QUEUE:
            self._drops.add(f"{QUEUE} wait already")
            return
        if not self._queue:
            self._filled.set()
            self._idle.clear()
        self._queue.append((here, topics, value, payload, self._clock()))

    async def drained(self) -> None:
        """Wait until everything that was told is sent."""
        await self._idle.wait()

    # -- sending

    async def start(self) -> None:
        """Begin to send.

        Raises:
            AlreadyStarted: it did.
        """
        if self._running:
            raise AlreadyStarted(f"the lifecycle of {self.instance!r} runs already")
        self._running, self._stopped = True, False
        if self.server is not None:
            self._tasks.supervise(f"lifecycle of {self.instance!r}", self._send)

    async def stop(self) -> None:
        """Send what waits, for a second at most. Stopping twice is fine."""
        self._stopped = True
        await to_its_end(self._end())

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(STOP_WITHIN if self._running else 0):
                await self.drained()
        except TimeoutError:
            pass
        await self._tasks.stop()
        if unsent := len(self._queue) + self._under_way:
            self._drops.add("it was stopped before they could be sent", unsent)
        self._queue.clear()
        self._filled.clear()
        self._idle.set()
        self._running, self._under_way = False, 0

    async def _send(self, healthy: Callable[[], None]) -> None:
        while True:
            await self._filled.wait()
            some = [self._queue.popleft() for _ in range(min(len(self._queue), TOGETHER))]
            self._under_way = len(some)
            for here, run in groupby(some, itemgetter(0)):
                await self._send_run(here, list(run))
            self._under_way = 0
            if not self._queue:
                self._filled.clear()
                self._idle.set()
            healthy()
            await asyncio.sleep(0)  # where nothing leaves this node, sending never waits for anything

    async def _send_run(self, here: bool, run: list[_Told]) -> None:
        """Send what may be sent together.

        Broadcasts that begin in some order arrive in it, since adapters queue what they are handed. Of several shards
        each task sends on its own: there it takes one after the other.
        """
        messages = [(topic, message) for told in run for message in [self._message(told)] for topic in told[1]]
        if here:
            for message in messages:
                self._send_here(*message)
        elif self._server.broadcast_pool_size == 1 and len(messages) > 1:
            await asyncio.gather(*(self._send_everywhere(*message) for message in messages))
        else:
            for message in messages:
                await self._send_everywhere(*message)
        self._under_way -= len(run)

    def _message(self, told: _Told) -> tuple[str, str, dict[str, Any]]:
        _, _, kind, payload, seconds = told
        at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
        return "store_event", kind, {"at": at, "node": self._server.node_name, **payload}

    async def _send_everywhere(self, topic: str, message: Any) -> None:
        try:
            # The fastlane waits for nobody: one full mailbox with the rule to block would hold up everything.
            await self._server.broadcast(topic, message, dispatcher="fastlane")
        except BroadcastError as error:
            self._failures.add(error)
            # Above all what happens while the database is away concerns whoever watches this node.
            self._send_here(topic, message)
        except ConfigurationError:  # somebody keeps this topic local
            self._send_here(topic, message)
        # A payload that cannot be sent, a closed PubSub, somebody's fastlane: none of them stops what comes next.
        except Exception as error:  # noqa: BLE001
            self._failures.add(error)

    def _send_here(self, topic: str, message: Any) -> None:
        try:
            self._server.local_broadcast_nowait(topic, message)
        except Exception as error:  # noqa: BLE001 - as above
            self._failures.add(error)

    @property
    def _server(self) -> PubSub:
        assert self.server is not None
        return self.server


def _is_alone(adapter: Local, name: str) -> bool:
    """Whether there is no other node of the PubSub called *name* now."""
    return isinstance(adapter, Alone) or len(adapter._hub._nodes.get(name, ())) < 2
