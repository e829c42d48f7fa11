"""The relay: new events as PubSub messages, on this node only.

Every node reads the log itself, so an event that one node broadcast to the others would arrive as often as there are
nodes. The relay is therefore handed nothing but the local half of a PubSub; the hub keeps topics of events on their
node (`PubSub.keep_local`), and its codec refuses events, so that nobody else can send one by mistake.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from eventstore.database import not_primary
from eventstore.errors import CheckpointAheadOfLog, DatabaseUnavailable, PubSubClosed, TransactionConflict
from eventstore.events import Event
from eventstore.feed import Follower
from eventstore.service import Backoff, Moments, Tasks

__all__ = ["LocalBroadcast", "Relay", "is_event_topic", "topics_of"]

log = logging.getLogger(__name__)


class LocalBroadcast(Protocol):
    """What the relay needs of a PubSub."""

    def subscribed(self, topic: str) -> bool:
        """Whether anybody of this node subscribed to *topic*."""

    def local_broadcast_nowait(self, topic: str, message: Any) -> None:
        """Give *message* to the subscribers of *topic* on this node; a full mailbox loses it."""


def is_event_topic(topic: str) -> bool:
    """Whether events are broadcast on *topic*: ``events``, ``stream:<name>`` or ``type:<type>``."""
    return topic == "events" or topic.startswith(("stream:", "type:"))


def topics_of(events: Iterable[Event], wanted: Callable[[str], bool]) -> dict[str, list[Event]]:
    """Return the topics of *events* that are *wanted*, each with its events in their order."""
    found: dict[str, list[Event]] = {}
    for event in events:
        for topic in ("events", f"stream:{event.stream}" if event.stream is not None else None, f"type:{event.type}"):
            if topic is not None and (topic in found or wanted(topic)):
                found.setdefault(topic, []).append(event)
    return found


class Relay:
    """Broadcasts ``("events", [event, …])`` locally while anybody subscribes to an event topic.

    It begins with the first subscriber, at what readers see then, and ends with the last one: a node that nobody
    listens on reads nothing for it. As with every PubSub message delivery is at most once; who must not miss events
    subscribes to the store.

    Args:
        follow: returns a follower of the whole log after a position.
        position: returns the position of the last event that readers see.

    Attributes:
        moments: ``began``, ``relayed``, ``ended``.
    """

    def __init__(
        self,
        pubsub: LocalBroadcast,
        follow: Callable[[int], Follower],
        position: Callable[[], Awaitable[int]],
    ) -> None:
        self._pubsub, self._follow, self._position = pubsub, follow, position
        self._topics: set[str] = set()
        self._running: asyncio.Task[Any] | None = None
        self._began: asyncio.Future[None] | None = None
        self._tasks = Tasks()
        self.moments = Moments()

    def interest(self, topic: str, wanted: bool) -> Awaitable[None] | None:
        """Take note that *topic* has got its first subscriber, or lost its last.

        Returns:
            What is done once the events appended from then on will be relayed, or raises `DatabaseUnavailable` on a
            standby; None if nothing is to be waited for.
        """
        if not is_event_topic(topic):
            return None
        if not wanted:
            self._topics.discard(topic)
            if not self._topics:
                self._end()
            return None
        self._topics.add(topic)
        if self._running is None:
            self._began = asyncio.get_running_loop().create_future()
            self._running = self._tasks.spawn("relay", self._relay(self._began))
        assert self._began is not None
        return self._began

    async def stop(self) -> None:
        """End relaying."""
        self._topics.clear()
        self._end(PubSubClosed("the store was closed before its events were relayed"))
        await self._tasks.stop()

    def _end(self, error: Exception | None = None) -> None:
        """Relay no more. Who still waits for the beginning gets *error*, or, its interest being gone, nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        if self._began is not None and not self._began.done():
            if error is None:
                self._began.set_result(None)
            else:
                self._began.set_exception(error)
                self._began.exception()  # retrieved, whether anybody waits or not

    async def _relay(self, began: asyncio.Future[None]) -> None:
        backoff, follower = Backoff(0.05, 5.0), None
        try:
            while True:
                try:
                    if follower is None:
                        follower = self._follow(await self._position())
                        if not began.done():
                            began.set_result(None)
                        self.moments.reach("began")
                    events = await follower.next()
                except (DatabaseUnavailable, TransactionConflict) as error:
                    if not began.done() and not_primary(error):
                        log.warning("relaying: %s", error)
                        self._end(error)
                        return
                    log.warning("relaying: %s; trying again", error)
                except CheckpointAheadOfLog as error:
                    log.warning("relaying: %s; what is appended from now on is relayed", error)
                    follower = None
                except Exception:
                    log.exception("relaying failed; trying again")
                else:
                    backoff.reset()
                    self._broadcast(events)
                    continue
                await asyncio.sleep(backoff.next())
        finally:
            if follower is not None:
                follower.close()
            self.moments.reach("ended")

    def _broadcast(self, events: list[Event]) -> None:
        # Nobody is waited for: one mailbox that is full would stop the events of all others.
        for topic, some in topics_of(events, self._pubsub.subscribed).items():
            self._pubsub.local_broadcast_nowait(topic, ("events", some))
        self.moments.reach("relayed", events)
