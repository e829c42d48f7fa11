"""`PubSub`: topics, subscribers and broadcasts, on this node and, through an adapter, on the others."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from collections.abc import Awaitable, Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

from eventstore.errors import BroadcastError, ConfigurationError, InvalidMessage, Overflow, PubSubClosed
from eventstore.mailbox import Mailbox, Rule
from eventstore.pubsub.adapter import Adapter, Envelope, Mode, stats_of
from eventstore.pubsub.codec import Codec, MessageCodec
from eventstore.pubsub.dispatching import Dispatcher, Full, fastlane, flat, to_mailboxes
from eventstore.pubsub.local import Local
from eventstore.pubsub.topics import Subscriber, Topics
from eventstore.service import Moments, Tasks, to_its_end

if TYPE_CHECKING:
    from eventstore.database import Borrowable

__all__ = ["CONNECTION", "PubSub", "Stats", "Subscription"]

log = logging.getLogger(__name__)

CONNECTION = "pubsub:connection"
"""The topic on which each node tells its own subscribers ``("lost",)`` and ``("reconnected",)``: in between messages of
other nodes may have been missed."""

WATCHED = 60.0
"""Seconds for which messages are counted by topic after somebody asked all nodes for their counters."""

MANY_REASONS = 100
"""Reasons to drop something that are told apart: anybody may send rubbish, and the log must not amplify it."""

_STATS = "$stats"
_ANSWER = "$answer"

Interest = Callable[[str, bool], "Awaitable[None] | None"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What one node's PubSub counts; counters since it was opened.

    Attributes:
        subscriptions: of all topics together.
        broadcasts: calls of every kind of broadcast here.
        received: messages that came from other nodes and were delivered here.
        dropped: messages that mailboxes subscribed now have lost by their overflow rule.
        rejected: what arrived and was no message of this cluster, or could not be decoded or dispatched.
        busiest: the topics with the most subscriptions, at most ten.
        adapter: the adapter's own counters.
        messages: the topics with the most messages, at most ten: how many came for subscribers here. They are counted
            from the first `cluster_stats` on, until nobody has asked for `WATCHED` seconds.
    """

    name: str
    node: str
    pool_size: int
    topics: int
    subscriptions: int
    mailboxes: int
    broadcasts: int
    received: int
    dropped: int
    rejected: int
    busiest: dict[str, int]
    adapter: dict[str, int]
    messages: dict[str, int] = field(default_factory=dict)


class Subscription(Mailbox[Any]):
    """A mailbox that is subscribed while its ``async with`` block runs."""

    __slots__ = ("_entered", "_pubsub", "_topics")

    def __init__(self, pubsub: PubSub, topics: tuple[str, ...], maxsize: int, overflow: Rule) -> None:
        super().__init__(maxsize, overflow, name=f"the subscription to {', '.join(topics)}")
        self._pubsub, self._topics, self._entered = pubsub, topics, False

    def __aiter__(self) -> Self:
        self._check_entered()
        return super().__aiter__()

    async def get(self) -> Any:
        """Return the next message; see `Mailbox.get`."""
        self._check_entered()
        return await super().get()

    async def take(self, most: int) -> list[Any]:
        """Return what is queued; see `Mailbox.take`."""
        self._check_entered()
        return await super().take(most)

    def _check_entered(self) -> None:
        if not self._entered:
            raise ConfigurationError("nothing would ever arrive: use `async with pubsub.subscription(...) as messages`")

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigurationError("a subscription is used once; make another one with pubsub.subscription(...)")
        self._entered = True
        try:
            ready = [self._pubsub.subscribe(topic, self) for topic in self._topics]
            self._pubsub._owned.add(self)
            for one in ready:
                if one is not None:
                    await one
        except BaseException:
            self.close()
            raise
        return self


