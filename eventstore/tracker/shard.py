"""One shard at work: its protocol in a task of its own, with the handler called for every change."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from typing import Protocol as Interface
from uuid import uuid4

from eventstore.errors import ConfigurationError, EventStoreError, InvalidMessage, PubSubClosed, ShardCrashed
from eventstore.mailbox import Mailbox
from eventstore.service import Clock, Moments
from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Presence
from eventstore.tracker.listing import Diff
from eventstore.tracker.protocol import Options, Outcome, Outgoing, Protocol, halves, is_gossip

__all__ = ["Handler", "Shard", "TopicDiff", "Wire", "copied", "entry"]

log = logging.getLogger(__name__)

TopicDiff: TypeAlias = dict[str, tuple[list[tuple[Any, dict[str, Any]]], list[tuple[Any, dict[str, Any]]]]]
"""By topic: joins and leaves, each (key, meta)."""

HEARD_AT_MOST = 10_000
"""Messages of others that may wait; what is lost beyond is asked for again, as everything lost is."""

SENT_AT_MOST = 1_000
"""Messages that may wait to be sent; beyond that the oldest is left out."""


class Handler(Interface):
    """What a tracker calls, one call at a time in each shard. It may also have ``async init() -> state``, and
    ``async handle_info(message, state) -> state`` for other messages."""

    async def handle_diff(self, diff: TopicDiff, state: Any) -> Any:
        """Take in what came and went; returns the new state. Raising restarts the shard, without its presences."""


class Wire(Interface):
    """The methods of a PubSub that shards use."""

    async def broadcast_from(self, sender: Mailbox[Any], topic: str, message: Any) -> None:
        """Send to all but the sender."""

    async def direct_broadcast(self, node: str, topic: str, message: Any) -> None:
        """Send to one node."""

    def subscribe(self, topic: str, mailbox: Mailbox[Any]) -> object:
        """Receive what others send."""


class _Inbox(Mailbox[Any]):
    """A mailbox that wakes its shard."""

    __slots__ = ("_wake",)

    def __init__(self, wake: asyncio.Event, name: str) -> None:
        super().__init__(HEARD_AT_MOST, name=name)
        self._wake = wake

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        self._wake.set()


@dataclass(slots=True)
class _Command:
    change: Callable[[Protocol], tuple[Diff, Any]]
    done: asyncio.Future[Any]


class Shard:
    """Topics of one hash, on this node.

    Changes are made one after another, and each is done when its call returns: readers see all of it, the handler was
    told, and other nodes are told at the next tick.

    Attributes:
        moments: ``started`` (with the replica), ``crashed`` (with the error), ``ticked``, ``diff``.
    """

    def __init__(
        self,
        topic: str,
        wire: Wire,
        handler: Handler,
        options: Options,
        node: str,
        clock: Clock,
        rng: Callable[[], float],
        may_restart: Callable[[], Awaitable[None]],
        crashed: Callable[[list[str]], None],
    ) -> None:
        self._topic, self._wire, self._handler, self._options = topic, wire, handler, options
        self._node, self._clock, self._rng = node, clock, rng
        self._may_restart, self._crashed = may_restart, crashed
        self._commands: deque[_Command] = deque()
        self._messages: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._heard = _Inbox(self._wake, f"what {topic} hears")
        self._outgoing: Mailbox[Outgoing] = Mailbox(SENT_AT_MOST, name=f"what {topic} sends")
        self._stopped = False
        self._task: asyncio.Task[Any] | None = None
        self.protocol = self._fresh()
        self.moments = Moments()

    def _fresh(self) -> Protocol:
        return Protocol(Replica(self._node, uuid4().hex[:16]), self._options)

    # -- what others call

    @property
    def is_caller(self) -> bool:
        """Whether this is called by the shard's own handler."""
        return self._task is not None and asyncio.current_task() is self._task

    def call(self, change: Callable[[Protocol], tuple[Diff, Any]], *, waits: bool = True) -> asyncio.Future[Any]:
        """Make *change* in its turn; the future is what it returned beside its diff, or the error it raised.

        Raises (in the future):
            ConfigurationError: the caller is the handler of this shard, which would wait for itself.
            ShardCrashed: the handler failed, and the shard begins anew.
        """
        done = asyncio.get_running_loop().create_future()
        if self._stopped:
            _answer(done, error=PubSubClosed("the tracker is closed"))
        elif waits and self.is_caller:
            message = "a handler cannot wait for its own shard: it would wait for itself; start a task for that"
            _answer(done, error=ConfigurationError(message))
        else:
            self._commands.append(_Command(change, done))
            self._wake.set()
        return done

    def tell(self, message: Any) -> None:
        """Hand *message* to the handler's ``handle_info``."""
        self._messages.append(message)
        self._wake.set()

    def resync(self) -> None:
        """Speak at the next tick, so that what was missed on either side is asked for."""
        self.protocol.speak()

    async def farewell(self) -> None:
        """Tell the others that this replica ends for good."""
        await self._send(Outgoing(None, self.protocol.farewell()))

    def stop(self) -> None:
        """Take no more changes, and fail those that wait. What was known is forgotten."""
        self._stopped = True
        self._wake.set()
        self._heard.close()
        self._outgoing.close()
        self._fail(PubSubClosed("the tracker was closed"))
        self.protocol = self._fresh()

    def listen(self) -> None:
        """Receive what other nodes say, from now on."""
        self._wire.subscribe(self._topic, self._heard)

    # -- its tasks

    async def run(self) -> None:
        """Live, crash, and live again."""
        self._task = asyncio.current_task()
        try:
            await self._live_again_and_again()
        finally:
            self._stopped = True
            self._fail(PubSubClosed("the tracker ended"))

    async def _live_again_and_again(self) -> None:
        while not self._stopped:
            try:
                await self._live()
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled():
                    raise
                log.exception("%s: the handler failed; the shard begins anew without its presences", self._topic)
                owners = [str(one.owner) for one in self.protocol.state.own()]
                self.protocol = self._fresh()
                self._fail(ShardCrashed(f"the handler of {self._topic} failed: {error!r}; track again"), error)
                self._crashed(owners)
                self.moments.reach("crashed", error)
                await self._may_restart()

    async def send(self) -> None:
        """Send what the shard has to say, in order."""
        async for outgoing in self._outgoing:
            await self._send(outgoing)

    async def _live(self) -> None:
        init = getattr(self._handler, "init", None)
        state = await init() if init is not None else None
        due = self._clock.time() + self._rng() * self._options.broadcast_period / 4
        self.moments.reach("started", self.protocol.replica)
        while not self._stopped:
            self._wake.clear()
            state = await self._work(state)
            now = self._clock.time()
            if now >= due:
                state = await self._outcome(self.protocol.tick(now), state)
                due = now + self._options.broadcast_period
                self.moments.reach("ticked")
            elif not self._wake.is_set():
                await self._clock.wait(self._wake, due - now)

    async def _work(self, state: Any) -> Any:
        # Only what waits now: callers who always want more must not keep it from its ticks.
        for _ in range(len(self._commands)):
            if self._commands:
                state = await self._change(self._commands[0], state)
            if self._commands:
                self._commands.popleft()
        for message in self._heard.take_nowait(HEARD_AT_MOST):
            state = await self._receive(message, state)
        for _ in range(len(self._messages)):
            state = await self._info(self._messages.popleft(), state)
        return state

    async def _change(self, command: _Command, state: Any) -> Any:
        if command.done.cancelled():
            return state
        try:
            diff, answer = command.change(self.protocol)
        except Exception as error:  # noqa: BLE001 - the caller's, not the shard's
            _answer(command.done, error=error)
            return state
        state = await self._tell_handler(diff, state)
        _answer(command.done, answer)
        return state

    async def _receive(self, message: Any, state: Any) -> Any:
        if not is_gossip(message):
            return await self._info(message, state)
        try:
            outcome = self.protocol.receive(message, self._clock.time())
        except ValueError as error:
            log.warning("%s: ignored a message: %s", self._topic, error)
            return state
        return await self._outcome(outcome, state)

    async def _info(self, message: Any, state: Any) -> Any:
        handle = getattr(self._handler, "handle_info", None)
        return state if handle is None else _checked(await handle(message, state), state, "handle_info")

    async def _outcome(self, outcome: Outcome, state: Any) -> Any:
        for outgoing in outcome.outgoing:
            self._outgoing.put_nowait(outgoing)
        for diff in outcome.diffs:
            state = await self._tell_handler(diff, state)
        return state

    async def _tell_handler(self, diff: Diff, state: Any) -> Any:
        if not diff.joins and not diff.leaves:
            return state
        state = _checked(await self._handler.handle_diff(by_topic(diff), state), state, "handle_diff")
        self.moments.reach("diff", diff)
        return state

    async def _send(self, outgoing: Outgoing) -> None:
        try:
            if outgoing.node is None:
                await self._wire.broadcast_from(self._heard, self._topic, outgoing.message)
            else:
                await self._wire.direct_broadcast(outgoing.node, self._topic, outgoing.message)
        except InvalidMessage:
            # What is too large for the adapter is sent in parts.
            if not (parts := halves(outgoing.message)):
                log.exception("%s: a message cannot be sent", self._topic)
            for part in parts:
                await self._send(Outgoing(outgoing.node, part))
        except EventStoreError as error:
            log.debug("%s: a message was not sent, and will be asked for: %s", self._topic, error)

    def _fail(self, error: Exception, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        while self._commands:
            _answer(self._commands.popleft().done, error=error)


def by_topic(diff: Diff) -> TopicDiff:
    """Return *diff* as handlers get it."""
    found: TopicDiff = {}
    for side, presences in enumerate(diff):
        for presence in presences:
            found.setdefault(presence.topic, ([], []))[side].append(entry(presence))
    return found


def entry(presence: Presence) -> tuple[Any, dict[str, Any]]:
    """Return (key, meta), the meta a copy."""
    return presence.key, copied(presence.meta)


def copied(value: Any) -> Any:
    """Return plain data that shares nothing that can be changed with *value*."""
    kind = type(value)
    if kind is dict:
        return {name: copied(one) if type(one) in _HOLDING else one for name, one in value.items()}
    if kind is list or kind is tuple:
        return kind(copied(one) if type(one) in _HOLDING else one for one in value)
    return value


_HOLDING = frozenset((dict, list, tuple))


def _is_cancelled() -> bool:
    """Whether this task is to end: a handler can also raise the cancellation of something it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _checked(new: Any, old: Any, name: str) -> Any:
    if new is None and old is not None:
        raise ConfigurationError(f"{name} must return the state; it returned None")
    return new


def _answer(done: asyncio.Future[Any], answer: Any = None, *, error: BaseException | None = None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(answer)
    else:
        done.set_exception(error)
        done.exception()  # retrieved, whether the caller still waits or not
