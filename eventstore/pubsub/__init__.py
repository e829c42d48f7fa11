"""PubSub: topics across nodes, on nothing but Postgres.

Usable on its own::

    async with PubSub("chat", Postgres("postgresql://…", node_name="web-1")) as pubsub:
        async with pubsub.subscription("room:1") as messages:
            await pubsub.broadcast("room:1", {"text": "hello"})
            async for message in messages:
                ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.lazily import lazy

if TYPE_CHECKING:
    from eventstore.errors import (
        BroadcastError,
        ConfigurationError,
        DatabaseUnavailable,
        InvalidMessage,
        MailboxClosed,
        Overflow,
        PubSubClosed,
    )
    from eventstore.mailbox import Mailbox, Rule
    from eventstore.pubsub.adapter import Adapter, Envelope, Receiver
    from eventstore.pubsub.codec import Codec, MessageCodec
    from eventstore.pubsub.dispatching import Dispatcher, Fastlane, fastlane, put_or_lose
    from eventstore.pubsub.hub import CONNECTION, PubSub, Stats, Subscription
    from eventstore.pubsub.local import Local, LocalHub
    from eventstore.pubsub.postgres import Postgres
    from eventstore.pubsub.redis import Redis

__all__ = [
    "CONNECTION",
    "Adapter",
    "BroadcastError",
    "Codec",
    "ConfigurationError",
    "DatabaseUnavailable",
    "Dispatcher",
    "Envelope",
    "Fastlane",
    "InvalidMessage",
    "Local",
    "LocalHub",
    "Mailbox",
    "MailboxClosed",
    "MessageCodec",
    "Overflow",
    "Postgres",
    "PubSub",
    "PubSubClosed",
    "Receiver",
    "Redis",
    "Rule",
    "Stats",
    "Subscription",
    "fastlane",
    "put_or_lose",
]

_HOMES = {
    "eventstore.mailbox": ("Mailbox", "Rule"),
    "eventstore.pubsub.adapter": ("Adapter", "Envelope", "Receiver"),
    "eventstore.pubsub.codec": ("Codec", "MessageCodec"),
    "eventstore.pubsub.dispatching": ("Dispatcher", "Fastlane", "fastlane", "put_or_lose"),
    "eventstore.pubsub.hub": ("CONNECTION", "PubSub", "Stats", "Subscription"),
    "eventstore.pubsub.local": ("Local", "LocalHub"),
    "eventstore.pubsub.postgres": ("Postgres",),
    "eventstore.pubsub.redis": ("Redis",),
}

if not TYPE_CHECKING:  # or checkers would take any name for one of the package
    __getattr__, __dir__ = lazy(globals(), _HOMES)
