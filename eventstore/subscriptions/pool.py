"""The emitter pools of one node: which partitions it runs, and what happens when one is gained, given back or lost.

Whoever owns a partition is decided by the database. A round asks what this node owns and what it may claim; a round is
due when something changed, when a lease of others ran out, and when something of this node's own has ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, contextmanager
from typing import Any, Protocol
from uuid import UUID, uuid4

from eventstore.counting import Counts, Handled
from eventstore.database import Database
from eventstore.errors import (
    AlreadyStarted,
    CheckpointAheadOfLog,
    ConfigurationError,
    EventStoreError,
    LeaseLost,
    NoProc,
    NoShape,
)
from eventstore.events import Event
from eventstore.feed import Feed, Handle
from eventstore.registry import ConsumerRegistry, DirectConsumer
from eventstore.service import Backoff, Clock, LoopClock, Moments, Tasks, on_sigterm, set_within
from eventstore.settings import Settings
from eventstore.subscriptions.cohort import Cohort, cohorts
from eventstore.subscriptions.delivery import Registration
from eventstore.subscriptions.emitter import Emitter, Halted, Reclaim, Suspect
from eventstore.subscriptions.inlet import Source
from eventstore.subscriptions.lease import Lease
from eventstore.subscriptions.ledger import Ledger, described
from eventstore.subscriptions.model import Claim, Owned
from eventstore.subscriptions.policy import FailurePolicy
from eventstore.subscriptions.policy import load as load_policy
from eventstore.subscriptions.projecting import ProjectingEmitter
from eventstore.subscriptions.settling import Settling
from eventstore.subscriptions.watchdog import Watchdog

__all__ = ["Pools", "Tell"]

log = logging.getLogger(__name__)

CANCELLED_WITHIN = 2.0
"""Seconds a handler may take to end when it is cancelled."""

LEAVE_WITHIN = 10.0
"""Seconds the last settlement may take."""

CRASHES, WITHIN = 10, 60.0
"""An emitter that crashes more often than this within so many seconds halts its partition."""

MOVED_AT_ONCE = 0.1
"""Share of its partitions that a node gives to others in one round: a node that joins gets its share step by step."""


class Tell(Protocol):
    """Who broadcasts what happens to subscriptions."""

    def __call__(self, kind: str, subscription: str | None = None, **payload: Any) -> None:
        """Broadcast; never fails or waits."""


class Pools:
    """Runs the partitions this node owns, of every subscription it has a handler for.

    Attributes:
        moments: ``claimed``, ``lost``, ``released`` and ``halted`` (with the claim), ``settled`` (with how many
            checkpoints), ``renewed``, ``draining``, ``round``, ``checked``, and those of the emitters.
        changed: set whenever `holdings` may have changed; whoever waits for it clears it.
        ready: set while `run` is under way and the first round is over.
        halted: the partitions that this node halted, by subscription and number, with the error.
    """

    def __init__(
        self,
        database: Database,
        lent: Database,
        control: Database,
        feed: Feed,
        node_name: str,
        settings: Settings,
        jittered: Callable[[float], float],
        tell: Tell,
        *,
        told: Callable[[], bool] = lambda: True,
        counts: Counts | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
        identify: Callable[[], UUID] = uuid4,
        alarm: Callable[[float, Callable[[], list[str]]], AbstractContextManager[object]] = Watchdog,
    ) -> None:
        self.database, self.lent, self.feed, self.settings = database, lent, feed, settings
        self.ledger = Ledger(control)
        self.clock, self.rng, self.moments = clock or LoopClock(), rng, Moments()
        self.node_name, self.counts = node_name, counts or Counts()
        self._control, self._jittered, self._tell, self._told = control, jittered, tell, told
        self._identify, self._alarm = identify, alarm
        self._emitters: dict[Handle, Emitter] = {}
        self._active = self._ending = self._closed = False
        self._stopped: set[str] = set()
        self._awaited: list[tuple[str, int]] = []  # also by those who waited before `run`
        self.halted: dict[Handle, BaseException] = {}
        self.ready = asyncio.Event()
        self._new_run()
        feed.deliver_to(self)

    def _new_run(self) -> None:
        self._draining, self._ended, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._ended.set()
        self._tasks, self._reading = Tasks(), Tasks()
        # Keys of what is not to be claimed: it has not quite ended, is being halted, or rests after a crash.
        self._withheld: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._placing: asyncio.Handle | None = None
        self._crashes: dict[Handle, deque[float]] = {}
        self._suspects: dict[Handle, Suspect] = {}
        self._revisions: dict[Handle, int] = {}
        self._suspended: set[Handle] = set()
        self._joined: UUID | None = None
        self._handlers: dict[str, Registration] = {}
        self._more: dict[str, Registration] = {}
        self.lease = Lease(
            self.ledger, self.node_name, self.settings, self._jittered, self.moments, self._lease_lost,
            told=self._told(), identify=self._identify,
        )  # fmt: skip
        self._settling = Settling(self._control, self.settings, self._emitters, self._missed, self.clock, self.moments)
        self._leaving: set[Emitter] = set()
        self.registry: ConsumerRegistry[Handle] = ConsumerRegistry(
            f"emitters of {self.node_name}",
            self._start_consumer,
            self._remove_consumers,
            hibernate_after=self.settings.hibernate_after,
            suspend=True,
            on_suspended=self._consumer_suspended,
            rng=self.rng,
        )

    # -- what is seen from outside

    @property
    def active(self) -> bool:
        """Whether `run` is under way."""
        return self._active

    @property
    def emitters(self) -> list[Emitter]:
        """The emitters of this node."""
        return list(self._emitters.values())

    @property
    def holdings(self) -> tuple[UUID | None, list[Handle]]:
        """This incarnation, None without a lease, and the partitions it runs, by subscription and number."""
        return self.lease.node, sorted(self._emitters)

    def of(self, name: str) -> list[Emitter]:
        """Return the emitters of one subscription on this node."""
        return [one for one in self._emitters.values() if one.claim.name == name]

    def inside(self, name: str) -> bool:
        """Whether a handler of *name* is what runs now: it cannot wait for its own end."""
        current = asyncio.current_task()
        return any(one.task is current for one in self.of(name) if one.task is not None)

    def look(self) -> None:
        """Look for changes at once."""
        self.lease.look()

    # -- running

    async def start(self, _dsn: str, _schema: str) -> None:
        """Let `run` be called."""
        self.ready = asyncio.Event()  # of this event loop, as all that a run has
        self._new_run()
        self._closed = False

    async def stop(self) -> None:
        """Drain, and wait until `run` has ended; a `run` that has not begun ends at once."""
        self._closed = True
        self.drain()
        await self._ended.wait()

    def drain(self) -> None:
        """Let `run` end: handlers finish what they have in hand, it is settled, and everything is given back."""
        self._draining.set()

    async def run(
        self,
        handlers: Mapping[str, Registration],
        prepared: Callable[[], AbstractAsyncContextManager[None]],
        more: Callable[[], Awaitable[Iterable[Registration]]],
        drain_grace: float,
        handle_sigterm: bool = True,
    ) -> None:
        """Enter *prepared*, then claim and emit until drained. SIGTERM drains.

        Cancelled, it settles what is handled and does not wait for handlers.

        Args:
            drain_grace: seconds that handlers may take to finish.
            more: asked at each round which subscriptions are delivered without a handler of this application.

        Raises:
            AlreadyStarted: it runs already.
        """
        if self._active:
            raise AlreadyStarted("the emitters of this store run already")
        if self._closed:
            return
        self._new_run()
        self._active, self._ending, self._handlers = True, False, dict(handlers)
        self._ended.clear()
        async with AsyncExitStack() as closing:
            closing.callback(self._end)
            if handle_sigterm:
                closing.enter_context(on_sigterm(self.drain))
            await closing.enter_async_context(prepared())
            if self._draining.is_set():
                return
            closing.callback(self.database.on_lost(self._pages_lost))
            closing.callback(self.database.on_put_back(self._put_back))
            closing.push_async_callback(self._tasks.stop)
            closing.push_async_callback(self._leave)
            closing.push_async_callback(self.registry.close)
            closing.push_async_callback(self._stop_emitters, 0)
            rounds = Tasks()
            closing.push_async_callback(self._reading.stop)
            closing.push_async_callback(rounds.stop)
            closing.enter_context(self._alarm(self.settings.lease_ttl, self._in_hand))
            self._holding = self._tasks.supervise("lease", self.lease.hold, most=1.0)
            self._tasks.supervise("settlements", lambda ok: self._settling.run(lambda: self.lease.node, ok), most=1.0)
            rounds.supervise("rounds", lambda ok: self._rounds(more, ok), most=1.0)
            rounds.supervise("health", self._check_again_and_again, most=1.0)
            await self._draining.wait()
            await rounds.stop()
            await self._stop_emitters(drain_grace)

    def _end(self) -> None:
        self._active = False
        self.ready.clear()
        self.halted.clear()
        self._ended.set()
        self.changed.set()

    async def _stop_emitters(self, grace: float) -> None:
        """Let every emitter end after the event it handles, within *grace* seconds; then cancel them."""
        self._ending = True
        for emitter in self.emitters:
            emitter.stop()
        self.moments.reach("draining")
        tasks = {one.task: one for one in self.emitters if one.task is not None}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace)
        for task in late:
            emitter = tasks[task]
            if emitter.in_hand is not None and grace > 0:
                log.warning(
                    "%s, partition %d: the event at %d was not handled within %g s, is cancelled and comes again",
                    *emitter.handle, emitter.in_hand[0], grace,
                )  # fmt: skip
        for task in tasks:
            task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=CANCELLED_WITHIN)
        for task in stuck:
            log.error("the handler of %r ignores its cancellation; it is left behind", tasks[task].claim.name)

    async def _leave(self) -> None:
        node, emitters = self.lease.node, self.emitters
        try:
            async with asyncio.timeout(LEAVE_WITHIN):
                await self._settling.store(node, emitters)
        except Exception as error:  # noqa: BLE001 - it is on its way out, whatever the database says
            self._warn_unsettled(error)
        try:
            async with asyncio.timeout(LEAVE_WITHIN):
                if node is not None:
                    # What is given up is not renewed: it would pass for lost, and its partitions with it.
                    self._holding.cancel()
                    await asyncio.wait([self._holding])
                    await self.ledger.leave(node)
                    self._tell_of_node("node_left", node)
        except Exception as error:  # noqa: BLE001 - as above
            self._warn_unsettled(error)
        else:
            for emitter in emitters:
                self._given_back(emitter)
        for emitter in emitters:
            self._forget(emitter)
        self.lease.node = None

    def _warn_unsettled(self, error: Exception) -> None:
        reason = error if str(error) else "the database did not answer in time"
        log.warning("could not settle, or give back, before leaving: %s; what is unsettled is delivered again", reason)

    def _tell_released(self, emitter: Emitter) -> None:
        self.counts.partitions_released += 1
        log.info("released %s, partition %d, epoch %d", *emitter.handle, emitter.claim.epoch)
        self.tell("partition_released", emitter.claim)
        self.moments.reach("released", emitter.claim)

    # -- rounds

    async def _rounds(self, more: Callable[[], Awaitable[Iterable[Registration]]], healthy: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.lease.held.wait()
            if self.lease.node is not None and self.lease.node != self._joined:
                self._joined = self.lease.node
                self._tell_of_node("node_joined", self._joined)
            await self.lease.news.wait()
            self.lease.news.clear()
            began = loop.time()
            try:
                self._more = {one.name: one for one in await more() if one.name not in self._handlers}
                unfinished = await self._round()
            except LeaseLost as error:
                log.warning("%s", error)  # the lease task finds out by itself and registers anew
                self.lease.look()
                unfinished = False
            except BaseException:
                self.lease.news.set()
                raise
            healthy()
            self.ready.set()
            self.moments.reach("round")
            # Rounds over very many partitions take at most a fifth of the time.
            await asyncio.sleep(min(1.0, 4 * (loop.time() - began)))
            if unfinished:
                await set_within(self.lease.news, self._jittered(self.settings.claim_interval))
                self.lease.news.set()

    async def _round(self) -> bool:
        """Give back, lose and claim what has to be; tell whether something is left for the next round."""
        node = self.lease.node
        if node is None:
            return False
        owned = {(each.subscription_id, each.partition, each.epoch): each for each in await self.ledger.owned(node)}
        self._missed([one for one in self.emitters if (*one.claim.key, one.claim.epoch) not in owned])
        left = self._give_back(owned)
        registrations = self._registrations()
        self._replace_outdated(registrations)
        held = {one.claim.key for one in self.emitters} | {key for key, much in self._withheld.items() if much}
        claimed = await self.ledger.claim(
            node,
            [one.name for one in registrations.values() if not one.fallback],
            held,
            [one.name for one in registrations.values() if one.fallback],
        )
        emitters: list[Emitter] = []
        for number, claim in enumerate(claimed.claims, start=1):
            if self.lease.node == node and (emitter := self._emit(claim, registrations)) is not None:
                emitters.append(emitter)
            if number % 100 == 0:  # ten thousand at once would hold up everything else
                await asyncio.sleep(0)
        self._place([one for one in emitters if not one.closed])
        return left or claimed.missing > 0

    def _registrations(self) -> dict[str, Registration]:
        return {name: one for name, one in {**self._more, **self._handlers}.items() if name not in self._stopped}

    def _replace_outdated(self, registrations: Mapping[str, Registration]) -> None:
        """Claim anew what delivers to a sink of before: a round had asked for sinks when this one was changed."""
        for emitter in self.emitters:
            new, old = registrations.get(emitter.claim.name), emitter.registration
            if new is not None and new is not old and not (new.fallback and old.fallback) and not emitter.stopping:
                self._claim_anew(emitter)

    def _give_back(self, owned: Mapping[tuple[int, int, int], Owned]) -> bool:
        """Release what the database says should go; tell whether more is to follow in the next round."""
        leaving: list[Emitter] = []
        shared: list[Emitter] = []
        for emitter in self.emitters:
            each = owned.get((*emitter.claim.key, emitter.claim.epoch))
            if each is None or emitter.stopping:
                continue
            if each.release is not None:
                (shared if each.release == "share" else leaving).append(emitter)
            elif each.parked_revision != self._revisions.get(emitter.handle):
                self._revisions[emitter.handle] = each.parked_revision
                emitter.parked_changed()
        most = max(1, int(len(self._emitters) * MOVED_AT_ONCE))
        self._release(leaving + shared[:most])
        return len(shared) > most

    def _release(self, emitters: list[Emitter]) -> None:
        """Let emitters end after what they have in hand, then settle them and free their partitions."""
        for emitter in emitters:
            emitter.stop()
            emitter.inlet.leave()
        idle = [one for one in emitters if one.task is None]
        if idle:
            self._tasks.spawn("release", self._released(idle))
        for emitter in emitters:
            if emitter.task is not None:
                self._tasks.spawn(f"release {emitter.handle}", self._released([emitter]))

    async def _released(self, emitters: list[Emitter]) -> None:
        tasks = {one.task for one in emitters if one.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.drain_grace)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCELLED_WITHIN)
        node = self.lease.node
        emitters = [one for one in emitters if self._emitters.get(one.handle) is one and not one.closed]
        if node is None or not emitters:
            return
        back = set[tuple[int, int]]()
        try:
            # As in `Settling.store`: positions are taken on the connection that stores them.
            async with self._control.acquire() as connection:
                emitters = [one for one in emitters if not one.closed]  # some may be lost by now
                positions = [(one.claim, one.settleable()) for one in emitters]
                self._leaving.update(emitters)
                back = await self.ledger.release(node, positions, on=connection)
        except EventStoreError as error:
            log.warning("releasing failed: %s; it is claimed and released again", error)
        except Exception:
            log.exception("releasing failed; it is claimed and released again")
        finally:
            self._leaving.difference_update(emitters)
        for emitter in emitters:
            if emitter.claim.key in back:
                self._given_back(emitter)
        if not self._holding.done():  # or the node leaves, which gives back all there is, and tells of it
            self._lose(emitters, "whose release failed, so that nobody knows how far they are settled")
        self.lease.look()
        self.lease.news.set()

    def _given_back(self, emitter: Emitter) -> None:
        if self._emitters.get(emitter.handle) is emitter:  # or a round has found out, and perhaps claimed it anew
            self._forget(emitter)
            self._tell_released(emitter)

    def _missed(self, emitters: Sequence[Emitter]) -> None:
        """Take note that these partitions are not this node's any more: given back just now, or lost."""
        for emitter in self._leaving.intersection(emitters):
            self._given_back(emitter)
        self._lose(emitters)

    def _emit(self, claim: Claim, registrations: Mapping[str, Registration]) -> Emitter | None:
        """Make the emitter of a claimed partition; None if it halts at once."""
        try:
            claim.check_log()
            policy = load_policy(claim.options.get("policy", {}))
        except (CheckpointAheadOfLog, ConfigurationError) as error:
            self._halt(claim, error)
            return None
        emitter = self._new_emitter(claim, registrations[claim.name], policy)
        self.halted.pop(emitter.handle, None)
        if (gone := self._emitters.get(emitter.handle)) is not None:  # of a subscription that had its name before
            self._missed([gone])
        self._emitters[emitter.handle] = emitter
        self._revisions[emitter.handle] = claim.parked_revision
        self.changed.set()
        self.counts.partitions_claimed += 1
        log.info("claimed %s, partition %d, epoch %d", claim.name, claim.partition, claim.epoch)
        self.moments.reach("claimed", claim)
        self.tell("partition_claimed", claim)
        return emitter

    def _new_emitter(self, claim: Claim, registration: Registration, policy: FailurePolicy) -> Emitter:
        if not registration.transactional:
            return Emitter(claim, registration, policy, self)
        emitter = ProjectingEmitter(claim, registration, policy, self)
        emitter.suspect = self._suspects.pop(emitter.handle, None)
        return emitter

    def _place(self, emitters: list[Emitter]) -> None:
        """Let emitters read: together where they are near each other, for themselves otherwise."""
        groups, alone = cohorts(emitters)
        for group in groups:
            cohort = Cohort(group, self.feed, self.database, self.settings, self, self.clock)
            self._reading.spawn(f"cohort of {len(group)}", self._read_together(cohort))
        for emitter in alone:
            emitter.wake()

    async def _read_together(self, cohort: Cohort) -> None:
        try:
            await cohort.run()
        except EventStoreError as error:
            log.warning("reading for several emitters: %s; each goes on for itself", error)

    # -- ends

    def _tell_of_node(self, kind: str, node: UUID) -> None:
        self._tell(kind, node_name=self.node_name, incarnation=str(node))

    def _lease_lost(self) -> None:
        self.counts.leases_lost += 1
        if self._joined is not None:
            self._tell_of_node("node_left", self._joined)
            self._joined = None
        self._lose(self.emitters)
        self.changed.set()

    def _lose(self, emitters: Sequence[Emitter], why: str = "which others own or which are gone") -> None:
        """Stop emitters whose partitions belong to others now, in the middle of a handler if need be."""
        emitters = [one for one in emitters if self._emitters.get(one.handle) is one]
        if emitters:
            some = ", ".join(f"{one.claim.name}/{one.claim.partition}" for one in emitters[:5])
            more = ", …" if len(emitters) > 5 else ""
            log.warning("lost %d partitions, %s: %s%s", len(emitters), why, some, more)
        self.counts.partitions_lost += len(emitters)
        for emitter in emitters:
            self._forget(emitter)
            log.info("lost %s, partition %d, epoch %d", *emitter.handle, emitter.claim.epoch)
            self.tell("partition_lost", emitter.claim)
            self.moments.reach("lost", emitter.claim)

    def _forget(self, emitter: Emitter) -> None:
        """Run it no more. Until it has ended, which a handler can delay, its partition is not claimed again."""
        if self._emitters.get(emitter.handle) is emitter:
            del self._emitters[emitter.handle]
            self._suspended.discard(emitter.handle)
            self._revisions.pop(emitter.handle, None)
            self.registry.remove_consumer(emitter.handle)
        task = emitter.task
        emitter.close()
        self.changed.set()
        if task is not None and not task.done():
            self._withhold(emitter.claim.key)
            task.add_done_callback(lambda _: self._allow(emitter.claim.key))
        else:
            self.lease.news.set()

    def _withhold(self, key: tuple[int, int]) -> None:
        self._withheld[key] += 1

    def _allow(self, key: tuple[int, int]) -> None:
        self._withheld[key] -= 1
        if not self._withheld[key]:
            del self._withheld[key]
        self.lease.news.set()

    def ended(self, emitter: Emitter, error: BaseException) -> None:
        """Decide what follows when an emitter's task failed."""
        if self._emitters.get(emitter.handle) is not emitter:
            return  # lost before; how it ended is no matter
        match error:
            case LeaseLost():
                self._lose([emitter])
            case Halted():
                position = emitter.settled()
                self._forget(emitter)
                self._halt(emitter.claim, error.__cause__ or error, position, error.event)
            case Reclaim():
                if error.suspect is not None:
                    self._suspects[emitter.handle] = error.suspect
                self._claim_anew(emitter)
            case _:
                self._crashed(emitter, error)

    def _crashed(self, emitter: Emitter, error: BaseException) -> None:
        log.error("the emitter of %s, partition %d crashed", *emitter.handle, exc_info=error)
        self.counts.crashes += 1
        message = described(error)[1][:1000]
        self.tell("emitter_crashed", emitter.claim, error=type(error).__name__, message=message)
        now = self.clock.time()
        crashes = self._crashes.setdefault(emitter.handle, deque(maxlen=CRASHES + 1))
        crashes.append(now)
        if len(crashes) > CRASHES and now - crashes[0] <= WITHIN:
            self._forget(emitter)
            self._halt(emitter.claim, error)
        else:
            self._claim_anew(emitter)

    def _claim_anew(self, emitter: Emitter) -> None:
        """Claim the partition again after a moment, with a new epoch, from its stored checkpoint."""
        self._withhold(emitter.claim.key)
        self._forget(emitter)
        pause = Backoff(0.05, 5.0, self.rng)
        suspect = self._suspects.get(emitter.handle)
        pause.attempts = len(self._crashes.get(emitter.handle, ())) + (suspect.times if suspect else 0)
        self._tasks.spawn(f"rest of {emitter.handle}", self._rest(emitter.claim.key, pause.next()))

    async def _rest(self, key: tuple[int, int], seconds: float) -> None:
        try:
            await self.clock.sleep(seconds)
        finally:
            self._allow(key)

    def _halt(
        self, claim: Claim, error: BaseException, position: int | None = None, event: Event | None = None
    ) -> None:
        log.error("%s, partition %d is halted: %s", claim.name, claim.partition, error, exc_info=error)
        self.halted[claim.name, claim.partition] = error
        self.counts.partitions_halted += 1
        self._withhold(claim.key)
        self._tasks.spawn(f"halt of {claim.name}/{claim.partition}", self._store_halt(claim, error, position, event))

    async def _store_halt(self, claim: Claim, error: BaseException, position: int | None, event: Event | None) -> None:
        """Settle up to *position*, and have every node leave the partition alone until an operator resumes it."""
        pause = Backoff(0.05, 5.0, self.rng)
        try:
            while self.lease.node == claim.owner:
                try:
                    await self.ledger.settle_one(claim, position)
                    await self.ledger.halt(claim, error, event)
                    break
                except Exception as failed:  # noqa: BLE001 - whatever it is, an unrecorded halt would be taken up again
                    log.warning("the halt of %s could not be recorded: %r; trying again", claim.name, failed)
                    await self.clock.sleep(pause.next())
        finally:
            self._allow(claim.key)
        about = {"error": type(error).__name__, "message": described(error)[1][:1000]}
        self.tell("partition_halted", claim, **about)
        self._tell("subscription_halted", claim.name, partition=claim.partition, **about)
        self.moments.reach("halted", claim)

    # -- what emitters ask for

    def moved(self, emitter: Emitter, hurry: bool) -> None:
        """Store its progress soon, or at once."""
        self._settling.moved(emitter, hurry or (bool(self._awaited) and self._is_awaited(emitter)))

    def _is_awaited(self, emitter: Emitter) -> bool:
        return any(name == emitter.claim.name and position <= emitter.settleable() for name, position in self._awaited)

    def tell(self, kind: str, claim: Claim, **payload: Any) -> None:
        """Broadcast what happened to a partition."""
        self._tell(kind, claim.name, partition=claim.partition, epoch=claim.epoch, **payload)

    def counted(self, name: str) -> Handled:
        """Return the counts of one subscription."""
        return self.counts.subscriptions.of(name, lambda: {one.claim.name for one in self._emitters.values()})

    # -- what is published to emitters

    async def publish(self, events: dict[Handle, list[Event]], source: Source) -> None:
        """Hand each emitter its events; consumers that are missing are started."""
        undelivered = await self.registry.publish({handle: (source, some) for handle, some in events.items()})
        for handle, reason in undelivered.items():
            emitter = self._emitters.get(handle)
            if isinstance(reason, (NoShape, NoProc)) or emitter is None:
                self.feed.leave(handle)
            if emitter is not None:
                log.error("%s, partition %d did not take its events: %r; it reads them itself", *handle, reason)
                self.registry.remove_consumer(handle)
                self.feed.leave(handle)
                emitter.cut()
                emitter.wake()

    def scanned(self) -> None:
        """Store how far those have come that somebody waits for."""
        for name, position in self._awaited:
            for emitter in self.of(name):
                self._hurry(emitter, position)

    def _hurry(self, emitter: Emitter, position: int) -> None:
        if emitter.progress.checkpoint < position <= emitter.settleable():
            self._settling.moved(emitter, hurry=True)

    @contextmanager
    def hurried(self, name: str, position: int) -> Iterator[asyncio.Event]:
        """Store checkpoints of *name* at once when they reach *position*, instead of with many others.

        Yields an event that is set when one of this node was stored.
        """
        stored = asyncio.Event()
        wanted = (name, position)
        self._awaited.append(wanted)
        self._settling.on_stored.add(stored.set)
        self.scanned()
        try:
            yield stored
        finally:
            self._awaited.remove(wanted)
            self._settling.on_stored.discard(stored.set)

    def cut(self, handles: list[Handle]) -> None:
        """Take note that the feed was lost: these emitters go back to reading pages."""
        cut = [emitter for handle in handles if (emitter := self._emitters.get(handle)) is not None]
        for emitter in cut:
            emitter.cut()
        if not self._ending:
            self._place([one for one in cut if not one.stopping])

    def _pages_lost(self) -> None:
        """Take note that a connection for pages ended: what those who read them only looked at may be void."""
        cut = [one for one in self.emitters if not one.inlet.live]
        for emitter in cut:
            emitter.cut()
        if cut and not self._ending and self._placing is None:  # once for all connections that end together
            self._placing = asyncio.get_running_loop().call_soon(self._place_again)

    def _put_back(self) -> None:
        """Claim everything anew: events that emitters are through with may be gone, and others have their positions."""
        log.warning("another server took over, which may not have got all events: going on from stored checkpoints")
        self._lose(self.emitters)

    def _place_again(self) -> None:
        self._placing = None
        if not self._ending:
            self._place([one for one in self.emitters if one.inlet.source is None and not one.stopping])

    def unroutable(self, handle: Handle, error: Exception) -> None:
        """Take note that a selector failed on an event, which nobody can tell whether to deliver."""
        emitter = self._emitters.get(handle)
        if emitter is not None:
            self._forget(emitter)
            self._halt(emitter.claim, error)

    def _start_consumer(self, handle: Handle) -> DirectConsumer:
        emitter = self._emitters.get(handle)
        if emitter is None:
            raise NoShape(handle)
        kind = "emitter_resumed" if handle in self._suspended else "emitter_started"
        self._suspended.discard(handle)
        self._tell(kind, handle[0], partition=handle[1])
        return DirectConsumer(emitter.handle_event)

    def _consumer_suspended(self, handle: Handle) -> None:
        self._suspended.add(handle)
        self._tell("emitter_suspended", handle[0], partition=handle[1])

    async def _remove_consumers(self, handles: list[Handle]) -> None:
        for handle in handles:
            self.registry.remove_consumer(handle)

    # -- this node's share by hand

    async def stop_here(self, name: str) -> None:
        """Give the partitions of *name* to other nodes, and claim none until `start_here`."""
        self._stopped.add(name)
        # A round that is under way may still claim some; the one after it gives them back.
        rounds, over = 2, self.moments.next("round")
        while self._active and (self.of(name) or (rounds > 0 and self.lease.held.is_set())):
            self.lease.news.set()
            await asyncio.wait((over,), timeout=1.0)
            if over.done():
                rounds, over = rounds - 1, self.moments.next("round")

    def start_here(self, name: str) -> None:
        """Claim partitions of *name* again (`AlreadyStarted`)."""
        if self._active and name not in self._handlers and name not in self._more:
            raise ConfigurationError(f"this node has no handler for {name!r}; register it before run()")
        if name not in self._stopped:
            raise AlreadyStarted(f"subscription {name!r} is started on this node")
        self._stopped.discard(name)
        self.lease.news.set()

    # -- health

    async def _check_again_and_again(self, healthy: Callable[[], None]) -> None:
        while True:
            await self.clock.sleep(self._jittered(self.settings.health_check_interval))
            self.check()
            healthy()

    def check(self) -> int:
        """Wake what should run and does not, end what runs for nobody; returns how many there were of both."""
        asleep = [one for one in self.emitters if one.overdue]
        for emitter in asleep:
            log.error("%s, partition %d had work and did not run; woken", *emitter.handle)
            emitter.wake()
        orphans = [handle for handle in self.registry.handles() if handle not in self._emitters]
        for handle in orphans:
            log.error("a consumer of %s, partition %d ran for nobody; ended", *handle)
            self.registry.remove_consumer(handle)
        self.moments.reach("checked", len(asleep) + len(orphans))
        return len(asleep) + len(orphans)

    def _in_hand(self) -> list[str]:
        """Name what handlers have in hand, the one that began last first."""
        busy = [one for one in self.emitters if one.in_hand is not None]
        busy.sort(key=lambda one: one.in_hand[1] if one.in_hand else 0.0, reverse=True)
        return [f"{one.claim.name}/{one.claim.partition} at {one.in_hand[0]}" for one in busy if one.in_hand]
