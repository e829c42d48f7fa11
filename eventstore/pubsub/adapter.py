"""What a PubSub asks of the way to other nodes: one envelope, one small protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["Adapter", "Envelope", "Mode", "Receiver"]

Mode = Literal["except", "only", "all"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way to other nodes.

    Attributes:
        mode: who delivers it: every node ``except`` the sender, ``only`` the one named, or ``all`` of them.
        node: the sender's name; under ``only`` the receiver's.
        origin: id of the sending PubSub, new at each start; tells a sender from another one of its name.
        topic: what it was broadcast on.
        message: JSON text, as the codec wrote it.
        dispatcher: name of the dispatcher; None: the default one.
        shard: which of the pool's channels carries it. It is not part of what is sent.
    """

    mode: Mode
    node: str
    origin: str
    topic: str
    message: str
    dispatcher: str | None = None
    shard: int = 0


class Receiver(Protocol):
    """What an adapter hands envelopes to, in the order they arrived, from the event loop; it never raises."""

    @property
    def name(self) -> str:
        """Of the PubSub; nodes of one name reach each other."""

    @property
    def origin(self) -> str:
        """Id of this PubSub, as its envelopes bear it."""

    @property
    def pool_size(self) -> int:
        """How many shards to listen on, from 0."""

    def __call__(self, envelope: Envelope) -> None:
        """Deliver *envelope* on this node, if it is meant for it."""

    def rejected(self, reason: str) -> None:
        """Count something that arrived and was no envelope of this cluster: forged, foreign, or cut."""

    def connection(self, state: Literal["lost", "reconnected"]) -> None:
        """Say that messages may be lost from now on, or that they arrive again."""


class Adapter(Protocol):
    """The way to the other nodes."""

    @property
    def node_name(self) -> str:
        """Unique among the nodes of one PubSub."""

    async def start(self, deliver: Receiver) -> None:
        """Begin to send and to receive; what arrives is handed to *deliver*.

        Raises:
            ConfigurationError, DatabaseUnavailable: it cannot begin.
        """

    async def broadcast(self, envelope: Envelope) -> None:
        """Send *envelope* to every other node; returns once it is sent, raises if it was not."""

    async def direct_broadcast(self, node: str, envelope: Envelope) -> None:
        """Send *envelope* to *node* only, which may be this one; nothing happens if there is none of that name."""

    async def close(self) -> None:
        """Stop receiving, and end what `start` began."""


def stats_of(adapter: Any) -> dict[str, int]:
    """Return the counters that an adapter keeps, if it keeps any."""
    return dict(getattr(adapter, "counters", {}))
