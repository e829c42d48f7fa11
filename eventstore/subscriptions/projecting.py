"""Exactly once: a projection's rows and its checkpoint in one transaction.

Nothing overtakes a failing event here, not even of another key: a checkpoint says "everything up to here", and rows of
events beyond it would be written a second time after a crash.
"""

from __future__ import annotations

import logging
from typing import Any

import asyncpg

from eventstore.database import Connection, mapped_errors
from eventstore.errors import DatabaseUnavailable, EventStoreError, LeaseLost
from eventstore.events import Event
from eventstore.service import set_within
from eventstore.subscriptions.delivery import DONE, Delivery, Outcome, Registration
from eventstore.subscriptions.emitter import Emitter, Halted, Host, Reclaim, Suspect, _failed
from eventstore.subscriptions.model import Claim, Failed, Replayable, key_of
from eventstore.subscriptions.policy import FailurePolicy, Halt, KeyGate, Retry, Skip
from eventstore.tenants import SETTING

__all__ = ["ProjectingEmitter"]

log = logging.getLogger(__name__)


class ProjectingEmitter(Emitter):
    """Delivers batches, each inside a transaction that ends with the fenced checkpoint."""

    __slots__ = ("suspect",)

    def __init__(self, claim: Claim, registration: Registration, policy: FailurePolicy, host: Host) -> None:
        super().__init__(claim, registration, policy, host)
        self.suspect: Suspect | None = None

    async def _deliver_queued(self) -> bool:
        events: list[Event] = []
        queue, suspect = self.inlet.queue, self.suspect
        most = 1 if suspect is not None and queue[0].position <= suspect.high else self.registration.batch_size
        while self.inlet.queue and len(events) < most:
            event = self.inlet.queue.popleft()
            if event.position not in self._known:
                events.append(event)
        if events:
            self.progress.took([event.position for event in events])
            await self._project(events)
        return True

    async def _project(self, events: list[Event]) -> None:
        """Project *events* and store the checkpoint behind them; after a failure one by one, as the policy says."""
        aside = [event for event in events if self._closed(event)]
        wanted = [event for event in events if event not in aside] if aside else events
        rows = [self._row(event, "parked", True, 0, None) for event in aside]
        attempt = 1
        if (lost := self._lost_with(wanted)) is not None:
            attempt = lost.times + 1
            if self.policy.attempts is not None and lost.times >= self.policy.attempts:
                gone = EventStoreError(f"its connection went {lost.times} times while it was projected")
                if row := await self._after_failure(wanted[0], lost.times, Outcome(gone)):
                    wanted, rows = [], [*rows, row]
        while not self.stopping:
            try:
                outcome = await self._committed(wanted, events[-1].position, rows, attempt)
            except Reclaim as reclaim:
                reclaim.suspect = self._suspected(wanted)
                raise
            if outcome.error is None:
                return self._projected(events, rows)
            self.counts.failed += 1
            self._host.moments.reach("failed", outcome.error)
            if not wanted:
                raise Reclaim from outcome.error
            if len(wanted) > 1:
                log.warning("%s, partition %d: a batch of %d failed, now one by one: %r",
                            *self.handle, len(wanted), outcome.error)  # fmt: skip
                for event in events:
                    if not self.stopping:
                        await self._project([event])
                return None
            if row := await self._after_failure(wanted[0], attempt, outcome):
                wanted, rows = [], [*rows, row]
            attempt += 1
        return None

    def _lost_with(self, events: list[Event]) -> Suspect | None:
        alone = len(events) == 1 and self.suspect is not None and self.suspect.at == events[0].position
        return self.suspect if alone else None

    def _suspected(self, events: list[Event]) -> Suspect | None:
        """Return what to look at closely next time: nobody can tell whose fault it was that a connection went."""
        if not events:
            return None
        high = max(events[-1].position, self.suspect.high if self.suspect else 0)
        if len(events) > 1:
            return Suspect(high)
        before = self._lost_with(events)
        return Suspect(high, events[0].position, before.times + 1 if before else 1)

    def _closed(self, event: Event) -> bool:
        return self._gate is not None and self._gate.state(key_of(event)) != "open"

    def _row(self, event: Event, state: Any, blocking: bool, attempts: int, error: BaseException | None) -> Failed:
        key = key_of(event)
        replay = not attempts and self._gate is not None and self._gate.state(key) == "replaying"
        return _failed(event, key, state, blocking, replay, attempts, error)

    async def _after_failure(self, event: Event, attempt: int, outcome: Outcome) -> Failed | None:
        """Wait for the next attempt, or return what is to be stored instead of the event."""
        step = self._step(attempt, outcome)
        log.warning(
            "%s, partition %d: projecting the event at %d failed (attempt %d): %s",
            *self.handle, event.position, attempt, type(step).__name__.lower(), exc_info=outcome.error,
        )  # fmt: skip
        if isinstance(step, Halt):
            raise Halted(event) from outcome.error
        if isinstance(step, Retry):
            self._woken.clear()
            due = self._host.clock.time() + outcome.pause(step.seconds)
            while not self.stopping and (left := due - self._host.clock.time()) > 0:
                await self._host.clock.wait(self._woken, left)
                self._woken.clear()
            return None
        if isinstance(step, Skip):
            return self._row(event, "skipped", False, attempt, outcome.error)
        return self._row(event, "parked", step.key, attempt, outcome.error)

    async def _committed(self, events: list[Event], position: int, rows: list[Failed], attempt: int) -> Outcome:
        """Run one transaction; returns why it was rolled back.

        Raises:
            LeaseLost: the checkpoint is another node's now.
            Reclaim: the connection was lost, and nobody knows whether it committed.
        """
        return await self._transaction(
            events,
            attempt,
            lambda connection: self._host.ledger.settle_one(self.claim, position, rows, on=connection),
        )

    async def _transaction(self, events: list[Event], attempt: int, settle: Any) -> Outcome:
        while True:
            try:
                return await self._once(events, attempt, settle)
            except _NotBegun as error:
                log.warning("%s, partition %d: %s; trying again", *self.handle, error.__cause__)
                await set_within(self._woken, self._backoff.next())
                if self.stopping:
                    raise Reclaim from error

    async def _once(self, events: list[Event], attempt: int, settle: Any) -> Outcome:
        failure: Outcome | None = None
        begun = False
        delivery = Delivery(
            self.claim.name, self.claim.partition, self.claim.epoch, attempt,
            events[0].position if len(events) == 1 else -1, self,
        )  # fmt: skip
        try:
            async with self._host.lent.acquire() as connection:
                begun = True
                transaction = connection.transaction(isolation="read_committed")
                try:
                    await transaction.start()
                    failure = await self._run_in(connection, events, delivery)
                    failure = failure or (_misuse(connection) if events else None)
                    if failure is None and not await self._settled(settle, connection):
                        raise LeaseLost(f"{self.claim.name!r}, partition {self.claim.partition}: another owner")
                except BaseException:
                    await _rolled_back(connection, transaction)
                    raise
                if failure is not None:
                    await _rolled_back(connection, transaction)
                    if _gone(connection) and not isinstance(failure.error, TransactionTimedOut):
                        raise Reclaim from failure.error
                    return failure
                with mapped_errors():
                    await transaction.commit()
        except (DatabaseUnavailable, OSError, asyncpg.InterfaceError) as error:
            if not begun:
                raise _NotBegun from error
            raise Reclaim from error
        except LeaseLost:
            raise
        except (EventStoreError, asyncpg.PostgresError) as error:
            # What the handler left behind made the checkpoint, or the commit, fail; all of it was rolled back.
            return Outcome(error)
        return DONE

    async def _settled(self, settle: Any, connection: Connection) -> bool:
        try:
            return bool(await settle(connection))
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, asyncpg.InterfaceError) and not _gone(connection):
                connection.terminate()
                raise EventStoreError("the projection left something running on its transaction") from error
            raise

    async def _run_in(self, connection: Connection, events: list[Event], delivery: Delivery) -> Outcome | None:
        # A holder that is frozen blocks nobody longer than its lease.
        limit = max(1, int(self._host.settings.lease_ttl * 1000))
        await connection.execute(f"set local idle_in_transaction_session_timeout = {limit}")
        if (tenant := self._host.lent.tenant) is not None:  # for whatever the handler reads and writes
            await connection.execute("select set_config($1, $2, true)", SETTING, tenant)
        if not events:
            return None
        began = self._host.clock.time()
        outcome = await self._called(events, delivery, connection)
        if _gone(connection) and self._host.clock.time() - began >= self._host.settings.lease_ttl:
            return Outcome(
                TransactionTimedOut(f"its transaction was idle for longer than a lease ({limit / 1000:g} s)")
            )
        return None if outcome is None or outcome.error is None else outcome

    def _projected(self, events: list[Event], rows: list[Failed]) -> None:
        for event in events:
            self.progress.ack(event.position)
            self._host.moments.reach("handled", event)
        self.handled += len(events) - len(rows)
        self.counts.handled += len(events) - len(rows)
        self.progress.stored(events[-1].position, self._host.clock.time())
        for row in rows:
            if row.blocking:
                self._gate = self._gate or KeyGate()
                self._gate.park(row.key)
            self._written(row)
        self._host.moved(self, hurry=False)

    async def _replay_one(self, row: Replayable) -> bool:
        if row.event is None:
            return await super()._replay_one(row)
        outcome = await self._transaction(
            [row.event],
            row.attempts + 1,
            lambda connection: self._host.ledger.settle_one(self.claim, None, (), [row.position], on=connection),
        )
        if outcome.error is not None:
            await self._replayed(row, outcome)
            return False
        self.counts.replayed += 1
        self._host.moments.reach("replayed", row)
        self._host.tell("event_replayed", self.claim, position=row.position, key=row.key[2:])
        return True


class TransactionTimedOut(TimeoutError):
    """Postgres ended the session: nothing was committed, and the handler is the cause."""


class _NotBegun(Exception):
    """There was no connection: nothing has happened."""


def _misuse(connection: Connection) -> Outcome | None:
    if not _gone(connection) and not connection.is_in_transaction():
        return Outcome(EventStoreError("the projection ended its transaction itself: it must not commit or roll back"))
    return None


def _gone(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # its pool has taken it back
        return True


async def _rolled_back(connection: Connection, transaction: Any) -> None:
    if not _gone(connection):
        try:
            await transaction.rollback()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            log.debug("a transaction could not be rolled back; its connection goes", exc_info=True)
            connection.terminate()
