"""Nodes and partitions: the fake of the SQL functions that nodes call, under the names they have there.

Each says what its namesake does, in the same steps; why is said there. The suite of
``tests/subscriptions/test_ledger_conformance.py`` holds both together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventstore.errors import LeaseLost
from eventstore.moments import to_datetime
from tests.simulation.hashing import uuid_hash_extended
from tests.simulation.tables import BUCKETS, Key, Locked, NodeRow, SubscriptionRow, Tables, rows

__all__ = ["Leasing"]

CLAIMED = rows(
    "subscription_id", "name", "partition", "checkpoint", "epoch", "pool_size", "selector", "options", "last_position",
    "floors", "parked_revision", "parked",
)  # fmt: skip
OWNED = rows("subscription_id", "partition", "epoch", "release", "parked_revision")
HELD = rows("subscription_id", "partition")
RENEWED = rows("renewed", "generation", "next_expiry")


class Leasing(Tables):
    """What nodes do."""

    # -- the node's lease

    def register_node_v1(self, node: UUID, name: str, ttl: float) -> list[Any]:
        self.nodes[node] = NodeRow(name, self.clock(), self.clock() + int(ttl * 1e6))
        return []

    def renew_node_v1(self, node: UUID, ttl: float) -> list[Any]:
        now, row = self.clock(), self.nodes.get(node)
        renewed = row is not None and row.lease_until > now
        if renewed and row is not None:
            row.lease_until = now + int(ttl * 1e6)
        expiry = min((one.lease_until for incarnation, one in self.nodes.items() if incarnation != node), default=None)
        return [RENEWED((renewed, self.generation, None if expiry is None else (expiry - now) / 1e6))]

    def leave_node_v1(self, node: UUID) -> list[Any]:
        if any(key in self.locked for key, _ in self.owned_by(node)):
            raise Locked
        for _, row in self.owned_by(node):
            row.owner = None
        if self.nodes.pop(node, None) is not None:
            self._forget_handled(node)
            self.changed_v1()
        return []

    def _forget_handled(self, node: UUID) -> None:
        for place in [place for place in self.handled if place[1] == node]:
            del self.handled[place]

    def remove_dead_nodes_v1(self, now: int) -> bool:
        dead = [node for node, one in sorted(self.nodes.items()) if one.lease_until <= now]
        changed = False
        for node in dead:
            left = False
            for key, row in self.owned_by(node):
                if self.free_to_lock(key):
                    row.owner = None
                    changed = True
                else:
                    left = True
            self._forget_handled(node)
            if not left:
                del self.nodes[node]
                changed = True
        return changed

    # -- claiming

    def claim_partitions_v1(
        self, node: UUID, names: Sequence[str], fallback: Sequence[str], held_of: Sequence[int], held: Sequence[int]
    ) -> list[Any]:
        now = self.clock()
        if node not in self.nodes or self.nodes[node].lease_until <= now:
            raise LeaseLost("the lease of this node ran out")  # there nothing of what was done before stays either
        changed = self.remove_dead_nodes_v1(now)
        keys = set(zip(held_of, held, strict=True))
        changed = self.declare_handled_v1(node, names, fallback) or changed
        freed, kept = self.free_unheld_v1(node, keys)
        changed = freed or changed
        applied, locked = self.apply_resizes_v1(node)
        wanted = self.wanted_partitions_v1(node, keys, now)
        taken: list[Any] = []
        missing = 0
        for subscription, many, first in wanted:
            got = self._take(node, subscription, many, first, keys)
            taken += got
            missing += min(many - len(got), self._nobody_runs(node, subscription, keys, now))
        if changed or applied:
            self.changed_v1()
        closing = (None, None, kept + locked + missing, None, None, None, None, None, None, None, None, None)
        return [*taken, CLAIMED(closing)]

    def _take(self, node: UUID, subscription: SubscriptionRow, many: int, first: int, held: set[Key]) -> list[Any]:
        size, taken = subscription.pool_size, []
        for number in sorted(range(size), key=lambda one: (one + size - first) % size):
            key = subscription.id, number
            row = self.checkpoints[key]
            if len(taken) < many and self._is_free(key, held) and self.free_to_lock(key):
                row.owner, row.epoch = node, row.epoch + 1
                taken.append(self._claimed(subscription, number))
        return taken

    def _is_free(self, key: Key, held: set[Key]) -> bool:
        row = self.checkpoints[key]
        return row.owner is None and row.halted is None and key not in held

    def _claimed(self, subscription: SubscriptionRow, number: int) -> Any:
        row = self.checkpoints[subscription.id, number]
        mine = [
            (position, one) for (of, position), one in self.parked.items()
            if of == subscription.id and one.bucket % subscription.pool_size == number
        ]  # fmt: skip
        parked = any(
            (one.state == "parked" and (one.blocking or one.replay)) or position > row.position
            for position, one in mine
        )
        return CLAIMED((
            subscription.id, subscription.name, number, row.position, row.epoch, subscription.pool_size,
            subscription.selector, subscription.options, self.log.last_value, subscription.floors,
            row.parked_revision, parked,
        ))  # fmt: skip

    def _nobody_runs(self, node: UUID, subscription: SubscriptionRow, held: set[Key], now: int) -> int:
        def idle(owner: UUID | None) -> bool:
            return owner is None or owner == node or (owner in self.nodes and self.nodes[owner].lease_until <= now)

        numbers = [(subscription.id, number) for number in range(subscription.pool_size)]
        found = [(key, self.checkpoints[key]) for key in numbers]
        return sum(row.halted is None and key not in held and idle(row.owner) for key, row in found)

    def declare_handled_v1(self, node: UUID, names: Sequence[str], fallback: Sequence[str]) -> bool:
        ids = {one.name: one.id for one in self.subscriptions.values()}
        asked = {(ids[name], node): True for name in fallback if name in ids}
        asked |= {(ids[name], node): False for name in names if name in ids}
        before = {place: one for place, one in self.handled.items() if place[1] == node}
        if before == asked:
            return False
        self._forget_handled(node)
        self.handled |= asked
        return True

    def free_unheld_v1(self, node: UUID, held: set[Key]) -> tuple[bool, int]:
        unheld = [(key, row) for key, row in self.owned_by(node) if key not in held]
        freed = [row for key, row in unheld if self.free_to_lock(key)]
        for row in freed:
            row.owner = None
        return bool(freed), len(unheld) - len(freed)

    def fair_shares_v1(self, node: UUID, now: int) -> dict[int, tuple[int, int]]:
        """Share and first partition, by subscription."""
        shares = {}
        for (subscription, one), mine in sorted(self.handled.items()):
            if one != node:
                continue
            others = [
                (each, fallback) for (of, each), fallback in self.handled.items()
                if of == subscription and (each == node or self.nodes[each].lease_until > now)
            ]  # fmt: skip
            standby = mine and not all(fallback for _, fallback in others)
            ranks = sorted(
                (uuid_hash_extended(each, subscription), each) for each, fallback in others if fallback == mine
            )
            rank, candidates = [each for _, each in ranks].index(node), len(ranks)
            size = self.subscriptions[subscription].pool_size
            share = 0 if standby else size // candidates + (rank < size % candidates)
            shares[subscription] = share, size // candidates * rank + min(rank, size % candidates)
        return shares

    def wanted_partitions_v1(self, node: UUID, held: set[Key], now: int) -> list[tuple[SubscriptionRow, int, int]]:
        mine = held | {key for key, _ in self.owned_by(node)}
        found = []
        for subscription, (share, first) in self.fair_shares_v1(node, now).items():
            row = self.subscriptions[subscription]
            wanted = share - sum(key[0] == subscription for key in mine)
            if row.state == "active" and row.resize_to is None and wanted > 0:
                found.append((row, wanted, first))
        return found

    def owned_partitions_v1(self, node: UUID) -> list[Any]:
        shares, found, many = self.fair_shares_v1(node, self.clock()), [], dict[int, int]()
        for (subscription, number), row in self.owned_by(node):
            many[subscription] = many.get(subscription, 0) + 1
            of, share = self.subscriptions[subscription], shares.get(subscription)
            release = (
                "paused" if of.state == "paused"
                else "resizing" if of.resize_to is not None
                else "not_handled" if share is None
                else "share" if many[subscription] > share[0]
                else None
            )  # fmt: skip
            found.append(OWNED((subscription, number, row.epoch, release, row.parked_revision)))
        return found

    # -- settling

    def holds(self, node: UUID, key: Key, epoch: int) -> bool:
        """The fence."""
        row = self.checkpoints.get(key)
        return row is not None and row.owner == node and row.epoch == epoch

    def settle_partitions_v1(
        self, node: UUID, subscriptions: Sequence[int], partitions: Sequence[int], epochs: Sequence[int],
        positions: Sequence[int | None],
    ) -> list[Any]:  # fmt: skip
        each = zip(subscriptions, partitions, epochs, positions, strict=True)
        held = [((of, n), position) for of, n, epoch, position in each if self.holds(node, (of, n), epoch)]
        if any(key in self.locked for key, _ in held):
            raise Locked
        for key, position in held:
            self.move(key, position)
        return [HELD(key) for key, _ in held]

    def move(self, key: Key, position: int | None) -> None:
        """Move a checkpoint forward; its commit flushes every position drawn so far."""
        if position is not None:
            row = self.checkpoints[key]
            row.position = max(row.position, position)
            self.log.flushed = max(self.log.flushed, self.log.last_value)

    def release_partitions_v1(
        self, node: UUID, subscriptions: Sequence[int], partitions: Sequence[int], epochs: Sequence[int],
        positions: Sequence[int | None],
    ) -> list[Any]:  # fmt: skip
        held = self.settle_partitions_v1(node, subscriptions, partitions, epochs, positions)
        for key in held:
            self.checkpoints[tuple(key)].owner = None
        if held:
            self.changed_v1()
        return held

    def settle_partition_v1(
        self, node: UUID, subscription: int, partition: int, epoch: int, position: int | None, failed: str,
        done: Sequence[int],
    ) -> list[Any]:  # fmt: skip
        key = subscription, partition
        if not self.holds(node, key, epoch):
            return [(False,)]
        if key in self.locked:
            raise Locked
        self.settled(key, position, failed, done)
        return [(True,)]

    def settled(self, key: Key, position: int | None, failed: str, done: Sequence[int]) -> None:
        """Write down what a settlement that is not refused says."""
        self.move(key, position)
        if failed != "[]":
            self.park_events_v1(key[0], json.loads(failed))
        for one in done:
            self.parked.pop((key[0], one), None)

    def park_events_v1(self, subscription: int, failed: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def halt_partition_v1(self, node: UUID, subscription: int, partition: int, epoch: int, halted: str) -> list[Any]:
        key = subscription, partition
        if not self.holds(node, key, epoch):
            return [(False,)]
        if key in self.locked:
            raise Locked
        at = to_datetime(self.clock()).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.checkpoints[key].halted = json.dumps({**json.loads(halted), "at": at})
        self.checkpoints[key].owner = None
        self.changed_v1()
        return [(True,)]

    # -- resizing

    def apply_resizes_v1(self, node: UUID) -> tuple[int, int]:
        applied = locked = 0
        for subscription, one in sorted(self.handled):
            row = self.subscriptions[subscription]
            if one != node or row.resize_to is None:
                continue
            partitions = self.partitions(subscription)
            if any(each.owner is not None for _, each in partitions):
                continue
            if all(self.free_to_lock((subscription, number)) for number, _ in partitions):
                self.apply_resize_v1(row)
                applied += 1
            else:
                locked += 1
        return applied, locked

    def apply_resize_v1(self, row: SubscriptionRow) -> None:
        assert row.resize_to is not None
        size, new = row.pool_size, row.resize_to
        old = [self.checkpoints[row.id, number] for number in range(size)]
        floors = row.floors or [0] * BUCKETS
        done = [max(old[bucket % size].position, floors[bucket]) for bucket in range(BUCKETS)]
        every = [one for _, one in self.partitions(row.id)]
        epoch, revision = max(one.epoch for one in every) + 1, max(one.parked_revision for one in every) + 1
        for one in every:
            one.epoch, one.parked_revision = epoch, revision
        made = []
        for number in range(new):
            mine = range(number, BUCKETS, new)
            stopped = [old[n].halted for n in sorted({bucket % size for bucket in mine}) if old[n].halted]
            made.append((min(done[bucket] for bucket in mine), stopped[0] if stopped else None))
        for number, (position, halted) in enumerate(made):
            one = self.checkpoints.setdefault((row.id, number), type(old[0])(position))
            one.position, one.epoch, one.halted, one.parked_revision = position, epoch, halted, revision
        row.pool_size, row.resize_to = new, None
        row.floors = self.useful_floors_v1(row, done)

    def useful_floors_v1(self, row: SubscriptionRow, floors: list[int]) -> list[int] | None:
        starts = [self.checkpoints[row.id, number].position for number in range(row.pool_size)]
        useful = any(floor > starts[bucket % row.pool_size] for bucket, floor in enumerate(floors))
        return floors if useful else None
