"""How a message gets to the subscribers of one node."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from eventstore.errors import ConfigurationError, Overflow
from eventstore.mailbox import Mailbox
from eventstore.pubsub.topics import Subscriber, Subscriptions

__all__ = ["Dispatcher", "Fastlane", "Full", "fastlane", "put_or_lose", "to_mailboxes"]

Dispatcher: TypeAlias = Callable[[list[tuple[Mailbox[Any], Any]], Mailbox[Any] | None, Any], object]
"""``dispatch(entries, sender, message)``: *entries* are (mailbox, metadata), the sender's own included; *sender* is
None unless the message came by a ``…_from`` of this node. Called once for each registry partition that has entries;
what it returns is ignored. It must not wait."""

Full: TypeAlias = list[Subscriber]
"""Subscribers whose mailboxes had no room and whose rule is not to lose, once for each message that did not fit."""


def to_mailboxes(entries: list[tuple[Subscriber, Subscriptions]], sender: Mailbox[Any] | None, message: Any) -> Full:
    """The default dispatcher: queue *message* for each subscription but the sender's own; returns who was full."""
    full: Full = []
    for subscriber, subscriptions in entries:
        mailbox = subscriber()
        if mailbox is None or mailbox is sender:
            continue
        for _ in subscriptions:
            try:
                mailbox.put_nowait(message)
            except Overflow:
                full.append(subscriber)
    return full


def flat(entries: Iterable[tuple[Subscriber, Subscriptions]]) -> list[tuple[Mailbox[Any], Any]]:
    """Return *entries* as dispatchers are handed them: one for each subscription."""
    return [
        (mailbox, metadata)
        for subscriber, subscriptions in entries
        if (mailbox := subscriber()) is not None
        for metadata in subscriptions
    ]


@dataclass(frozen=True, slots=True)
class Fastlane:
    """Metadata of a subscription whose messages are written straight out instead of being queued.

    Attributes:
        write: takes what *serialize* returned, for example a socket's ``write``; must not wait.
        serialize: from message to bytes or text. Subscriptions that share one function share its result.
    """

    write: Callable[[Any], object]
    serialize: Callable[[Any], Any]

    def __post_init__(self) -> None:
        if inspect.iscoroutinefunction(self.write) or inspect.iscoroutinefunction(self.serialize):
            raise ConfigurationError("write and serialize of a Fastlane must be plain functions: they must not wait")


def fastlane(entries: list[tuple[Mailbox[Any], Any]], sender: Mailbox[Any] | None, message: Any) -> None:
    """Dispatcher for topics with many sockets: encode once for each serializer, and write past the mailboxes.

    Entries without `Fastlane` metadata are queued as usual; the sender gets nothing. A `block` mailbox that is full
    loses the message, which is counted. A socket that fails keeps nobody else from the message.

    Raises:
        Exception: the first failure of a `serialize` or `write`, once all entries had their turn.
    """
    encoded: dict[Callable[[Any], Any], Any] = {}
    failure: Exception | None = None
    for mailbox, lane in entries:
        if mailbox is sender:
            continue
        if not isinstance(lane, Fastlane):
            put_or_lose(mailbox, message)
            continue
        try:
            if lane.serialize not in encoded:
                encoded[lane.serialize] = lane.serialize(message)
            lane.write(encoded[lane.serialize])
        except Exception as error:  # noqa: BLE001 - raised in the end
            failure = failure or error
    if failure is not None:
        raise failure


def put_or_lose(mailbox: Mailbox[Any], message: Any) -> None:
    """Queue *message* where nobody can wait or be told; a full mailbox counts it as dropped."""
    try:
        mailbox.put_nowait(message)
    except Overflow:
        mailbox.dropped += 1
