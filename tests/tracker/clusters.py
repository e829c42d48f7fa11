"""Nodes with a tracker each, on any adapter, whose time moves only by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

from eventstore.mailbox import Mailbox
from eventstore.pubsub import Adapter, Local, PubSub
from eventstore.pubsub.adapter import Envelope, Receiver
from eventstore.tracker.shard import Shard, TopicDiff
from eventstore.tracker.tracker import Tracker
from tests.pubsub.nodes import Adapters

WITHIN = 60.0
"""Seconds of real time that a test waits for something."""

PERIODS: dict[str, Any] = {"broadcast_period": 1.0, "max_silent_periods": 5, "permdown_period": 30.0}
"""Ticks of one second, a heartbeat every five; down after ten seconds of silence, forgotten after thirty."""

TOPIC = "phx_presence:t:0"


class HandMoved:
    """A clock that stands still until `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: dict[asyncio.Timeout, float] = {}
        self.sleeping = 0

    def time(self) -> float:
        return self._now

    @property
    def parked(self) -> int:
        """How many wait for time to pass."""
        return len(self._timers)

    async def sleep(self, seconds: float) -> None:
        self.sleeping += 1
        try:
            await self.wait(asyncio.Event(), seconds)
        finally:
            self.sleeping -= 1

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        due = self._now + seconds
        if due <= self._now:
            await asyncio.sleep(0)
            return event.is_set()
        try:
            async with asyncio.timeout(None) as timer:
                self._timers[timer] = due
                try:
                    await event.wait()
                finally:
                    self._timers.pop(timer, None)
        except TimeoutError:
            return False
        return True

    def advance(self, upto: float) -> bool:
        """Go to the next moment somebody waits for, *upto* at most; tell whether there was one."""
        next_ = min(self._timers.values(), default=upto)
        self._now = max(self._now, min(upto, next_))
        due = [timer for timer, at in self._timers.items() if at <= self._now]
        for timer in due:
            del self._timers[timer]
            timer.reschedule(0)
        return bool(due)


class Tap:
    """Adapter around another one that shows, drops and holds back what trackers say.

    Attributes:
        said: the messages of trackers, in order.
        drops: which of them are lost; a tap that is `cut` loses all, and what comes in, too.
        holding: what is kept until `let_go`; None: nothing is.
    """

    def __init__(self, inner: Adapter) -> None:
        self._inner = inner
        self.node_name = inner.node_name
        self.said: list[tuple[Any, ...]] = []
        self.drops: Callable[[tuple[Any, ...]], bool] = lambda _: False
        self.holding: list[tuple[str | None, Envelope]] | None = None
        self.cut = False
        self.under_way = 0
        self.codec: Any = None

    async def start(self, deliver: Receiver) -> None:
        await self._inner.start(_Cut(self, deliver))

    async def close(self) -> None:
        await self._inner.close()

    async def broadcast(self, envelope: Envelope) -> None:
        await self._send(None, envelope)

    async def direct_broadcast(self, node: str, envelope: Envelope) -> None:
        await self._send(node, envelope)

    async def _send(self, node: str | None, envelope: Envelope) -> None:
        if envelope.topic.startswith("phx_presence:"):
            message = self.codec.decode(envelope.message)
            self.said.append(message)
            if self.cut or self.drops(message):
                return
            if self.holding is not None:
                self.holding.append((node, envelope))
                return
        await self._pass(node, envelope)

    async def _pass(self, node: str | None, envelope: Envelope) -> None:
        self.under_way += 1
        try:
            if node is None:
                await self._inner.broadcast(envelope)
            else:
                await self._inner.direct_broadcast(node, envelope)
        finally:
            self.under_way -= 1

    async def let_go(self) -> None:
        """Send what was held back."""
        held, self.holding = self.holding or [], None
        for one in held:
            await self._pass(*one)

    def kinds(self) -> Counter[str]:
        """How many messages of each kind were said."""
        return Counter(message[0] for message in self.said)


class _Cut:
    def __init__(self, tap: Tap, deliver: Receiver) -> None:
        self._tap, self._deliver = tap, deliver
        self.name, self.origin, self.pool_size = deliver.name, deliver.origin, deliver.pool_size
        self.rejected, self.connection = deliver.rejected, deliver.connection

    def __call__(self, envelope: Envelope) -> None:
        if not (self._tap.cut and envelope.topic.startswith("phx_presence:")):
            self._deliver(envelope)


class Recorder:
    """A handler that counts its calls in its state and keeps what it was told.

    Attributes:
        before: called with the diff, may raise.
    """

    def __init__(self) -> None:
        self.diffs: list[TopicDiff] = []
        self.infos: list[Any] = []
        self.states: list[Any] = []
        self.inits = 0
        self.before: Callable[[Any], Any] = lambda _: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def init(self) -> int:
        self.inits += 1
        return 0

    async def handle_diff(self, diff: TopicDiff, state: int) -> int:
        self.entered.set()
        await self.gate.wait()
        self.before(diff)
        self.diffs.append(diff)
        self.states.append(state)
        return state + 1

    async def handle_info(self, message: Any, state: int) -> int:
        self.before(message)
        self.infos.append(message)
        self.states.append(state)
        return state + 1

    def brief(self) -> list[tuple[list[Any], list[Any]]]:
        """The keys that joined and left, by diff, all topics together."""

        def keys(diff: TopicDiff, side: int) -> list[Any]:
            return [key for both in diff.values() for key, _ in both[side]]

        return [(keys(diff, 0), keys(diff, 1)) for diff in self.diffs]


class Node:
    """One node of a cluster."""

    def __init__(self, pubsub: PubSub, tap: Tap, tracker: Tracker, handler: Any, marks: Mailbox[Any]) -> None:
        self.pubsub, self.tap, self.tracker, self.handler, self.marks = pubsub, tap, tracker, handler, marks

    @property
    def shards(self) -> list[Shard]:
        return [] if self.tracker.closed else self.tracker._shards

    @property
    def shard(self) -> Shard:
        return self.tracker._shards[0]

    def keys(self, topic: str = "room") -> list[Any]:
        return [key for key, _ in self.tracker.list(topic)]

    @property
    def busy(self) -> int:
        """How many of its shards have something to do."""
        return sum(
            bool(len(one._outgoing) or len(one._heard) or one._commands or one._messages or one._wake.is_set())
            for one in self.shards
        )


class Cluster:
    """Nodes of one PubSub with one tracker name."""

    def __init__(self, adapter_of: Adapters) -> None:
        self.adapter_of = adapter_of
        self.name, self.clock = f"chat {uuid4().hex}", HandMoved()
        self.nodes: list[Node] = []
        self.stack = AsyncExitStack()
        self._marks = 0

    async def node(self, name: str, handler: Any = None, **options: Any) -> Node:
        """Open one more node, or one that was closed, again; it has not ticked yet."""
        tap = Tap(self.adapter_of(name))
        pubsub = await self.stack.enter_async_context(PubSub(self.name, tap))
        tap.codec = pubsub.codec
        handler = Recorder() if handler is None else handler
        tracker = Tracker(handler, "t", pubsub, clock=self.clock, rng=lambda: 0.96, **(PERIODS | options))
        await self.stack.enter_async_context(tracker)
        marks: Mailbox[Any] = Mailbox(100_000)
        pubsub.subscribe("marks", marks)
        self.nodes.append(node := Node(pubsub, tap, tracker, handler, marks))
        return node

    async def pair(self, **options: Any) -> tuple[Node, Node]:
        """Open two nodes that know each other."""
        a, b = await self.node("a", **options), await self.node("b", **options)
        await self.ticks(2)
        return a, b

    async def close(self, node: Node) -> None:
        """Close a node's tracker and its PubSub, once the others have heard what it said last."""
        await node.tracker.close()
        await self.settled()
        await self._gone(node)

    async def kill(self, node: Node) -> None:
        """End a node without a word."""
        node.tap.cut = True
        await self.close(node)

    async def _gone(self, node: Node) -> None:
        await node.pubsub.close()
        self.nodes.remove(node)

    async def ticks(self, count: int = 1) -> None:
        """Let *count* seconds pass, which are as many ticks with `PERIODS`."""
        await self.move(float(count))

    async def move(self, seconds: float) -> None:
        """Let time pass; at each moment somebody waits for, everything that follows from it is done."""
        await self.settled()
        upto = self.clock.time() + seconds
        while self.clock.advance(upto) or self.clock.time() < upto:
            await self.settled()

    async def settled(self) -> None:
        """Return when every message was received and dealt with, and every shard waits for time to pass."""
        async with asyncio.timeout(WITHIN):
            before = -1
            while before != (before := sum(len(node.tap.said) for node in self.nodes)):
                await self._quiet()
                if self._marks != before:
                    await self._mark()
                    self._marks = before
                    await self._quiet()  # what came with the marks is not dealt with yet

    async def _quiet(self) -> None:
        rounds = 0
        while rounds < 5:
            shards = sum(len(node.shards) for node in self.nodes)
            # Those that crashed too often sleep over their work.
            busy = sum(node.busy for node in self.nodes) > self.clock.sleeping
            quiet = self.clock.parked >= shards and not busy and not any(node.tap.under_way for node in self.nodes)
            rounds = rounds + 1 if quiet else 0
            await asyncio.sleep(0)

    async def _mark(self) -> None:
        """Return when every node has heard what the others said before."""
        open_ = [node for node in self.nodes if not node.pubsub.closed]
        if not isinstance(open_[0].tap._inner, Local):
            for node in open_:
                await node.pubsub.broadcast("marks", node.pubsub.node_name)
            for node in open_:
                for _ in open_:
                    await node.marks.get()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Return when *condition* holds."""
        async with asyncio.timeout(WITHIN):
            while not condition():
                await asyncio.sleep(0.001)


def topics_of(shards: int, *wanted: int) -> Iterable[str]:
    """Topics that lie in the *wanted* shards of so many."""
    from zlib import crc32

    for number in wanted:
        yield next(f"topic {n}" for n in range(1000) if crc32(f"topic {n}".encode()) % shards == number)
