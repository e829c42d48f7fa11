"""Bugs to plant: each breaks one promise, in the ledger or in the engine, and has to be noticed.

`PLANTED` says within how many seeds each is found, and what is said then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from uuid import UUID

from eventstore.errors import EventStoreError
from eventstore.events import Event
from eventstore.feed import Feed
from eventstore.subscriptions import emitter, projecting
from eventstore.subscriptions.delivery import Delivery
from eventstore.subscriptions.emitter import Emitter
from eventstore.subscriptions.inlet import Inlet
from eventstore.subscriptions.lease import Lease
from eventstore.subscriptions.pool import Pools
from eventstore.subscriptions.progress import Progress
from tests.simulation.operating import FakeLedger
from tests.simulation.tables import Key, SubscriptionRow

__all__ = ["PLANTED", "Planted"]


MOST = 150
"""Histories that a bug may take: some are rare, and every change of the engine or the fake deals anew."""


# -- in the ledger


class Unfenced(FakeLedger):
    """Settlements ask neither for owner nor epoch."""

    def holds(self, node: UUID, key: Key, epoch: int) -> bool:
        return key in self.checkpoints


class Ownerless(FakeLedger):
    """Settlements ask for the owner, and not for the epoch."""

    def holds(self, node: UUID, key: Key, epoch: int) -> bool:
        row = self.checkpoints.get(key)
        return row is not None and row.owner == node


class Greedy(FakeLedger):
    """A claim takes what others own, whether or not their lease runs."""

    def _is_free(self, key: Key, held: set[Key]) -> bool:
        return self.checkpoints[key].halted is None and key not in held


class Trusting(FakeLedger):
    """Who is dead is decided by the clock of the node that asks."""

    def remove_dead_nodes_v1(self, now: int) -> bool:
        return super().remove_dead_nodes_v1(946_684_800_000_000 + self.asking if self.asking else now)


class Flat(FakeLedger):
    """A new owner gets the epoch of the one before."""

    def _take(self, node: UUID, subscription: SubscriptionRow, many: int, first: int, held: set[Key]) -> list[Any]:
        taken = super()._take(node, subscription, many, first, held)
        for row in taken:
            self.checkpoints[subscription.id, row["partition"]].epoch -= 1
        return taken


class Sliding(FakeLedger):
    """A settlement that comes late moves the checkpoint back."""

    def move(self, key: Key, position: int | None) -> None:
        if position is not None:
            self.checkpoints[key].position = position


class Floorless(FakeLedger):
    """A resize forgets what lies beyond the least of the old checkpoints."""

    def useful_floors_v1(self, row: SubscriptionRow, floors: list[int]) -> list[int] | None:
        return None


class Skipping(FakeLedger):
    """A resize begins where the furthest of the old partitions stands."""

    def apply_resize_v1(self, row: SubscriptionRow) -> None:
        furthest = max(one.position for number, one in self.partitions(row.id) if number < row.pool_size)
        super().apply_resize_v1(row)
        for _, one in self.partitions(row.id):
            one.position = furthest


class Hasty(FakeLedger):
    """A resize is applied while partitions are owned."""

    def apply_resizes_v1(self, node: UUID) -> tuple[int, int]:
        waiting = [row for row in self.subscriptions.values() if row.resize_to is not None]
        for row in waiting:
            for _, one in self.partitions(row.id):
                one.owner = None
            self.apply_resize_v1(row)
        return len(waiting), 0


class Dropping(FakeLedger):
    """What queues behind a parked event is dropped."""

    def park_events_v1(self, subscription: int, failed: list[dict[str, Any]]) -> None:
        super().park_events_v1(subscription, [one for one in failed if one["attempts"] > 0])


class Unraised(FakeLedger):
    """A rewind leaves the epochs as they are."""

    def rewind_subscription_v1(self, name: str, place: str) -> list[Any]:
        before = {key: one.epoch for key, one in self.checkpoints.items()}
        result = super().rewind_subscription_v1(name, place)
        for key, epoch in before.items():
            if self.subscriptions[key[0]].name == name:
                self.checkpoints[key].epoch = epoch
        return result


class Clinging(FakeLedger):
    """Dead nodes keep what they own."""

    def remove_dead_nodes_v1(self, now: int) -> bool:
        return False


class Leaving(FakeLedger):
    """What joins a queue that is replayed waits behind it for ever."""

    def park_events_v1(self, subscription: int, failed: list[dict[str, Any]]) -> None:
        super().park_events_v1(subscription, failed)
        for one in failed:
            row = self.parked.get((subscription, one["position"]))
            if row is not None and one["attempts"] == 0:
                row.replay = False


# -- in the engine


@contextmanager
def early() -> Iterator[None]:
    """A checkpoint covers what is taken and not yet acknowledged."""
    with patch.object(Progress, "settled", property(lambda self: self._read)), patch.object(
        Progress, "stored", lambda self, position, now: setattr(self, "checkpoint", position)
    ):  # fmt: skip
        yield


def highest(self: Progress, position: int) -> bool:
    """An acknowledgement settles everything before it."""
    self._flying.discard(position)
    while self._waiting and self._waiting[0] <= position:
        self._unstored.append(self._waiting.popleft())
    return True


def dropped(self: Emitter, event: Event) -> bool:
    """What belongs behind a parked event is taken for done."""
    if self._gate is not None and self._gate.state(emitter.key_of(event)) != "open":
        self._settle(event)
        return True
    return held_back(self, event)


held_back = Emitter._held_back


def overtaking(self: Emitter, event: Event) -> bool:
    """Parked keys hold nothing back."""
    return False


async def unloaded(self: Emitter) -> None:
    """A new owner does not ask what is parked."""
    self._stale = False


async def seamless(self: Feed, members: Any, after: Any, read_to: Any) -> None:
    """Who joins the feed takes what lies between for read."""
    async with self._paging:
        await self._begun()
        for handle, selector, share in members():
            self._router.add(handle, selector, share and (share.modulus, share.remainder))
    self._wake.set()


def uncut(self: Pools, handles: Any) -> None:
    """Who is cut off by the feed goes on as if nothing had happened."""
    self._place([self._emitters[handle] for handle in handles if handle in self._emitters])


def void(self: Inlet, after: int) -> None:
    """What was only looked at counts after a crash of the server as well, though its positions are drawn again."""
    reread(self, after if self.queue else max(after, self.scanned))


reread = Inlet.reread


async def released_late(self: Pools, emitters: list[Emitter]) -> None:
    """What is given back is settled to where it was read, even if it was lost while that waited for a connection."""
    if tasks := [one.task for one in emitters if one.task is not None]:
        await asyncio.wait(tasks)
    node = self.lease.node
    if node is None or any(one.closed for one in emitters):
        return
    with suppress(EventStoreError):
        async with self._control.acquire() as connection:
            positions = [(one.claim, one.inlet.scanned if one.closed else one.settleable()) for one in emitters]
            await self.ledger.release(node, positions, on=connection)
    self._lose(emitters)


async def careless(self: Any, events: Sequence[Event], attempt: int, settle: Any) -> Any:
    """The checkpoint of a projection is not in the transaction of its rows."""
    try:
        async with self._host.lent.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            delivery = Delivery(self.claim.name, self.claim.partition, self.claim.epoch, attempt, -1, self)
            failure = await self._run_in(connection, events, delivery)
            await (transaction.rollback() if failure else transaction.commit())
        if failure is None and not await settle(None):
            raise projecting.LeaseLost("another owner")
    except projecting.DatabaseUnavailable as error:
        raise projecting.Reclaim from error
    return failure or projecting.DONE


async def unending(self: Lease, node: UUID, asked: float) -> tuple[float, float | None]:
    """A node believes in its lease however long nobody confirms it."""
    try:
        renewal = await self._ledger.renew(node, self._settings.lease_ttl)
    except projecting.DatabaseUnavailable:
        await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time(), None
    self.news.set()
    return asyncio.get_running_loop().time(), renewal.next_expiry


def unshared(self: Inlet, events: Any) -> None:
    """Floors are not looked at: what a resize found settled comes again."""
    for event in events:
        if event.position > self.read:
            self.read = event.position
            self.queue.append(event)


class Silent(FakeLedger):
    """No change is told to anybody."""

    def changed_v1(self) -> None:
        pass


@dataclass(frozen=True)
class Planted:
    """One bug.

    Attributes:
        said: a part of what is said when it is noticed.
        seeds: how many histories it may take.
        rare: it takes dozens or, as what happens in a moment within a moment, thousands, which is for the hunts.
    """

    name: str
    said: str
    seeds: int
    kind: type[FakeLedger] = FakeLedger
    engine: Callable[[], AbstractContextManager[Any]] = nullcontext
    rare: bool = False


def engine(place: Any, name: str, bug: Any, said: str, seeds: int, *, rare: bool = False) -> Planted:
    return Planted(bug.__name__, said, seeds, engine=lambda: patch.object(place, name, bug), rare=rare)


def ledger(kind: type[FakeLedger], said: str, seeds: int) -> Planted:
    return Planted(kind.__name__, said, seeds, kind)


PLANTED = [
    ledger(Unfenced, "stale owner|settled unhandled|an owner was robbed", MOST),
    ledger(Ownerless, "stale owner|settled unhandled", MOST),
    ledger(Greedy, "an owner was robbed", MOST),
    ledger(Trusting, "an owner was robbed", MOST),
    ledger(Flat, "no higher epoch|come again under epoch", MOST),
    ledger(Sliding, "a checkpoint fell", MOST),
    ledger(Floorless, "brings .* again", MOST),
    ledger(Skipping, "a resize skips", MOST),
    ledger(Hasty, "an owner was robbed", MOST),
    ledger(Dropping, "lost|overtook|settled unhandled", MOST),
    ledger(Unraised, "settled unhandled|crashed", MOST),
    ledger(Clinging, "not done", MOST),
    ledger(Leaving, "left behind", MOST),
    ledger(Silent, "not done", MOST),
    Planted("early", "settled unhandled", MOST, engine=early),
    engine(Progress, "ack", highest, "settled unhandled", MOST),
    engine(Emitter, "_held_back", dropped, "settled unhandled", MOST),
    engine(Emitter, "_held_back", overtaking, "overtook", MOST),
    engine(Emitter, "_load_parked", unloaded, "overtook", MOST),
    engine(Feed, "join", seamless, "settled unhandled|overtook", MOST),
    engine(Pools, "cut", uncut, "settled unhandled|overtook|not done", MOST),
    engine(Inlet, "reread", void, "settled unhandled|overtook", MOST, rare=True),
    engine(projecting.ProjectingEmitter, "_once", careless, "was projected after", MOST, rare=True),
    engine(Pools, "_released", released_late, "settled unhandled", 10_000, rare=True),
    engine(Lease, "_renewed", unending, "beside a later owner|not done", MOST),
    engine(Inlet, "_put", unshared, "comes again", MOST),
]
"""What is planted; most of it is found within ten seeds."""
