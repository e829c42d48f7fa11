"""The mechanism: families of kinds, the topics each goes to, and broadcasts whose outcome is nobody's failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from eventstore.errors import ConfigurationError, InvalidEvent, NoPubSub
from eventstore.mailbox import Mailbox
from eventstore.pubsub.hub import PubSub

__all__ = ["Family", "Lifecycle", "Losses"]

log = logging.getLogger(__name__)

TOLD_EVERY = 60.0
"""Seconds between two lines of the log about losses of one sort."""


@dataclass(frozen=True, slots=True)
class Family:
    """Kinds of events that go the same way: to a topic for all of them, to one for each value of a key, or to both.

    Attributes:
        name: how errors call it.
        kinds: its kinds.
        shared: the topic for all, after the instance's prefix.
        each: the topic for one value of *key* in the payload: ``<each>:<value>``.
        stays: its events concern this node only, and do not leave it.
    """

    name: str
    kinds: frozenset[StrEnum]
    shared: str | None = None
    each: str | None = None
    key: str = ""
    stays: bool = False

    def topics(self, prefix: str, kind: str, payload: Any) -> tuple[str, ...]:
        """Return where an event goes.

        Raises:
            InvalidEvent: the payload lacks the key, or its value is neither a string nor a whole number.
        """
        if self.each is None:
            return (f"{prefix}{self.shared}",)
        value = payload.get(self.key) if isinstance(payload, dict) else getattr(payload, self.key, None)
        if type(value) is not int and (type(value) is not str or not value):
            raise InvalidEvent(f"the payload of {str(kind)!r} needs {self.key!r}, a string or a number, not {value!r}")
        own = f"{prefix}{self.each}:{value}"
        return (own,) if self.shared is None else (f"{prefix}{self.shared}", own)


class Lifecycle:
    """One instance's topics and its PubSub, or none.

    Args:
        scheme: first part of every topic.
        instance: second part of every topic; nodes of one instance hear each other.
        pubsub: None: nobody is told anything.

    Attributes:
        server: the PubSub, or None.

    Raises:
        ConfigurationError: the instance has no name, or *pubsub* is none.
    """

    def __init__(self, scheme: str, instance: str, pubsub: PubSub | None) -> None:
        if not isinstance(instance, str) or not instance:
            raise ConfigurationError(f"an instance needs a name, a string, not {instance!r}")
        if pubsub is not None and not hasattr(pubsub, "local_broadcast_nowait"):
            raise ConfigurationError(f"pubsub must be a PubSub or None, not {type(pubsub).__name__}")
        self.instance, self.server = instance, pubsub
        self._prefix = f"{scheme}:{instance}:"
        self._failures = Losses(f"lifecycle of {instance!r}: a message was not sent (%d until now): %s")

    @property
    def failed(self) -> int:
        """How many messages could not be sent."""
        return self._failures.count

    def subscribe(self, topic: str, mailbox: Mailbox[Any]) -> None:
        """Put what is told on *topic* into *mailbox*; see `PubSub.subscribe`.

        Raises:
            NoPubSub: there is none.
            PubSubClosed: it is not open.
        """
        if self.server is None:
            raise NoPubSub(self.instance)
        self.server.subscribe(topic, mailbox)

    def unsubscribe(self, topic: str, mailbox: Mailbox[Any]) -> None:
        """End every subscription of *mailbox* to *topic*; none is fine, and so is no PubSub."""
        if self.server is not None:
            self.server.unsubscribe(topic, mailbox)


class Losses:
    """Counts what was lost, and logs that, at most once a minute.

    Args:
        text: for the log; gets the count and a reason.
        clock: seconds that only go forward.
    """

    def __init__(self, text: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._text, self._clock, self._again = text, clock, float("-inf")

    def add(self, why: object, count: int = 1) -> None:
        """Count more."""
        self.count += count
        if (now := self._clock()) >= self._again:
            self._again = now + TOLD_EVERY
            log.warning(self._text, self.count, why)
