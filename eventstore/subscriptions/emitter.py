"""An emitter delivers one partition's events to its handler, in order per key.

It has a task only while there is something to do. What arrives is queued and wakes it; when nothing is left it ends.
One turn does one thing, the most urgent first: what was settled by hand, what is due again, what has to be stored, what
a replay asks for, then the next event, then the next page.

A key whose event waits for its next attempt holds back its own later events only. After the last attempt it is parked,
skipped, or the partition halts, as the failure policy says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from time import perf_counter
from typing import Any, Literal, Protocol

import asyncpg

from eventstore.counting import Counts, Handled
from eventstore.database import Database
from eventstore.errors import DatabaseUnavailable, LeaseLost, TransactionConflict
from eventstore.events import Event
from eventstore.feed import Feed, Handle
from eventstore.service import Backoff, Clock, Moments, raise_if_cancelled, set_within
from eventstore.settings import Settings
from eventstore.subscriptions.delivery import DONE, Delivery, Outcome, Registration, handling
from eventstore.subscriptions.inlet import Inlet, Source
from eventstore.subscriptions.ledger import Ledger, described
from eventstore.subscriptions.model import Claim, Failed, Replayable, key_of
from eventstore.subscriptions.policy import FailurePolicy, Halt, KeyGate, Park, Retry, Skip
from eventstore.subscriptions.progress import Progress

__all__ = ["Emitter", "Halted", "Host", "Reclaim", "Suspect"]

log = logging.getLogger(__name__)

YIELD_AFTER = 0.005
"""Seconds of handling after which others get a turn, should the handlers themselves never wait."""

AT_ONCE = 16
"""Events delivered in one turn, as long as nothing else is to be done; the clock is asked once a turn."""

WRITTEN_AT_ONCE = 100
"""Most parked events that wait to be stored, and most that one turn replays."""

TRANSIENT = (DatabaseUnavailable, TransactionConflict, asyncpg.PostgresError)


_numbers = count()
"""What orders deliveries that are due at the same time."""


class Halted(Exception):
    """The partition cannot go on, for *event* if it is one; its cause is what an operator has to see."""

    def __init__(self, event: Event | None = None) -> None:
        self.event = event
        super().__init__()


@dataclass(frozen=True, slots=True)
class Suspect:
    """Events during which a connection went, which may be their doing.

    Attributes:
        high: position up to which they are delivered one by one.
        at: position of the one that was delivered alone, 0: none was yet.
        times: how often the connection went with it.
    """

    high: int
    at: int = 0
    times: int = 0


class Reclaim(Exception):
    """What is stored may be ahead of what is known here: the partition is to be claimed anew."""

    suspect: Suspect | None = None


class Host(Protocol):
    """What an emitter needs of the pools it belongs to."""

    feed: Feed
    database: Database
    lent: Database
    ledger: Ledger
    settings: Settings
    clock: Clock
    rng: Callable[[], float]
    moments: Moments
    counts: Counts

    def counted(self, name: str) -> Handled:
        """Return the counts of one subscription."""

    def moved(self, emitter: Emitter, hurry: bool) -> None:
        """Store its progress soon, or at once."""

    def ended(self, emitter: Emitter, error: BaseException) -> None:
        """Its task failed."""

    def tell(self, kind: str, claim: Claim, **payload: Any) -> None:
        """Broadcast what happened."""


class Emitter:
    """Runs one claimed partition until it is stopped.

    Attributes:
        progress: what it has in hand, and what may be stored.
        task: None while there is nothing to do.
        handled: how many deliveries ended well.
        in_hand: position and start (by the clock) of the delivery under way.
    """

    # Ten thousand of them lie idle in a node: what one costs then is counted in objects that the collector visits.
    __slots__ = (
        "_backoff",
        "_blocked",
        "_caught_up",
        "_counts",
        "_decided",
        "_gate",
        "_host",
        "_known",
        "_now",
        "_open",
        "_parked_to",
        "_ready",
        "_replays",
        "_retries",
        "_stale",
        "_unstored",
        "_unwritten",
        "_warned",
        "_woken",
        "claim",
        "closed",
        "handle",
        "handled",
        "in_hand",
        "inlet",
        "policy",
        "progress",
        "registration",
        "stopping",
        "task",
    )

    _woken: asyncio.Event
    _backoff: Backoff

    def __init__(self, claim: Claim, registration: Registration, policy: FailurePolicy, host: Host) -> None:
        self.claim, self.registration, self.policy, self._host = claim, registration, policy, host
        self.handle: Handle = (claim.name, claim.partition)
        self.progress = Progress(claim.checkpoint)
        self.inlet = Inlet(claim, host.feed, host.database, host.settings, self)
        self.task: asyncio.Task[None] | None = None
        self.handled = 0
        self._counts: Handled | None = None
        self.in_hand: tuple[int, float] | None = None
        self.closed = self.stopping = False
        self._now = 0.0
        self._gate: KeyGate | None = None
        self._known: Set[int] = frozenset()
        self._parked_to = 0
        self._stale = claim.parked
        self._replays = False
        self._caught_up = False
        self._warned = 0
        self._retries: list[tuple[float, int, Event, int, Delivery | None]] = []
        self._blocked: dict[str, deque[Event]] = {}
        self._ready: deque[Event] = deque()
        self._open: dict[int, tuple[Event, Delivery]] = {}
        self._decided: deque[tuple[Event, Delivery]] = deque()
        self._unwritten: list[Failed] = []
        self._unstored: tuple[tuple[int, int], Outcome] | None = None

    @property
    def counts(self) -> Handled:
        """What became of the events of its subscription on this node."""
        if self._counts is None:
            self._counts = self._host.counted(self.claim.name)
        return self._counts

    # -- from outside

    def handle_event(self, message: tuple[Source, Sequence[Event]]) -> None:
        """Queue what was published to this emitter."""
        self.inlet.offer(*message)
        self.wake()

    def wake(self) -> None:
        """Look whether there is something to do."""
        if self.task is not None:
            self._woken.set()
        elif not self.closed and not self.stopping:
            self._woken, self._backoff = asyncio.Event(), Backoff(0.05, 5.0, self._host.rng)
            name = f"emitter {self.claim.name}/{self.claim.partition}"
            self.task = asyncio.get_running_loop().create_task(self._run(), name=name)
            self.task.add_done_callback(self._done)

    def stop(self) -> None:
        """End after the delivery under way."""
        self.stopping = True
        if self.task is not None:
            self._woken.set()
            if self.registration.fallback and self.in_hand is not None:
                self.task.cancel()  # it may wait for somebody to listen, for ever

    def close(self) -> None:
        """Take and settle nothing more; a delivery under way is cancelled."""
        self.closed = self.stopping = True
        self.inlet.close()
        if self.task is not None:
            self.task.cancel()

    def cut(self) -> None:
        """Read on from what is safe: the connection was lost."""
        self.inlet.reread(self.progress.reread())
        self._caught_up = False

    def parked_changed(self) -> None:
        """Look at the parked queues anew: an operator replayed or discarded."""
        self._stale = True
        self.wake()

    @property
    def overdue(self) -> bool:
        """Whether there is something to do and nobody does it."""
        idle = self.task is None and not self.stopping
        return idle and (self.inlet.source is None or (bool(self.inlet.queue) and not self.progress.unstored))

    def settleable(self) -> int:
        """Return the position that may be stored now; one that was lost knows of none but its checkpoint."""
        if self.closed:  # and its queue, with what nobody handled, is gone
            return self.progress.checkpoint
        while self.stopping and self._decided:  # there is no turn left to do it in
            event, delivery = self._decided.popleft()
            if delivery.outcome is DONE:
                self.progress.ack(event.position)
                self.counts.handled += 1
        if not self.inlet.queue:
            self.progress.scanned(self.inlet.scanned)
        return self.progress.settled

    def settled(self) -> int:
        """Return the position that may be stored whatever happened to the connection: of what was handled."""
        self.progress.reread()
        return self.progress.settled

    def stored(self, position: int) -> None:
        """Take note that the checkpoint is stored."""
        self.progress.stored(position, self._host.clock.time())
        if self.inlet.queue or self.task is not None:
            self.wake()

    def decided(self, delivery: Delivery) -> None:
        """Take note that a delivery was settled by hand (`LeaseLost` where this is too late)."""
        self.check_open()
        held = self._open.get(delivery.position)
        if held is not None and held[1] is delivery:  # and not of an attempt that has failed since
            del self._open[delivery.position]
            self._decided.append(held)
            self.wake()

    def check_open(self) -> None:
        """Refuse a word about a delivery that comes too late (`LeaseLost`)."""
        if self.closed:
            raise LeaseLost(f"{self.claim.name!r}, partition {self.claim.partition} was lost; the event comes again")

    def was_cut(self) -> None:
        """Take note that the feed left it behind."""
        self._caught_up = False
        self._host.counts.left_behind += 1
        self._host.tell("subscription_lagging", self.claim, position=self.inlet.read)

    # -- the loop

    async def _run(self) -> None:
        yielded = self._now = self._host.clock.time()
        while not self.stopping:
            self._woken.clear()
            try:
                busy = await self._turn()
            except TRANSIENT as error:
                log.warning("%s, partition %d: %s; trying again", *self.handle, error)
                await set_within(self._woken, self._backoff.next())
                continue
            except Halted:
                if self._unwritten:
                    await self._write()
                raise
            self._backoff.reset()
            if not busy:
                if not self._retries:
                    break
                await self._host.clock.wait(self._woken, max(0.0, self._retries[0][0] - self._host.clock.time()))
                self._now = self._host.clock.time()
            elif (now := self._host.clock.time()) - yielded > YIELD_AFTER:
                await asyncio.sleep(0)
                yielded = self._now = self._host.clock.time()
            else:
                self._now = now
        if self._unwritten and not self.closed:
            try:
                await self._write()
            except TRANSIENT as error:
                log.warning("%s, partition %d: %s; what was set aside comes again", *self.handle, error)
        # In the same step as it ends: who wakes it from now on starts another task.
        self.task = None
        del self._woken, self._backoff

    def _done(self, task: asyncio.Task[None]) -> None:
        if self.task is task:
            self.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._host.ended(self, error)

    async def _turn(self) -> bool:
        """Do what is to be done next; False if that is nothing, or has to wait."""
        if self._stale:
            await self._load_parked()
        if self._decided:
            event, delivery = self._decided.popleft()
            assert delivery.outcome is not None
            self._resolve(event, delivery.attempt, delivery.outcome)
        elif self._retries and self._retries[0][0] <= self._now:
            await self._again()
        elif self._ready:
            await self._deliver_one(self._ready.popleft())
        elif self._unwritten and (len(self._unwritten) >= WRITTEN_AT_ONCE or not self.inlet.queue or self._full):
            await self._write()
        elif self._replays and not self._before_parked():
            await self._replay()
        elif self.inlet.queue:
            return await self._deliver_queued()
        elif self.inlet.source is None:
            await self._fetch()
        else:
            if self.inlet.live and not self._caught_up:
                self._caught_up = True
                self._host.moments.reach("live", self.claim)
                self._host.tell("subscription_caught_up", self.claim, position=self.inlet.scanned)
            return False
        return True

    async def _fetch(self) -> None:
        try:
            await self.inlet.fetch()
        except TRANSIENT:
            raise
        except Exception as error:
            # What is stored cannot be read: no policy is asked, because nobody can know what would be skipped.
            raise Halted from error

    # -- delivering

    def _room(self) -> bool:
        """Tell whether one more event may be taken; ask for a checkpoint when half of the window is used."""
        unstored, window = self.progress.unstored, self._host.settings.window
        if unstored * 2 >= window:
            self._host.moved(self, hurry=True)
        return unstored < window

    def _warn_of_full_window(self) -> None:
        """Say, once until it moves, which event holds up a partition: one that is tried again, or never settled."""
        held_by = self.progress.settled + 1
        if self.progress.held >= self._host.settings.window and self._warned != held_by:
            self._warned = held_by
            log.warning(
                "%s, partition %d waits for the event at %d, which is neither settled nor given up: "
                "%d later ones are handled and cannot be settled before it",
                *self.handle, held_by, self.progress.held - self.progress.in_flight,
            )  # fmt: skip

    @property
    def _full(self) -> bool:
        """Whether nothing may be taken until something is stored."""
        return self.progress.unstored >= self._host.settings.window

    async def _deliver_queued(self) -> bool:
        if not self._room():
            self._warn_of_full_window()
            return False
        if self.registration.batch_size > 1:
            await self._deliver_batch()
            return True
        queue = self.inlet.queue
        for _ in range(AT_ONCE):
            event = queue.popleft()
            self.progress.take(event.position)
            await self._deliver_one(event)
            if not queue or self.stopping or self._pressing() or not self._room():
                break
        return True

    def _pressing(self) -> bool:
        """Tell whether there is something to do before the next event."""
        if self._decided or self._ready or self._stale or len(self._unwritten) >= WRITTEN_AT_ONCE:
            return True
        return bool(self._retries) and self._retries[0][0] <= self._host.clock.time()

    async def _deliver_one(self, event: Event, attempt: int = 1) -> None:
        if not self._held_back(event):
            await self._deliver([event], attempt)

    async def _deliver_batch(self) -> None:
        events: list[Event] = []
        while self.inlet.queue and len(events) < self.registration.batch_size and self._room():
            event = self.inlet.queue.popleft()
            self.progress.take(event.position)
            if not self._held_back(event):
                events.append(event)
        if events:
            await self._deliver(events, 1)

    def _held_back(self, event: Event) -> bool:
        """Tell whether *event*, which is taken, is not to be delivered now, and see to it that it will be."""
        if event.position in self._known:  # set aside under an earlier epoch, beyond its checkpoint
            self._settle(event, known=True)
            return True
        if not self._blocked and self._gate is None:
            return False
        key = key_of(event)
        if key in self._blocked:
            self._blocked[key].append(event)
            return True
        if self._gate is not None and self._gate.state(key) != "open":
            self._set_aside(event, "parked", blocking=True)
            return True
        return False

    async def _deliver(self, events: list[Event], attempt: int) -> None:
        """Call the handler, and see to what follows."""
        position = events[0].position if self.registration.batch_size == 1 else -1
        delivery = Delivery(self.claim.name, self.claim.partition, self.claim.epoch, attempt, position, self)
        try:
            outcome = await self._called(events, delivery)
        except asyncio.CancelledError:
            if delivery.outcome is DONE and not self.closed:
                self._settle(events[0])
            raise
        if len(events) > 1:
            self._resolve_batch(events, outcome or DONE)
        elif outcome is None:
            self._hold_open(events[0], delivery)
        else:
            self._resolve(events[0], attempt, outcome)

    async def _called(self, events: list[Event], delivery: Delivery, transaction: Any = None) -> Outcome | None:
        """Return the outcome of a call; None if the handler returned and settles by hand, later."""
        self.in_hand = (events[0].position, self._now)
        token = handling.set(events[0] if len(events) == 1 else None)
        began = perf_counter()
        try:
            call = self.registration.call(events, delivery, transaction)
            if self.policy.timeout is None:
                returned = await call
            else:
                async with asyncio.timeout(self.policy.timeout):
                    returned = await call
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the outcome says what it was
            raise_if_cancelled()
            late = isinstance(error, TimeoutError) and not str(error) and self.policy.timeout is not None
            failure = TimeoutError(f"no answer within {self.policy.timeout:g} s") if late else error
            return self._first_word(delivery, Outcome(failure))
        finally:
            self.counts.took(perf_counter() - began)
            handling.reset(token)
            self.in_hand = None
        if self.task is not None and self.task.cancelling():
            raise asyncio.CancelledError
        if returned is not None:
            wrong = TypeError(f"the handler returned {type(returned).__name__}; it returns nothing, or raises")
            return self._first_word(delivery, Outcome(wrong))
        return delivery.outcome if self.registration.manual else self._first_word(delivery, DONE)

    def _first_word(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Return what was said by hand, or else *outcome*, after which nothing that is said counts."""
        if delivery.outcome is None:
            delivery.outcome = outcome
        return delivery.outcome

    def _hold_open(self, event: Event, delivery: Delivery) -> None:
        """Wait for a word about *event*; its key waits too."""
        self._blocked.setdefault(key_of(event), deque())
        self._open[event.position] = (event, delivery)
        if self.policy.timeout is not None:
            due = self._host.clock.time() + self.policy.timeout
            heappush(self._retries, (due, next(_numbers), event, delivery.attempt, delivery))

    async def _again(self) -> None:
        """Deliver what is due again, or give up on what was not settled by hand in time."""
        _, _, event, attempt, delivery = heappop(self._retries)
        if delivery is None:
            await self._deliver([event], attempt)
        elif self._open.get(event.position) == (event, delivery):
            del self._open[event.position]
            delivery.outcome = Outcome(TimeoutError(f"not settled within {self.policy.timeout:g} s"))
            self._resolve(event, attempt, delivery.outcome)

    # -- what follows

    def _resolve_batch(self, events: list[Event], outcome: Outcome) -> None:
        """Settle a batch; one that failed is delivered event by event, which finds the culprit."""
        if outcome.error is None:
            for event in events:
                self._settle(event)
            return
        log.warning(
            "%s, partition %d: a batch of %d failed, now one by one: %r", *self.handle, len(events), outcome.error
        )
        self.counts.failed += 1
        self._host.moments.reach("failed", outcome.error)
        self._ready.extendleft(reversed(events))

    def _resolve(self, event: Event, attempt: int, outcome: Outcome) -> None:
        if outcome.error is None:
            self._settle(event)
            self._free(event)
            return
        self.counts.failed += 1
        self._host.moments.reach("failed", outcome.error)
        step = self._step(attempt, outcome)
        what = f"again in {outcome.pause(step.seconds):.1f} s" if isinstance(step, Retry) else _name(step)
        log.warning(
            "%s, partition %d: delivery %d of the event at %d failed, %s",
            *self.handle, attempt, event.position, what, exc_info=outcome.error,
        )  # fmt: skip
        match step:
            case Retry(seconds):
                self._blocked.setdefault(key_of(event), deque())
                due = self._host.clock.time() + outcome.pause(seconds)
                heappush(self._retries, (due, next(_numbers), event, attempt + 1, None))
            case Park(key=blocking):
                self._set_aside(event, "parked", blocking=blocking, attempts=attempt, error=outcome.error)
                self._free(event)
            case Skip():
                self._set_aside(event, "skipped", blocking=False, attempts=attempt, error=outcome.error)
                self._free(event)
            case Halt():
                raise Halted(event) from outcome.error

    def _step(self, attempt: int, outcome: Outcome) -> Retry | Park | Skip | Halt:
        if outcome.park:
            return Park(key=self.policy.then == "park_key")
        return self.policy.next_step(attempt, self._host.rng)

    def _settle(self, event: Event, *, known: bool = False) -> None:
        self.progress.ack(event.position)
        if not known:
            self.handled += 1
            self.counts.handled += 1
        self._host.moved(self, hurry=False)
        self._host.moments.reach("handled", event)

    def _free(self, event: Event) -> None:
        """Let the later events of its key follow, into the queue of parked ones if it is there."""
        if self._blocked and (waiting := self._blocked.pop(key_of(event), None)) is not None:
            self._ready.extendleft(reversed(waiting))
            self._replays = self._replays or self._gate is not None

    # -- parking

    def _set_aside(
        self,
        event: Event,
        state: Literal["parked", "skipped"],
        *,
        blocking: bool,
        attempts: int = 0,
        error: BaseException | None = None,
    ) -> None:
        """Let *event* be stored as parked or skipped; it is settled once that is done."""
        key = key_of(event)
        replay = False
        if blocking:
            self._gate = self._gate or KeyGate()
            replay = not attempts and self._gate.state(key) == "replaying"
            self._gate.park(key)
        self._unwritten.append(_failed(event, key, state, blocking, replay, attempts, error))

    async def _write(self) -> None:
        """Store what was set aside, and settle it."""
        rows = self._unwritten[:]
        if not await self._host.ledger.settle_one(self.claim, None, rows):
            raise LeaseLost(f"{self.claim.name!r}, partition {self.claim.partition} belongs to another node")
        del self._unwritten[: len(rows)]
        for row in rows:
            self._written(row)
            self.progress.ack(row.position)
        self._host.moved(self, hurry=False)

    def _written(self, row: Failed) -> None:
        if row.blocking and self._gate is not None:
            self._gate.written(row.key)
        kind = "event_parked" if row.state == "parked" else "event_skipped"
        self.counts.parked += row.state == "parked"
        self.counts.skipped += row.state == "skipped"
        self._host.moments.reach(row.state, row)
        self._host.tell(
            kind, self.claim, position=row.position, key=row.key[2:], attempts=row.attempts, error=row.error,
            message=row.message,
        )  # fmt: skip

    async def _load_parked(self) -> None:
        """Learn from the database which keys are parked, and which of them an operator wants replayed."""
        if self._unwritten:
            await self._write()
        self._stale = False
        try:
            rows = await self._host.ledger.load_parked(self.claim)
        except BaseException:
            self._stale = True
            raise
        # Also those that were replayed since: they still come by the way of all events.
        beyond = self._known | {row.position for row in rows}
        self._known = {position for position in beyond if position > self.progress.checkpoint}
        self._parked_to = max(self._known, default=0)
        closed = {row.key for row in rows if row.blocking}
        replayed = {row.key for row in rows if row.replay}
        self._gate = KeyGate(closed) if closed or replayed else None
        for key in replayed:
            assert self._gate is not None
            self._gate.replay(key)
        self._replays = bool(replayed)

    def _before_parked(self) -> bool:
        """Tell whether events from before what is parked still come again.

        An earlier owner had handled them, and parked one behind them, without a checkpoint in between. A replay now
        would go ahead of them; so they join the queue, each at its place.
        """
        queue = self.inlet.queue
        return queue[0].position <= self._parked_to if queue else self.inlet.scanned < self._parked_to

    async def _replay(self) -> None:
        """Deliver parked events that are to be replayed, each once, in order.

        A failure ends the replay of its key, unless it is that of an event set aside alone: nothing waits behind it.
        """
        assert self._gate is not None
        if self._unwritten:  # some may belong before what is stored, see `_before_parked`
            await self._write()
        mark = self._gate.mark()
        rows = await self._host.ledger.replayable(self.claim, WRITTEN_AT_ONCE)
        self._replays = False
        if not rows:
            await self._reopen(mark)
            return
        ended: set[str] = set()
        for row in rows:
            if self.stopping:
                return
            if row.key in ended or row.key in self._blocked:
                continue
            self._gate.replay(row.key)
            self._replays = True  # look again: what came meanwhile has joined the queue
            if not await self._replay_one(row) and row.blocking:
                ended.add(row.key)
                self._gate.parked_again(row.key)

    async def _replay_one(self, row: Replayable) -> bool:
        """Deliver, and store how it ended; if only that fails, it is tried again without another delivery."""
        delivery = row.position, row.attempts
        if self._unstored is None or self._unstored[0] != delivery:
            self._unstored = delivery, await self._delivered_again(row)
        outcome = self._unstored[1]
        await self._replayed(row, outcome)
        self._unstored = None
        return outcome.error is None

    async def _delivered_again(self, row: Replayable) -> Outcome:
        if row.event is None:
            return DONE
        said = _Said(self)
        position = row.position if self.registration.batch_size == 1 else -1
        delivery = Delivery(self.claim.name, self.claim.partition, self.claim.epoch, row.attempts + 1, position, said)
        return await self._called([row.event], delivery) or await self._by_hand(delivery, said)

    async def _by_hand(self, delivery: Delivery, said: _Said) -> Outcome:
        """Wait for the word about a replayed delivery; nothing else of this partition is delivered meanwhile."""
        wait = self.policy.timeout or float(60)
        if not await self._host.clock.wait(said.anything, wait):
            delivery.outcome = delivery.outcome or Outcome(TimeoutError(f"not settled within {wait:g} s"))
        return delivery.outcome or DONE

    async def _replayed(self, row: Replayable, outcome: Outcome, on: Any = None) -> None:
        """Store how a replay ended."""
        failed, done = [], [row.position]
        if outcome.error is not None and row.event is not None:
            failed, done = [_failed(row.event, row.key, "parked", row.blocking, False, 1, outcome.error)], []
        if not await self._host.ledger.settle_one(self.claim, None, failed, done, on=on):
            raise LeaseLost(f"{self.claim.name!r}, partition {self.claim.partition} belongs to another node")
        if not failed:
            self.counts.replayed += 1
            self._host.moments.reach("replayed", row)
            self._host.tell("event_replayed", self.claim, position=row.position, key=row.key[2:])
        else:
            self.counts.failed += 1
            self._written_again(failed[0])

    def _written_again(self, row: Failed) -> None:
        self._host.moments.reach("parked", row)
        self._host.tell(
            "event_parked", self.claim, position=row.position, key=row.key[2:], attempts=row.attempts, error=row.error,
            message=row.message,
        )  # fmt: skip

    async def _reopen(self, mark: int) -> None:
        """Open the keys whose queue is empty."""
        assert self._gate is not None
        self._replays = True
        if self._unwritten:
            await self._write()
            return
        keys = self._gate.replaying()
        closed = await self._host.ledger.closed_keys(self.claim, keys)
        open_again = [self._gate.drained(key, mark) for key in keys if key not in closed]
        for key in closed:  # by an event that nobody wants replayed: what comes now stays behind it
            self._gate.parked_again(key)
        self._replays = not all(open_again)
        if not len(self._gate):
            self._gate = None


def _name(step: Park | Skip | Halt) -> str:
    return {Park: "parked", Skip: "skipped", Halt: "the partition halts"}[type(step)]


class _Said:
    """Hears the word about a replayed delivery."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter, self.anything = emitter, asyncio.Event()

    def decided(self, _delivery: Delivery) -> None:
        self._emitter.check_open()
        self.anything.set()


def _failed(
    event: Event, key: str, state: Literal["parked", "skipped"], blocking: bool, replay: bool, attempts: int,
    error: BaseException | None,
) -> Failed:  # fmt: skip
    return Failed(
        event.position, event.bucket, key, state, blocking, replay, attempts,
        *((None, None, None) if error is None else described(error)),
    )  # fmt: skip
