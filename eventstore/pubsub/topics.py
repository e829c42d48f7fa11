"""Who subscribed what: the table behind a PubSub, and its forgetting of mailboxes that ended."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

from eventstore.mailbox import Mailbox

__all__ = ["Subscriber", "Subscriptions", "Topics"]

_numbers = count()


class Subscriber(weakref.ref[Mailbox[Any]]):
    """A mailbox that has subscriptions, kept alive by others only; calling it returns the mailbox, or None.

    Attributes:
        topics: what it subscribed to, in order.
        number: decides its partition.
        forget: ends the mailbox's promise to tell when it is closed.
        waiting: what those wait for who found it full; done when it has room, unsubscribes, or is no more.
    """

    __slots__ = ("forget", "number", "topics", "waiting")

    topics: dict[str, None]
    number: int
    forget: Callable[[], None]
    waiting: set[asyncio.Future[None]]

    def wake(self) -> None:
        """Let those who wait look again."""
        for future in self.waiting:
            if not future.done():
                # Also called by the garbage collector, in the middle of anything.
                future.get_loop().call_soon(_finish, future)


Subscriptions: TypeAlias = Sequence[Any]
"""The metadata of each subscription of one mailbox to one topic."""

Entries: TypeAlias = "Subscriber | dict[Subscriber, Subscriptions]"
"""The subscribers of one topic in one partition. Most topics have one, without metadata: then it is that subscriber
itself, since with many topics every object more is a miss of the processor's cache more at each broadcast."""

_ONCE: Subscriptions = (None,)


class Topics:
    """Subscriptions of mailboxes to topics, in *size* partitions by mailbox.

    Args:
        changed: called with a topic and True when it gets its first subscriber, and False when it loses its last.
    """

    def __init__(self, size: int, changed: Callable[[str, bool], None]) -> None:
        self._partitions: list[dict[str, Entries]] = [{} for _ in range(size)]
        self._subscribers: dict[int, Subscriber] = {}
        self._collected: deque[tuple[int, Subscriber]] = deque()
        self._changed = changed

    def __contains__(self, topic: str) -> bool:
        self._sweep()
        return self._has(topic)

    def _has(self, topic: str) -> bool:
        return any(topic in partition for partition in self._partitions)

    def add(self, topic: str, mailbox: Mailbox[Any], metadata: Any) -> None:
        """Subscribe *mailbox* once more; a closed one has no subscriptions."""
        if mailbox.closed:
            return
        self._sweep()
        subscriber = self._subscribers.get(id(mailbox)) or self._new(mailbox)
        partition = self._partitions[subscriber.number % len(self._partitions)]
        first = not self._has(topic)
        if topic not in partition and metadata is None:
            partition[topic] = subscriber
        else:
            entries = _by_subscriber(partition.get(topic))
            entries[subscriber] = (*entries.get(subscriber, ()), metadata)
            partition[topic] = entries
        subscriber.topics[topic] = None
        if first:
            self._changed(topic, True)

    def remove(self, topic: str, mailbox: Mailbox[Any]) -> None:
        """End every subscription of *mailbox* to *topic*; none is fine."""
        self._sweep()
        subscriber = self._subscribers.get(id(mailbox))
        if subscriber is not None and topic in subscriber.topics:
            del subscriber.topics[topic]
            subscriber.wake()
            self._drop(subscriber, topic)
            if not subscriber.topics:
                self._forget(id(mailbox), subscriber)

    def entries(self, topic: str) -> list[list[tuple[Subscriber, Subscriptions]]]:
        """Return the subscribers of *topic*, partition by partition; partitions without any are left out."""
        if self._collected:
            self._sweep()
        found = []
        for partition in self._partitions:
            entries = partition.get(topic)
            if type(entries) is Subscriber:
                found.append([(entries, _ONCE)])
            elif entries is not None:
                found.append(list(_by_subscriber(entries).items()))
        return found

    def counts(self) -> dict[str, int]:
        """Return how many subscriptions each topic has."""
        self._sweep()
        found: dict[str, int] = {}
        for partition in self._partitions:
            for topic, entries in partition.items():
                found[topic] = found.get(topic, 0) + sum(map(len, _by_subscriber(entries).values()))
        return found

    def mailboxes(self) -> list[Mailbox[Any]]:
        """Return every mailbox that has a subscription."""
        return [mailbox for subscriber in self._subscribers.values() if (mailbox := subscriber()) is not None]

    def clear(self) -> None:
        """End every subscription."""
        for key, subscriber in tuple(self._subscribers.items()):
            self._end(key, subscriber)

    def _new(self, mailbox: Mailbox[Any]) -> Subscriber:
        key, collected = id(mailbox), self._collected

        def gone(subscriber: Any) -> None:
            collected.append((key, subscriber))
            subscriber.wake()

        subscriber = Subscriber(mailbox, gone)
        hash(subscriber)  # remembered from now on: it is a key, also when the mailbox is no more
        subscriber.topics, subscriber.number, subscriber.waiting = {}, next(_numbers), set()
        subscriber.forget = mailbox.on_close(self._closed)
        self._subscribers[key] = subscriber
        return subscriber

    def _closed(self, mailbox: Mailbox[Any]) -> None:
        if (subscriber := self._subscribers.get(id(mailbox))) is not None:
            self._end(id(mailbox), subscriber)

    def _sweep(self) -> None:
        """Forget who was collected; not at once, because a collection may come in the middle of anything here."""
        while self._collected:
            self._end(*self._collected.popleft())

    def _end(self, key: int, subscriber: Subscriber) -> None:
        for topic in subscriber.topics:
            self._drop(subscriber, topic)
        subscriber.topics = {}
        subscriber.wake()
        self._forget(key, subscriber)

    def _forget(self, key: int, subscriber: Subscriber) -> None:
        # The id of a mailbox that was collected may be another's by now.
        if self._subscribers.get(key) is subscriber:
            del self._subscribers[key]
        subscriber.forget()

    def _drop(self, subscriber: Subscriber, topic: str) -> None:
        partition = self._partitions[subscriber.number % len(self._partitions)]
        entries = _by_subscriber(partition[topic])
        del entries[subscriber]
        if not entries:
            del partition[topic]
            if not self._has(topic):
                self._changed(topic, False)


def _by_subscriber(entries: Entries | None) -> dict[Subscriber, Subscriptions]:
    if entries is None:
        return {}
    return {entries: _ONCE} if isinstance(entries, Subscriber) else entries


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