class PubSub:
    """Publish and subscribe by topic, across the nodes that share a name and an adapter's medium.

    Messages are delivered at most once, never replayed, and in order for each pair of sender and receiver; a sender
    is a task. ``async with PubSub("chat", Postgres(dsn, node_name="a")) as pubsub`` opens it.

    Args:
        name: nodes of one name reach each other.
        adapter: `Local` by default: this node is alone.
        pool_size: shards this node listens on; 1 by default.
        broadcast_pool_size: shards it sends on, by default as many. A live cluster grows in two steps: first every
            node gets the larger pool_size with the old broadcast_pool_size, then both.
        registry_size: partitions of the subscription table, by default pool_size if given, else a quarter of the
            cores; a dispatcher is called once for each that has entries.
        codec: what survives the wire; `Codec` (JSON) by default.

    Attributes:
        codec: where models are registered: ``pubsub.codec.register(Model)``.
        moments: ``lost``, ``reconnected``, ``received``.

    Raises:
        ConfigurationError: an option is out of range; on entering: whatever the adapter refuses.
        DatabaseUnavailable: on entering: the adapter's medium cannot be reached.
    """

    def __init__(
        self,
        name: str,
        adapter: Adapter | None = None,
        *,
        pool_size: int | None = None,
        broadcast_pool_size: int | None = None,
        registry_size: int | None = None,
        codec: MessageCodec | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a PubSub needs a name, a string, not {name!r}")
        if adapter is not None and not hasattr(adapter, "direct_broadcast"):
            raise ConfigurationError(
                f"adapter must be an adapter, such as Postgres(dsn, node_name=…), not {type(adapter).__name__}"
            )
        self.name, self.adapter = name, adapter or Local()
        self.pool_size = _size("pool_size", pool_size, 1)
        self.broadcast_pool_size = _size("broadcast_pool_size", broadcast_pool_size, self.pool_size)
        quarter = -(-(os.cpu_count() or 1) // 4)
        self.registry_size = _size("registry_size", registry_size, quarter if pool_size is None else pool_size)
        if self.pool_size < self.broadcast_pool_size:
            raise ConfigurationError(
                f"pool_size {self.pool_size} is smaller than broadcast_pool_size {self.broadcast_pool_size}: nobody "
                "would hear the shards between them; raise pool_size on every node first"
            )
        self.codec: Any = codec or Codec()
        self.moments = Moments()
        self.origin = uuid4().hex
        self._topics = Topics(self.registry_size, self._interested)
        self._interests: list[Interest] = []
        self._ready: dict[str, list[Awaitable[None]]] = {}
        self._dispatchers: dict[str, Dispatcher] = {"fastlane": fastlane}
        self._owned: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._kept_local: list[Callable[[str], bool]] = [CONNECTION.__eq__]
        self._closing: asyncio.Future[None] | None = None
        self._answers: dict[str, list[Stats]] = {}
        self._tasks = Tasks()
        self._open = False
        self._broadcasts = self._received = self._rejected = 0
        self._reasons: dict[str, int] = {}
        # Of the topics that have subscribers, and no others. None: nobody looks, and a broadcast is spared the tenth.
        self._messages: dict[str, int] | None = None
        self._unwatched: asyncio.TimerHandle | None = None

    # -- opening and closing

    @property
    def node_name(self) -> str:
        """How this node is called by `direct_broadcast`."""
        return self.adapter.node_name

    @property
    def closed(self) -> bool:
        """It was not opened yet, or was closed."""
        return not self._open

    async def __aenter__(self) -> Self:
        if self._open:
            raise ConfigurationError(f"the PubSub {self.name!r} is open already")
        _check_node_name(self.node_name)
        self._open, self._closing, self.origin = True, None, uuid4().hex
        self._broadcasts = self._received = self._rejected = 0
        try:
            await self.adapter.start(_Inbox(self))
            if not self._open:
                await to_its_end(self.adapter.close())
                raise PubSubClosed(f"the PubSub {self.name!r} was closed while it was opened")
        except BaseException:
            self._open = False
            self._topics.clear()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every subscription of this node, and iterations over those of `subscription`. Closing twice is fine."""
        if self._open:
            self._open = False
            self._closing = asyncio.ensure_future(self._close())
        if self._closing is not None:
            await to_its_end(self._closing)

    async def _close(self) -> None:
        for subscription in tuple(self._owned):
            subscription.close()
        self._topics.clear()
        self._forget_messages()
        await self._tasks.stop()
        await self.adapter.close()

    # -- subscribing

    def subscribe(self, topic: str, mailbox: Mailbox[Any], metadata: Any = None) -> Awaitable[None] | None:
        """Put what is broadcast on *topic* into *mailbox*, until it ends or unsubscribes.

        Subscribing again doubles what it gets. *metadata* is for dispatchers.

        Returns:
            None nearly always. Where somebody has to begin to publish first, as the store does for its events, what
            to await in order to know that it did.

        Raises:
            PubSubClosed: it is not open.
        """
        self._check(topic)
        _check_mailbox(mailbox)
        self._topics.add(topic, mailbox, metadata)
        waiting = self._ready.get(topic)
        return _Ready(waiting) if waiting else None

    def unsubscribe(self, topic: str, mailbox: Mailbox[Any]) -> None:
        """End every subscription of *mailbox* to *topic*; what is queued stays. None is fine."""
        self._topics.remove(topic, mailbox)

    def subscription(self, *topics: str, maxsize: int = 1000, overflow: Rule = "drop_oldest") -> Subscription:
        """Return a mailbox that is subscribed inside an ``async with`` block; iterate over it for the messages.

        It ends with the block, and when the PubSub is closed.
        """
        if not topics:
            raise ConfigurationError("subscription() needs a topic")
        for topic in topics:
            _check_topic(topic)
        return Subscription(self, topics, maxsize, overflow)

    def subscribed(self, topic: str) -> bool:
        """Whether anybody on this node subscribed to *topic*."""
        return topic in self._topics

    def on_interest(self, callback: Interest) -> None:
        """Call *callback* with a topic and True when its first subscriber comes, and False when its last one goes.

        It may return a future that is done once messages of that topic will arrive.
        """
        self._interests.append(callback)

    def keep_local(self, concerned: Callable[[str], bool]) -> None:
        """Never let a message of a topic that is *concerned* leave this node, or come from another."""
        self._kept_local.append(concerned)

    # -- broadcasting

    async def broadcast(
        self,
        topic: str,
        message: Any,
        *,
        dispatcher: Dispatcher | str | None = None,
        connection: Borrowable | None = None,
    ) -> None:
        """Send *message* to the subscribers of *topic* on every node: the others first, then this one.

        Args:
            dispatcher: how each node delivers it: a registered name, or a function registered on every node.
            connection: an asyncpg connection, SQLAlchemy ``AsyncConnection`` or ``AsyncSession`` with an open
                transaction: every node, this one included, gets the message when that commits, and nobody otherwise.

        Raises:
            InvalidMessage: it would not arrive as it was sent.
            BroadcastError: the adapter could not send it; nobody here got it either.
            Overflow: a full mailbox of this node has the rule ``error``; everybody else got it.
            ConfigurationError: messages of that topic stay on their node.
            PubSubClosed: it is not open.

        With *connection* what the database says is raised as `EventStore.append` raises it there, such as
        `TransactionConflict`, and not as BroadcastError: it concerns the transaction.
        """
        await self._broadcast(topic, message, None, dispatcher, connection)

    async def broadcast_from(
        self, sender: Mailbox[Any], topic: str, message: Any, *, dispatcher: Dispatcher | str | None = None
    ) -> None:
        """As `broadcast`, but *sender* itself does not get it."""
        _check_mailbox(sender)
        await self._broadcast(topic, message, sender, dispatcher, None)

    async def _broadcast(
        self,
        topic: str,
        message: Any,
        sender: Mailbox[Any] | None,
        dispatcher: Dispatcher | str | None,
        connection: Borrowable | None,
    ) -> None:
        self._check(topic)
        self._check_wide(topic)
        name, dispatch = self._resolved(dispatcher, by_name=True)
        mode: Mode = "except" if connection is None else "all"
        envelope = self._envelope(mode, self.node_name, topic, message, name)
        self._broadcasts += 1
        if connection is not None:
            await self._send_in(connection, envelope)
            return
        await self._sent(self.adapter.broadcast(envelope))
        await self._deliver(topic, message, sender, dispatch)

    async def local_broadcast(self, topic: str, message: Any, *, dispatcher: Dispatcher | str | None = None) -> None:
        """Give *message*, the object itself, to the subscribers of *topic* on this node.

        Raises:
            Overflow, PubSubClosed: as `broadcast`; and whatever the dispatcher raises.
        """
        self._check(topic)
        self._broadcasts += 1
        await self._deliver(topic, message, None, self._resolved(dispatcher)[1])

    def local_broadcast_nowait(self, topic: str, message: Any) -> None:
        """As `local_broadcast`, but nobody waits or is told: full mailboxes lose it, by whatever rule, and count that.

        Raises:
            PubSubClosed: it is not open.
        """
        self._check(topic)
        self._broadcasts += 1
        self._lose(self._dispatch(topic, message, None, None))

    async def local_offer(self, topic: str, message: Any) -> int:
        """As `local_broadcast`, but tells how many subscriptions took *message*, instead of raising `Overflow`.

        Raises:
            PubSubClosed: it is not open.
        """
        self._check(topic)
        self._broadcasts += 1
        offered = sum(len(to) for entries in self._topics.entries(topic) for one, to in entries if one() is not None)
        full = self._dispatch(topic, message, None, None)
        blocked, _ = _apart(full)
        await asyncio.gather(*(self._when_room(subscriber, topic, message) for subscriber in blocked))
        waited = sum(1 for subscriber in blocked if subscriber() is not None and topic in subscriber.topics)
        return offered - len(full) + waited

    async def local_broadcast_from(
        self, sender: Mailbox[Any], topic: str, message: Any, *, dispatcher: Dispatcher | str | None = None
    ) -> None:
        """As `local_broadcast`, but *sender* itself does not get it."""
        self._check(topic)
        _check_mailbox(sender)
        self._broadcasts += 1
        await self._deliver(topic, message, sender, self._resolved(dispatcher)[1])

    async def direct_broadcast(
        self, node: str, topic: str, message: Any, *, dispatcher: Dispatcher | str | None = None
    ) -> None:
        """Send *message* to the subscribers of *topic* on *node* only, which may be this one.

        It goes through the codec in any case. Nothing happens if no node has that name.

        Raises:
            InvalidMessage, BroadcastError, PubSubClosed: as `broadcast`.
        """
        self._check(topic)
        self._check_wide(topic)
        if not isinstance(node, str):
            raise ConfigurationError(f"a node's name is a string, not {node!r}")
        name, dispatch = self._resolved(dispatcher, by_name=True)
        self._broadcasts += 1
        envelope = self._envelope("only", node, topic, message, name)
        if node == self.node_name:
            # On the way through the medium it could be overtaken by what the same task broadcasts next.
            await self._deliver(topic, self.codec.decode(envelope.message), None, dispatch)
        else:
            await self._sent(self.adapter.direct_broadcast(node, envelope))

    def register_dispatcher(self, name: str, dispatcher: Dispatcher) -> None:
        """Let messages name *dispatcher*; every node has to register it. See `dispatching.Dispatcher`.

        Raises:
            ConfigurationError: the name is taken by another function, or the function is a coroutine function.
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError("a dispatcher needs a name")
        if not callable(dispatcher) or inspect.iscoroutinefunction(dispatcher):
            raise ConfigurationError(f"the dispatcher {name!r} must be a plain function: it must not wait")
        if self._dispatchers.setdefault(name, dispatcher) != dispatcher:
            raise ConfigurationError(f"another dispatcher is registered as {name!r}")

    # -- what is going on

    def stats(self) -> Stats:
        """Return this node's counters."""
        counts, mailboxes = self._topics.counts(), self._topics.mailboxes()
        busiest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
        return Stats(
            name=self.name,
            node=self.node_name,
            pool_size=self.pool_size,
            topics=len(counts),
            subscriptions=sum(counts.values()),
            mailboxes=len(mailboxes),
            broadcasts=self._broadcasts,
            received=self._received,
            dropped=sum(mailbox.dropped for mailbox in mailboxes),
            rejected=self._rejected,
            busiest=dict(busiest),
            adapter=stats_of(self.adapter),
            messages=dict(sorted((self._messages or {}).items(), key=lambda item: (-item[1], item[0]))[:10]),
        )

    async def cluster_stats(self, *, within: float = 0.5) -> list[Stats]:
        """Return the counters of every node that answers *within* seconds, this one included, by node name.

        Raises:
            BroadcastError, PubSubClosed: as `broadcast`.
        """
        if not self._open:
            raise PubSubClosed(_NOT_OPEN.format(self.name))
        if not within >= 0:
            raise ConfigurationError(f"within must be seconds from 0, not {within!r}")
        ask = uuid4().hex
        answers = self._answers[ask] = [self._watched()]
        try:
            question = {"ask": ask, "node": self.node_name}
            await self._sent(self.adapter.broadcast(self._envelope("except", self.node_name, _STATS, question, None)))
            await asyncio.sleep(within)
        finally:
            del self._answers[ask]
        return sorted(answers, key=lambda stats: stats.node)

    # -- inside

    def _watched(self) -> Stats:
        """Return the counters to somebody who is going to ask again: messages are counted by topic from now on."""
        if self._unwatched is not None:
            self._unwatched.cancel()
        self._unwatched = asyncio.get_running_loop().call_later(WATCHED, self._forget_messages)
        if self._messages is None:
            self._messages = {}
        return self.stats()

    def _forget_messages(self) -> None:
        if self._unwatched is not None:
            self._unwatched.cancel()
        self._unwatched = self._messages = None

    def _check(self, topic: str) -> None:
        if not self._open:
            raise PubSubClosed(_NOT_OPEN.format(self.name))
        _check_topic(topic)

    def _resolved(
        self, dispatcher: Dispatcher | str | None, *, by_name: bool = False
    ) -> tuple[str | None, Dispatcher | None]:
        """Return name and function of *dispatcher*; what is to be sent must have a name."""
        if dispatcher is None:
            return None, None
        if isinstance(dispatcher, str):
            if dispatcher not in self._dispatchers:
                raise ConfigurationError(f"no dispatcher {dispatcher!r}; register_dispatcher() it on every node")
            return dispatcher, self._dispatchers[dispatcher]
        name = next((name for name, one in self._dispatchers.items() if one == dispatcher), None)
        if name is None and by_name:
            raise ConfigurationError(
                "other nodes find a dispatcher by its name; register_dispatcher() it on every node"
            )
        return name, dispatcher

    def _envelope(self, mode: Mode, node: str, topic: str, message: Any, dispatcher: str | None) -> Envelope:
        # One sender's messages share a shard, so that their order survives whatever their topics.
        shard = 0 if self.broadcast_pool_size == 1 else _sender() % self.broadcast_pool_size
        return Envelope(mode, node, self.origin, topic, self.codec.encode(message), dispatcher, shard)

    async def _sent(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except (InvalidMessage, PubSubClosed):
            raise
        except Exception as error:
            raise BroadcastError(f"the message was not sent: {error}") from error

    async def _send_in(self, connection: Borrowable, envelope: Envelope) -> None:
        send: Any = getattr(self.adapter, "broadcast_in", None)
        if send is None:
            raise ConfigurationError(
                f"connection= needs an adapter that sends inside transactions, as Postgres does; this is "
                f"{type(self.adapter).__name__}"
            )
        await send(connection, envelope)

    async def _deliver(
        self, topic: str, message: Any, sender: Mailbox[Any] | None, dispatch: Dispatcher | None
    ) -> None:
        """Dispatch here; wait for full mailboxes that ask for it, after everybody else got the message."""
        if full := self._dispatch(topic, message, sender, dispatch):
            blocked, refused = _apart(full)
            await asyncio.gather(*(self._when_room(subscriber, topic, message) for subscriber in blocked))
            if refused:
                raise Overflow(f"{len(refused)} of the subscribers of {topic!r} were full: {', '.join(refused[:3])}")

    async def _when_room(self, subscriber: Subscriber, topic: str, message: Any) -> None:
        """Queue *message* once there is room. Who waits keeps no mailbox alive, nor waits for one that unsubscribed."""
        waited = False
        while (mailbox := subscriber()) is not None and topic in subscriber.topics:
            try:
                mailbox.put_nowait(message)
            except Overflow:
                room = mailbox.room(first=waited)
            else:
                return
            subscriber.waiting.add(room)
            waited, mailbox = True, None
            try:
                await room
            except BaseException:
                if room.done() and not room.cancelled() and (mailbox := subscriber()) is not None:
                    mailbox.pass_on()
                raise
            finally:
                subscriber.waiting.discard(room)

    def _lose(self, full: Full) -> None:
        for subscriber in full:
            if (mailbox := subscriber()) is not None:
                mailbox.dropped += 1

    def _dispatch(self, topic: str, message: Any, sender: Mailbox[Any] | None, dispatch: Dispatcher | None) -> Full:
        full: Full = []
        found = self._topics.entries(topic)
        if self._messages is not None and found:
            self._messages[topic] = self._messages.get(topic, 0) + 1
        for entries in found:
            if dispatch is None:
                full += to_mailboxes(entries, sender, message)
            elif flattened := flat(entries):
                dispatch(flattened, sender, message)
        return full

    def _receive(self, envelope: Envelope) -> None:
        if envelope.mode == "only":
            if envelope.node != self.node_name:
                return
        elif envelope.mode == "except" and envelope.origin == self.origin:
            return
        if envelope.topic not in self._topics and not envelope.topic.startswith("$"):
            return
        if any(concerned(envelope.topic) for concerned in self._kept_local):
            raise InvalidMessage("its topic is one whose messages stay on their node")
        message = self.codec.decode(envelope.message)
        if envelope.topic.startswith("$"):
            self._internal(envelope.topic, message)
            return
        name = envelope.dispatcher
        if name is not None and name not in self._dispatchers:
            raise InvalidMessage(f"no dispatcher {name!r} is registered on this node")
        full = self._dispatch(envelope.topic, message, None, self._dispatchers[name] if name is not None else None)
        self._lose(full)  # there is no sender here who could wait or be told
        self._received += 1
        self.moments.reach("received", envelope)

    def _internal(self, topic: str, message: Any) -> None:
        if topic == _STATS:
            answer = {"ask": message["ask"], "stats": asdict(self._watched())}
            envelope = self._envelope("only", message["node"], _ANSWER, answer, None)
            self._tasks.spawn("stats", self._sent(self.adapter.direct_broadcast(message["node"], envelope)))
        elif topic == _ANSWER and (answers := self._answers.get(message["ask"])) is not None:
            answers.append(Stats(**message["stats"]))

    def _reject(self, reason: str) -> None:
        self._rejected += 1
        # Of each reason the first is told, then fewer and fewer; of endlessly many reasons together, too.
        key = reason if reason in self._reasons or len(self._reasons) < MANY_REASONS else ""
        count = self._reasons[key] = self._reasons.get(key, 0) + 1
        if count & (count - 1) == 0:
            log.warning("%s: dropped what arrived: %s (%d until now)", self.name, reason, self._rejected)

    def _connection(self, state: Literal["lost", "reconnected"]) -> None:
        self._lose(self._dispatch(CONNECTION, (state,), None, None))
        self.moments.reach(state)

    def _interested(self, topic: str, wanted: bool) -> None:
        waiting = [ready for callback in self._interests if (ready := _asked(callback, topic, wanted)) is not None]
        if wanted and waiting:
            self._ready[topic] = waiting
        else:
            self._ready.pop(topic, None)
        if not wanted and self._messages is not None:
            self._messages.pop(topic, None)

    def _check_wide(self, topic: str) -> None:
        if any(concerned(topic) for concerned in self._kept_local):
            raise ConfigurationError(f"messages of {topic!r} stay on their node; use local_broadcast")


def _asked(callback: Interest, topic: str, wanted: bool) -> Awaitable[None] | None:
    try:
        return callback(topic, wanted)
    except Exception:
        log.exception("what follows the interest in topics failed")
        return None


_NOT_OPEN = "the PubSub {!r} is not open; use `async with PubSub(...) as pubsub`"


def _apart(full: Full) -> tuple[Full, list[str]]:
    """Return those who are to be waited for, and the names of those who refused; keeps no mailbox alive."""
    blocked, refused = [], []
    for subscriber in full:
        mailbox = subscriber()
        if mailbox is not None and mailbox.overflow == "block":
            blocked.append(subscriber)
        elif mailbox is not None:
            refused.append(mailbox.name)
    return blocked, refused


class _Inbox:
    """The side of a PubSub that its adapter sees: `adapter.Receiver`."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self.name, self.origin, self.pool_size = pubsub.name, pubsub.origin, pubsub.pool_size

    def __call__(self, envelope: Envelope) -> None:
        pubsub = self._pubsub
        if pubsub.closed:
            return
        try:
            pubsub._receive(envelope)
        except InvalidMessage as error:
            pubsub._reject(str(error))
        except Exception:
            pubsub._rejected += 1
            log.exception("%s: a message on %r could not be delivered", self.name, envelope.topic)

    def rejected(self, reason: str) -> None:
        self._pubsub._reject(reason)

    def connection(self, state: Literal["lost", "reconnected"]) -> None:
        self._pubsub._connection(state)


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str) or topic.startswith("$"):
        raise ConfigurationError(f"a topic is a string that does not begin with $, not {topic!r}")


def _check_mailbox(mailbox: object) -> None:
    if not isinstance(mailbox, Mailbox):
        raise ConfigurationError(f"expected a Mailbox, not {type(mailbox).__name__}")


def _size(name: str, given: int | None, default: int) -> int:
    size = default if given is None else given
    if type(size) is not int or not 1 <= size <= 1024:
        raise ConfigurationError(f"{name} must be a whole number from 1 to 1024, not {size!r}")
    return size


def _sender() -> int:
    # Tasks lie in memory at regular distances: a product with Knuth's constant spreads them, in its upper bits.
    return (id(asyncio.current_task()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 40


class _Ready:
    """Awaitable by any number of callers, or by none; who is cancelled or runs out of time disturbs nobody else."""

    def __init__(self, waiting: list[Awaitable[None]]) -> None:
        self._waiting = waiting

    def __await__(self) -> Generator[Any, None, None]:
        return self._all().__await__()

    async def _all(self) -> None:
        for one in self._waiting:
            await asyncio.shield(asyncio.ensure_future(one))


def _check_node_name(name: object) -> None:
    try:
        if not isinstance(name, str) or not name.encode():
            raise ConfigurationError(f"a node_name is a text, not {name!r}")
    except UnicodeEncodeError:
        raise ConfigurationError(f"node_name {name!r} holds lone surrogates, which cannot be sent") from None
