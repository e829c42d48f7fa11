"""``pubsub:<topic>``: events as messages to every node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from eventstore.codec import check_text
from eventstore.errors import ConfigurationError, InvalidEvent, Overflow
from eventstore.events import Event
from eventstore.sinks.sink import check_options, record

if TYPE_CHECKING:
    from eventstore.pubsub import PubSub

__all__ = ["Topic"]

PREFIX = "pubsub:"
OWN: Final = ("stream:", "type:", "subscription:", "store:", "pubsub:", "$")
"""How topics begin that the store or its PubSub itself broadcasts on; ``events`` is another."""


class Topic:
    """Broadcasts ``("event", {...})`` to the subscribers of a topic on every node, one message for each event."""

    # A batch would be as many messages, and one that is refused would fail the others.
    batch_size = 1

    def __init__(self, target: str, pubsub: PubSub) -> None:
        self._topic, self._pubsub = target.removeprefix(PREFIX), pubsub

    @staticmethod
    def check(target: str, options: Mapping[str, Any]) -> None:
        """Refuse a topic that is empty, cannot be stored, or is the store's own (`ConfigurationError`)."""
        topic = target.removeprefix(PREFIX)
        if not topic:
            raise ConfigurationError("pubsub: needs a topic, such as pubsub:orders")
        try:
            check_text(topic, "the topic of a sink")
        except InvalidEvent as error:
            raise ConfigurationError(str(error)) from None
        if topic == "events" or topic.startswith(OWN):
            raise ConfigurationError(
                f"the topic {topic!r} belongs to the store, as do events and all that begin with {' '.join(OWN)}; "
                "choose another"
            )
        check_options(options, (), "a pubsub: target")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def deliver(self, events: Sequence[Event], *, subscription: str, attempt: int) -> None:
        """Broadcast *events*, each as `record` has it.

        Raises:
            InvalidMessage: data nested deeper than 62, since two levels are the message's own.
            BroadcastError, PubSubClosed: as ``PubSub.broadcast``.
        """
        for event in events:
            # Everybody else got it: again would be twice for them, and who is full asked to be refused.
            with suppress(Overflow):
                await self._pubsub.broadcast(self._topic, ("event", record(event)))

    def __repr__(self) -> str:
        return f"Topic({self._topic!r})"
