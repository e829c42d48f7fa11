"""`Tracker`: who is here, across nodes, with no single source of truth."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self
from uuid import uuid4
from zlib import crc32

from eventstore.errors import AlreadyTracked, ConfigurationError, InvalidMessage, NoPresence, PubSubClosed
from eventstore.mailbox import Mailbox
from eventstore.pubsub.hub import CONNECTION, PubSub
from eventstore.service import Clock, LoopClock, Tasks, to_its_end
from eventstore.tracker.clocks import Replica
from eventstore.tracker.listing import Diff
from eventstore.tracker.owners import AnyOwner, OwnerRef, Owners
from eventstore.tracker.protocol import Options, Protocol
from eventstore.tracker.shard import Handler, Shard, copied, entry

__all__ = ["Tracker"]

log = logging.getLogger(__name__)

FAREWELL_WITHIN = 2.0
"""Seconds that telling the others of the end may take."""

_PROBE = "message[0][0][0][0]"
"""Where a presence lies in what it is tried in."""

Meta = Mapping[str, Any]

LARGEST = 1 << 20
"""Characters of one presence as it is sent: topic, key and meta. Every adapter takes that in one message."""


class Tracker:
    """Presences of owners under topics and keys, replicated to every node that runs a tracker of this name.

    Each node decides about its own presences alone and tells the others; nobody decides for all, so nobody has to be
    asked, and what different nodes list agrees a moment later. Used as ``async with Tracker(handler, name, pubsub)``.

    Args:
        handler: told of every join and leave; see `Handler`.
        name: nodes whose trackers have one name share presences.
        pubsub: an open PubSub; borrowed.
        pool_size: shards, by topic; must be the same on all nodes.
        broadcast_period: seconds between two ticks, at each of which a node tells what it changed.
        max_silent_periods: a node that changes nothing says that it lives every so many ticks.
        down_period: seconds of silence after which a node's presences are hidden; by default
            ``broadcast_period * max_silent_periods * 2``.
        permdown_period: seconds of silence after which they are forgotten.
        clock_sample_periods: every so many ticks a node asks for what it missed.
        max_delta_sizes: sizes of the recent past kept to answer that without sending everything.
        permdown_on_shutdown: `close` tells the others to forget this node at once, instead of leaving them to notice.
        link_owners: owners whose presences were lost with a crashed shard end, too.
        clock: time and waiting; tests bring their own.
        rng: spreads the first ticks of nodes that start together.

    Raises:
        ConfigurationError: an option is out of range, or down_period is shorter than two broadcast periods, or
            permdown_period not longer than down_period.
    """

    def __init__(
        self,
        handler: Handler,
        name: str,
        pubsub: PubSub,
        *,
        pool_size: int = 1,
        broadcast_period: float = 1.5,
        max_silent_periods: int = 10,
        down_period: float | None = None,
        permdown_period: float = 1200.0,
        clock_sample_periods: int = 2,
        max_delta_sizes: tuple[int, ...] = (100, 1000, 10_000),
        permdown_on_shutdown: bool = False,
        link_owners: bool = False,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError("a tracker needs a name")
        if inspect.isclass(handler) or not hasattr(handler, "handle_diff"):
            raise ConfigurationError("the handler of a tracker has `async handle_diff(diff, state) -> state`")
        if not hasattr(pubsub, "broadcast_from"):
            raise ConfigurationError(f"a tracker needs a PubSub, not {type(pubsub).__name__}")
        if type(pool_size) is not int or not 1 <= pool_size <= 1024:
            raise ConfigurationError(f"pool_size must be a whole number from 1 to 1024, not {pool_size!r}")
        self.name, self.pool_size = name, pool_size
        self._options = Options(
            broadcast_period=broadcast_period,
            max_silent_periods=max_silent_periods,
            down_period=down_period,
            permdown_period=permdown_period,
            clock_sample_periods=clock_sample_periods,
            max_delta_sizes=max_delta_sizes,
        )
        self._handler, self._pubsub = handler, pubsub
        self._permdown_on_shutdown, self._link_owners = permdown_on_shutdown, link_owners
        self._clock, self._rng = clock or LoopClock(), rng
        self._owners = Owners(pubsub.node_name, uuid4().hex[:8], self._owner_ended)
        self._shards: builtins.list[Shard] = []
        self._restarts: deque[float] = deque(maxlen=2 * pool_size)
        self._tasks = Tasks()
        self._refs, self._life = 0, uuid4().hex[:8]
        self._connection: Mailbox[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- opening and closing

    async def __aenter__(self) -> Self:
        if self._shards:
            raise ConfigurationError(f"the tracker {self.name!r} was opened before; make a new one")
        if self._pubsub.closed:
            raise PubSubClosed(f"the tracker {self.name!r} needs an open PubSub")
        self._loop = asyncio.get_running_loop()
        for number in range(self.pool_size):
            shard = Shard(
                f"phx_presence:{self.name}:{number}",
                self._pubsub,
                self._handler,
                self._options,
                self._pubsub.node_name,
                self._clock,
                self._rng,
                self._may_restart,
                self._shard_crashed,
            )
            shard.listen()
            self._shards.append(shard)
            self._tasks.spawn(f"tracker shard {number}", shard.run())
            self._tasks.spawn(f"tracker sender {number}", shard.send())
        self._connection = Mailbox(10, name="a tracker's connection")
        self._pubsub.subscribe(CONNECTION, self._connection)
        self._tasks.spawn("tracker connection", self._follow_connection(self._connection))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop. The others notice after their down_period, or at once with ``permdown_on_shutdown``."""
        if self._permdown_on_shutdown:
            await self.graceful_permdown()
        else:
            self._check_caller()
            await to_its_end(self._stop())

    async def graceful_permdown(self) -> None:
        """Make the others forget this node at once, and stop, within two seconds if nothing can be sent."""
        self._check_caller()
        try:
            async with asyncio.timeout(FAREWELL_WITHIN):
                await asyncio.gather(*(shard.farewell() for shard in self._shards))
        except TimeoutError:
            log.warning("the tracker %r could not say farewell; the others will notice its silence", self.name)
        finally:
            await to_its_end(self._stop())

    def _check_caller(self) -> None:
        if any(shard.is_caller for shard in self._shards):
            raise ConfigurationError("a handler cannot close its own tracker: it would wait for itself; start a task")

    async def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        for shard in self._shards:
            shard.stop()
        await self._tasks.stop()
        self._owners.clear()

    @property
    def closed(self) -> bool:
        """It was not opened yet, or was closed."""
        return self._connection is None or self._connection.closed

    # -- presences of this node

    async def track(self, owner: AnyOwner, topic: str, key: Any, meta: Meta) -> str:
        """Let *owner* be present in *topic* as *key*, until it is untracked or ends.

        Args:
            owner: a task, a mailbox or an `Owner`. A dead one joins and leaves.
            key: a string, a number, or a tuple of them; owners may share it.
            meta: plain data with string keys; ``phx_ref`` is added.

        Returns:
            The reference, new with each change of the presence.

        Raises:
            AlreadyTracked: it is there as that key; use `update`.
            InvalidMessage: key or meta cannot be sent.
            ShardCrashed: the handler failed; the presences of this shard are gone.
            PubSubClosed: the tracker is not open.
        """
        shard, meta = self._shard(topic), self._sendable(topic, key, meta)
        name, alive = self._owners.id_of(owner)

        def change(protocol: Protocol) -> tuple[Diff, str]:
            if protocol.state.get(name, topic, key) is not None:
                raise AlreadyTracked(owner, topic, key)
            reference = self._reference()
            return protocol.state.join(name, topic, key, {**meta, "phx_ref": reference}), reference

        joined = shard.call(change)
        if alive:
            reference: str = await joined
            return reference
        # Both are asked for at once: a caller who gives up in between leaves nothing behind.
        left = shard.call(lambda protocol: (protocol.state.leave(name), None))
        reference = await joined
        await left
        return reference

    async def update(self, owner: AnyOwner, topic: str, key: Any, meta: Meta | Callable[[dict[str, Any]], Meta]) -> str:
        """Replace the meta of a presence, by a value or a function of the one it has.

        Everybody sees one change that holds leave and join. ``phx_ref`` is new, ``phx_ref_prev`` the one before.

        Raises:
            NoPresence: *owner* is not in *topic* as *key*.
            InvalidMessage, ShardCrashed, PubSubClosed: as `track`; and what the function raises.
        """
        _check_key(key)
        shard, name = self._shard(topic), self._owners.known_as(owner)

        def change(protocol: Protocol) -> tuple[Diff, str]:
            current = protocol.state.get(name, topic, key) if name is not None else None
            if current is None or name is None:
                raise NoPresence(owner, topic, key)
            new = self._sendable(topic, key, meta(copied(current.meta)) if callable(meta) else meta)
            reference = self._reference()
            references = {"phx_ref": reference, "phx_ref_prev": current.meta["phx_ref"]}
            return protocol.state.update(name, topic, key, {**new, **references}), reference

        reference: str = await shard.call(change)
        return reference

    async def untrack(self, owner: AnyOwner, topic: str | None = None, key: Any = None) -> None:
        """End one presence of *owner*; without a key all in *topic*, without a topic all. None is fine.

        Raises:
            ShardCrashed, PubSubClosed: as `track`.
        """
        self._open()
        if topic is None and key is not None:
            raise ConfigurationError("a key needs its topic: untrack(owner, topic, key)")
        _check_key(key)
        name = self._owners.known_as(owner)
        if name is None:
            return
        if topic is None:
            for shard in self._shards:
                await shard.call(lambda protocol: (protocol.state.leave(name), None))
        elif key is None:
            await self._shard(topic).call(lambda protocol: (protocol.state.leave_topic(name, topic), None))
        else:
            await self._shard(topic).call(lambda protocol: (protocol.state.leave(name, topic, key), None))

    async def send(self, message: Any, topic: str | None = None) -> None:
        """Hand *message* to ``handle_info`` of the shard of *topic*, or of every shard of this node."""
        self._open()
        for shard in self._shards if topic is None else [self._shard(topic)]:
            shard.tell(message)

    # -- who is here

    def list(self, topic: str) -> list[tuple[Any, dict[str, Any]]]:
        """Return (key, meta) of all presences in *topic*, of nodes that are up, in the same order on each."""
        return [entry(presence) for presence in self._state(topic).get_by_topic(topic)]

    def get_by_key(self, topic: str, key: Any) -> builtins.list[tuple[AnyOwner | OwnerRef, dict[str, Any]]]:
        """Return (owner, meta) of all presences in *topic* as *key*; owners of other nodes as `OwnerRef`."""
        _check_key(key)
        found = self._state(topic).get_by_key(topic, key)
        return [(self._owners.of(one.tag.replica.node, str(one.owner)), copied(one.meta)) for one in found]

    def replica(self, topic: str) -> Replica:
        """Return what this node's shard of *topic* is called: a restarted one has another ``vsn``."""
        return self._shard(topic).protocol.replica

    # -- inside

    def _open(self) -> None:
        if self.closed:
            raise PubSubClosed(f"the tracker {self.name!r} is not open; use `async with Tracker(...) as tracker`")
        if self._pubsub.closed:
            raise PubSubClosed(f"the PubSub of the tracker {self.name!r} was closed; nobody would hear of it")

    def _shard(self, topic: str) -> Shard:
        self._open()
        if not isinstance(topic, str):
            raise ConfigurationError(f"a topic is a string, not {type(topic).__name__}")
        return self._shards[crc32(topic.encode("utf-8", "surrogatepass")) % self.pool_size]

    def _state(self, topic: str) -> Any:
        return self._shard(topic).protocol.state

    def _sendable(self, topic: str, key: Any, meta: Any) -> dict[str, Any]:
        if not isinstance(meta, Mapping):
            raise ConfigurationError(f"the meta of a presence is a dict, not {type(meta).__name__}")
        if key is None:
            raise ConfigurationError("a presence needs a key: a string, a number or a tuple")
        _check_key(key)
        plain: dict[str, Any] = copied(dict(meta))
        # As deep as in a delta: what cannot be sent would keep all that is sent with it from the others.
        plain.pop("phx_ref_prev", None)
        try:
            size = len(self._pubsub.codec.encode([[[[[topic, key, plain]]]]]))
        except InvalidMessage as error:
            said = str(error).replace(f"{_PROBE}[1]", "key").replace(f"{_PROBE}[2]", "meta")
            raise InvalidMessage(said) from None
        if size > LARGEST:
            raise InvalidMessage(f"a presence of {size:,} characters is too large ({LARGEST:,} at most)")
        return plain

    def _reference(self) -> str:
        self._refs += 1
        return f"{self._life}.{self._refs:x}"

    def _owner_ended(self, name: str) -> None:
        if self.closed or self._loop is None or self._loop.is_closed():
            return
        if _running_loop() is not self._loop:
            # It was collected by another thread, or by nobody's task.
            self._loop.call_soon_threadsafe(self._owner_ended, name)
            return
        for shard in self._shards:
            shard.call(lambda protocol: (protocol.state.leave(name), None), waits=False)

    def _shard_crashed(self, owners: builtins.list[str]) -> None:
        if self._link_owners:
            for name in dict.fromkeys(owners):
                self._owners.end(name)

    async def _may_restart(self) -> None:
        """At most two restarts a second for each shard: wait for the turn."""
        while len(self._restarts) == self._restarts.maxlen:
            # Again after waiting: other shards may have taken the turn.
            wait = self._restarts[0] + 1.0 - self._clock.time()
            if wait <= 0:
                break
            await self._clock.sleep(wait)
        self._restarts.append(self._clock.time())

    async def _follow_connection(self, states: Mailbox[Any]) -> None:
        async for state in states:
            if state == ("reconnected",):
                for shard in self._shards:
                    shard.resync()


def _check_key(key: Any) -> None:
    if not _is_key(key):
        raise ConfigurationError(f"the key of a presence is a string, a number or a tuple, not {key!r}")


def _is_key(key: Any, level: int = 0) -> bool:
    if isinstance(key, tuple):
        return level < 32 and all(_is_key(part, level + 1) for part in key)
    return key is None or isinstance(key, (str, int, float))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
