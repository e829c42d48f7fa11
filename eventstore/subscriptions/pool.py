"""The emitter pools of one node: its lease, the partitions it claims, the emitters that run them, their checkpoints.

Ownership is decided by the database: the node's lease is one row with one renewal, a partition names its owner and an
epoch, and every write about a partition names both. Local time is only ever used to trust the lease for less long: a
node that could not renew stops its emitters when, by its own clock, the term it was last granted has passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from eventstore.database import Database
from eventstore.errors import AlreadyStarted, CheckpointAheadOfLog, DatabaseUnavailable, EventStoreError, LeaseLost
from eventstore.feed import Feed, Follower
from eventstore.service import Moments, Tasks, on_sigterm
from eventstore.settings import Settings
from eventstore.subscriptions.emitter import Emitter
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Handler

__all__ = ["Pools"]

log = logging.getLogger(__name__)

CANCELLED_WITHIN = 2.0
"""Seconds a handler may take to end when it is cancelled."""

LEAVE_WITHIN = 5.0
"""Seconds the last settlement may take."""

SCANNED_EVERY = 5.0
"""Seconds between checkpoints that only record how far a partition looked without finding anything."""


class Pools:
    """Runs the partitions this node owns, of every subscription it has a handler for.

    Attributes:
        moments: ``claimed``, ``lost`` and ``halted`` (with the claim), ``settled`` (with how many checkpoints),
            ``renewed``, ``draining``, and those of the emitters.
        changed: set whenever `holdings` may have changed; whoever waits for it clears it.
        halted: the partitions that stopped with an error only an operator can cure, by subscription and number.
    """

    def __init__(
        self,
        database: Database,
        control: Database,
        feed: Feed,
        node_name: str,
        settings: Settings,
        jittered: Callable[[float], float],
    ) -> None:
        self._database, self._control, self._feed = database, control, feed
        self._ledger = Ledger(control)
        self._node_name, self._settings, self._jittered = node_name, settings, jittered
        self._handlers: Mapping[str, Handler] = {}
        self._active = self._ending = False
        self._running: dict[tuple[int, int], _Running] = {}
        self._closed = False
        self._new_events()
        self._node: UUID | None = None
        self._lost: dict[asyncio.Task[None], Claim] = {}
        self._halted: set[tuple[int, int]] = set()
        self.moments = Moments()
        self.halted: dict[tuple[str, int], BaseException] = {}

    @property
    def active(self) -> bool:
        """Whether `run` is under way."""
        return self._active

    @property
    def emitters(self) -> list[Emitter]:
        """The emitters that run on this node."""
        return [running.emitter for running in self._running.values()]

    @property
    def holdings(self) -> tuple[UUID | None, list[tuple[str, int]]]:
        """This incarnation, None without a lease, and the partitions it runs, by subscription and number."""
        node = self._node if self._registered.is_set() else None
        return node, sorted((one.claim.name, one.claim.partition) for one in self.emitters)

    def drain(self) -> None:
        """Let `run` end: handlers finish what they have in hand, it is settled, and everything is given back."""
        self._draining.set()

    def _new_events(self) -> None:
        self._draining, self._ended, self._registered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.changed = asyncio.Event()
        self._ended.set()

    async def start(self, _dsn: str, _schema: str) -> None:
        """Let `run` be called."""
        self._new_events()  # of this event loop
        self._closed = False

    async def stop(self) -> None:
        """Drain, and wait until `run` has ended; a `run` that has not begun ends at once."""
        self._closed = True
        self.drain()
        await self._ended.wait()

    async def run(self, handlers: Mapping[str, Handler], prepare: Callable[[], Awaitable[None]]) -> None:
        """Await *prepare*, then claim and emit until drained. SIGTERM drains.

        Cancelled, it settles what is handled and does not wait for handlers.

        Raises:
            AlreadyStarted: it runs already.
        """
        if self._active:
            raise AlreadyStarted("the emitters of this store run already")
        if self._closed:
            return
        self._active, self._ending, self._handlers = True, False, handlers
        self._draining.clear()
        self._ended.clear()
        tasks, claims = Tasks(), Tasks()
        async with AsyncExitStack() as closing:
            closing.callback(self._end)
            closing.enter_context(on_sigterm(self.drain))
            await prepare()
            if self._draining.is_set():
                return
            closing.push_async_callback(tasks.stop)
            closing.push_async_callback(self._leave)
            closing.push_async_callback(self._stop_emitters, 0)
            closing.push_async_callback(claims.stop)
            tasks.supervise("lease", self._hold_lease, most=1.0)
            tasks.supervise("settlements", self._settle_again_and_again, most=1.0)
            claims.supervise("claims", self._claim_again_and_again, most=1.0)
            await self._draining.wait()
            await claims.stop()
            await self._stop_emitters(self._settings.drain_grace)

    def _end(self) -> None:
        self._active = False
        self._halted.clear()
        self._ended.set()

    async def _hold_lease(self, healthy: Callable[[], None]) -> None:
        """Take a lease as a new incarnation and renew it until it is lost; then everything it held is lost too."""
        loop, ttl, node = asyncio.get_running_loop(), self._settings.lease_ttl, uuid4()
        try:
            asked = loop.time()
            await self._ledger.register(node, self._node_name, ttl)
            self._node = node
            self._halted.clear()
            self._registered.set()
            self.changed.set()
            while True:
                await asyncio.sleep(min(self._jittered(ttl / 3), max(0.0, asked + ttl - loop.time())))
                asked = await self._renewed(node, asked)
                healthy()
                self.moments.reach("renewed")
        except Exception:
            self._registered.clear()
            self.changed.set()
            self._lose(list(self._running.values()))
            raise

    async def _renewed(self, node: UUID, asked: float) -> float:
        """Renew, and return when that was asked for, by this node's clock."""
        loop, ttl = asyncio.get_running_loop(), self._settings.lease_ttl
        now = loop.time()
        if now >= asked + ttl:
            raise LeaseLost(f"the event loop was blocked, or the database away, for {now - asked:.1f} s: lease lost")
        try:
            async with asyncio.timeout_at(asked + ttl):
                if await self._ledger.renew(node, ttl):
                    return now
        except TimeoutError:
            raise LeaseLost("the lease could not be renewed in time") from None
        except DatabaseUnavailable as error:
            log.warning("the lease could not be renewed: %s", error)
            await asyncio.sleep(min(0.1, ttl / 10))
            return asked
        raise LeaseLost("the lease ran out before it was renewed")

    async def _claim_again_and_again(self, healthy: Callable[[], None]) -> None:
        while True:
            await self._registered.wait()
            await self._drop_what_others_own()
            await self._claim()
            healthy()
            await asyncio.sleep(self._jittered(self._settings.claim_interval))

    async def _drop_what_others_own(self) -> None:
        """Stop what this node no longer owns, also where nothing is to be settled that would tell."""
        running, node = list(self._running.values()), self._node
        if running and node is not None:
            owned = await self._ledger.owned(node)
            self._lose([one for one in running if (*one.emitter.claim.key, one.emitter.claim.epoch) not in owned])

    async def _claim(self) -> None:
        node = self._node
        assert node is not None
        try:
            held = self._running.keys() | self._halted | {lost.key for lost in self._lost.values()}
            claims = await self._ledger.claim(node, list(self._handlers), held)
        except LeaseLost as error:
            # The lease task finds out by itself and registers anew.
            log.warning("%s", error)
            return
        for claim in claims:
            if self._registered.is_set() and node == self._node:
                self._emit(claim)

    def _emit(self, claim: Claim) -> None:
        try:
            claim.check_log()
        except CheckpointAheadOfLog as error:
            self._halt(claim, error)
            return
        self.halted.pop((claim.name, claim.partition), None)
        follower = Follower(self._feed, self._database, self._settings, claim.selector, claim.checkpoint, claim.share)
        emitter = Emitter(claim, self._handlers[claim.name], follower, self._settings, self.moments)
        task = asyncio.get_running_loop().create_task(emitter.run(), name=f"emitter {claim.name}/{claim.partition}")
        task.add_done_callback(lambda ended: self._note_end(claim, ended))
        self._running[claim.key] = _Running(emitter, task)
        self.changed.set()
        log.info("claimed %s, partition %d, epoch %d", claim.name, claim.partition, claim.epoch)
        self.moments.reach("claimed", claim)

    def _note_end(self, claim: Claim, task: asyncio.Task[None]) -> None:
        self._lost.pop(task, None)
        error = None if task.cancelled() else task.exception()
        running = self._running.get(claim.key)
        if running is None or running.task is not task:
            return  # lost before; how it ended is no matter
        if error is not None:
            self._halt(claim, error)
        elif not self._ending:
            # Nobody asked it to end: it is claimed again, from its checkpoint.
            del self._running[claim.key]
            self.changed.set()

    def _halt(self, claim: Claim, error: BaseException) -> None:
        # The partition stays claimed, so that no other node runs into the same; it is free when this node stops.
        self._halted.add(claim.key)
        log.error("%s, partition %d is halted: %s", claim.name, claim.partition, error, exc_info=error)
        self.halted[claim.name, claim.partition] = error
        self.moments.reach("halted", claim)

    async def _settle_again_and_again(self, healthy: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._settings.settle_interval)
            await self._settle()
            healthy()

    async def _settle(self, everything: bool = False) -> None:
        """Write the checkpoints that moved, in one statement; emitters whose claim did not hold are stopped."""
        if self._node is None or not self._due(everything):
            return
        async with self._control.acquire() as connection:
            # Taken on the connection that stores them: had the server crashed in between, the connection would be
            # gone as well, and with it positions that only looked at appends which never committed.
            moved = self._due(everything)
            claims = [(running.emitter.claim, position) for running, position in moved]
            held = await self._ledger.settle(self._node, claims, on=connection)
        now = asyncio.get_running_loop().time()
        for running, position in moved:
            if running.emitter.claim.key in held:
                running.note(position, now)
        self.moments.reach("settled", len(held))
        self._lose([running for running, _ in moved if running.emitter.claim.key not in held])

    def _due(self, everything: bool) -> list[tuple[_Running, int]]:
        now = asyncio.get_running_loop().time()
        due = [(running, running.due(now, everything)) for running in self._running.values()]
        return [(running, position) for running, position in due if position is not None]

    def _lose(self, running: list[_Running]) -> None:
        """Stop emitters whose partitions belong to others now, in the middle of a handler if need be."""
        for lost in running:
            claim = lost.emitter.claim
            if self._running.get(claim.key) is lost:
                del self._running[claim.key]
                self.changed.set()
            # Until it has ended, which a handler can delay, this node does not claim the partition again.
            if not lost.task.done():
                self._lost[lost.task] = claim
            lost.emitter.stop()
            lost.task.cancel()
            log.warning("lost %s, partition %d, epoch %d", claim.name, claim.partition, claim.epoch)
            self.moments.reach("lost", claim)

    async def _stop_emitters(self, grace: float) -> None:
        """Let every emitter end after the event it handles, within *grace* seconds; then cancel them."""
        self._ending = True
        for emitter in self.emitters:
            emitter.stop()
        self.moments.reach("draining")
        tasks = {running.task: running.emitter.claim for running in self._running.values()} | self._lost
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for task in tasks:
                task.cancel()
            _, stuck = await asyncio.wait(tasks, timeout=CANCELLED_WITHIN)
            for task in stuck:
                log.error("the handler of %r ignores its cancellation; it is left behind", tasks[task].name)

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_WITHIN):
                await self._settle(everything=True)
                if self._node is not None:
                    await self._ledger.leave(self._node)
        except (EventStoreError, TimeoutError) as error:
            reason = error if str(error) else "the database did not answer in time"
            log.warning("could not settle before leaving: %s; what is unsettled is delivered again", reason)
        self._running.clear()
        self._node = None


class _Running:
    """An emitter, its task, and what has been settled for it."""

    def __init__(self, emitter: Emitter, task: asyncio.Task[None]) -> None:
        self.emitter, self.task = emitter, task
        self.settled = emitter.claim.checkpoint
        self.settled_at = 0.0

    def note(self, position: int, now: float) -> None:
        """Take note that the checkpoint is stored."""
        self.settled, self.settled_at = position, now
        self.emitter.settled(position)

    def due(self, now: float, everything: bool) -> int | None:
        """Return the position to settle, or None if it can wait."""
        position = self.emitter.position
        if position <= self.settled:
            return None
        if everything or self.emitter.handled > self.settled or now - self.settled_at > SCANNED_EVERY:
            return position
        return None
