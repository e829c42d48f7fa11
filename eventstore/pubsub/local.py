"""The adapter that never leaves the process: one PubSub alone, or several on one hub, as if they were nodes."""

from __future__ import annotations

from eventstore.errors import ConfigurationError
from eventstore.pubsub.adapter import Envelope, Receiver

__all__ = ["Alone", "Local", "LocalHub"]


class LocalHub:
    """What connects the `Local` adapters of one process; a cluster of several nodes for tests.

    Nodes of one PubSub name reach each other, as they do over a database. Delivery is immediate, and messages go
    through the codec as they would on a wire.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Receiver]] = {}

    def _join(self, node: str, deliver: Receiver) -> None:
        nodes = self._nodes.setdefault(deliver.name, {})
        if node in nodes:
            raise ConfigurationError(
                f"a node {node!r} of {deliver.name!r} is on this hub already; node names are unique"
            )
        nodes[node] = deliver

    def _leave(self, node: str, deliver: Receiver) -> None:
        self._nodes.get(deliver.name, {}).pop(node, None)

    def _send(self, name: str, envelope: Envelope) -> None:
        for deliver in tuple(self._nodes[name].values()):
            # A node listens on the shards of its pool only, as it does on the channels of a database.
            if envelope.shard < deliver.pool_size:
                deliver(envelope)


class Local:
    """Adapter for one process.

    Args:
        hub: shared by the nodes; None: this node is alone.
        node_name: unique on the hub; required with one.

    Raises:
        ConfigurationError: a hub without a node name; on starting: the name is taken.
    """

    def __init__(self, hub: LocalHub | None = None, node_name: str | None = None) -> None:
        if hub is not None and not node_name:
            raise ConfigurationError("nodes that share a hub need a node_name each")
        self._hub, self._node_name = hub or LocalHub(), node_name or "local"
        self._deliver: Receiver | None = None

    @property
    def node_name(self) -> str:
        """How this node is called by `direct_broadcast`."""
        return self._node_name

    async def start(self, deliver: Receiver) -> None:
        """Join the hub."""
        self._hub._join(self._node_name, deliver)
        self._deliver = deliver

    async def broadcast(self, envelope: Envelope) -> None:
        """Hand *envelope* to every node of the hub."""
        assert self._deliver is not None
        self._hub._send(self._deliver.name, envelope)

    async def direct_broadcast(self, node: str, envelope: Envelope) -> None:
        """Hand *envelope*, which names its receiver, to every node of the hub."""
        await self.broadcast(envelope)

    async def close(self) -> None:
        """Leave the hub."""
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            self._hub._leave(self._node_name, deliver)


class Alone(Local):
    """Adapter of a node that cannot hear others, and therefore does not speak to them: only local broadcasts work.

    Args:
        because: why that is so, and the cure.
    """

    def __init__(
        self,
        node_name: str,
        because: object = "open the store with Settings(listen=True), behind a pooler with a direct listen_dsn",
    ) -> None:
        super().__init__(None, node_name)
        self._because = because

    async def broadcast(self, envelope: Envelope) -> None:
        """Refuse.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"this node reaches nobody but by local_broadcast: {self._because}")
