"""Subscriptions as operators see them, and reading: the rest of the fake."""

from __future__ import annotations

import json
from typing import Any

from eventstore.errors import CheckpointAheadOfLog, ConfigurationError
from tests.simulation.parking import EVENT, Parking
from tests.simulation.tables import Checkpoint, SubscriptionRow, rows

__all__ = ["FakeLedger"]

STORED = rows(
    "id", "key", "name", "selector", "after", "options", "pool_size", "state", "start_position", "created_at",
    "resize_to", "partition", "checkpoint", "epoch", "owner", "owner_name", "lease_until", "halted",
)  # fmt: skip
CREATED = rows("created", "differing")
REWOUND = rows("after", "partitions", "parked")
READ = rows(*EVENT, "horizon", "last_position", "window_end")
NOTHING = (None,) * len(EVENT)


class FakeLedger(Parking):
    """All functions about subscriptions, and the one that reads the log."""

    def create_subscription_v1(self, name: str, selector: str, after: str, options: str, size: int) -> list[Any]:
        start = self.start_position_v1(json.loads(after))
        self.last_id += 1  # the sequence is drawn from also where the name is taken
        for one in self.subscriptions.values():
            if one.name == name:
                asked = {"selector": selector, "after": after, "options": options}
                stored = {"selector": one.selector, "after": one.after, "options": one.options}
                return [CREATED((False, [n for n in asked if json.loads(asked[n]) != json.loads(stored[n])]))]
        self.subscriptions[self.last_id] = SubscriptionRow(
            self.last_id, name, selector, after, options, size, start, self.clock()
        )
        for number in range(size):
            self.checkpoints[self.last_id, number] = Checkpoint(start)
        self.changed_v1()
        return [CREATED((True, []))]

    def start_position_v1(self, after: Any) -> int:
        if after == "current":
            return self.log.horizon
        if not isinstance(after, int):
            raise NotImplementedError("starts by time are not part of the fake")
        if not 0 <= after <= self.log.last_value:
            raise ConfigurationError(f"the log ends at position {self.log.last_value}")
        return after

    def get_subscriptions_v1(self, name: str | None = None) -> list[Any]:
        chosen = [one for one in self.subscriptions.values() if name in (None, one.name)]
        return [
            self._stored(of, number) for of in sorted(chosen, key=lambda one: one.name)
            for number in range(of.pool_size)
        ]  # fmt: skip

    def _stored(self, of: SubscriptionRow, number: int) -> Any:
        row = self.checkpoints[of.id, number]
        node = self.nodes[row.owner] if row.owner is not None else None
        return STORED((
            of.id, "", of.name, of.selector, of.after, of.options, of.pool_size, of.state, of.start_position,
            of.created_at, of.resize_to, number, row.position, row.epoch, row.owner, node and node.name,
            node and node.lease_until, row.halted,
        ))  # fmt: skip

    def delete_subscription_v1(self, name: str) -> list[Any]:
        if all(one.name != name for one in self.subscriptions.values()):
            return [(False,)]
        of = self.lock_subscription_v1(name)
        del self.subscriptions[of.id]
        tables: tuple[dict[Any, Any], ...] = (self.checkpoints, self.handled, self.parked)
        for table in tables:
            for key in [key for key in table if key[0] == of.id]:
                del table[key]
        self.changed_v1()
        return [(True,)]

    def pause_subscription_v1(self, name: str) -> list[Any]:
        of = self.find_subscription_v1(name)
        if of.state == "paused":
            return [(False,)]
        of.state = "paused"
        self.changed_v1()
        return [(True,)]

    def resume_subscription_v1(self, name: str) -> list[Any]:
        of = self.lock_subscription_v1(name)
        halted = [one for _, one in self.partitions(of.id) if one.halted is not None]
        for one in halted:
            one.halted = None
        if of.state == "active" and not halted:
            return [(False,)]
        of.state = "active"
        self.changed_v1()
        return [(True,)]

    def ack_subscription_v1(self, name: str, position: int) -> list[Any]:
        of = self.lock_subscription_v1(name)
        self._check_within_log(name, position)
        moved = [one for n, one in self.partitions(of.id) if n < of.pool_size and one.position < position]
        for one in moved:
            one.position, one.epoch = position, one.epoch + 1
        if moved:
            self.changed_v1()
        return [(len(moved),)]

    def _check_within_log(self, name: str, position: int) -> None:
        if position > self.log.last_value:
            raise CheckpointAheadOfLog(name, position, self.log.last_value)

    def rewind_subscription_v1(self, name: str, place: str) -> list[Any]:
        of, after = self.lock_subscription_v1(name), json.loads(place)
        if not isinstance(after, int):
            raise NotImplementedError("rewinds to a time or an event are not part of the fake")
        self._check_within_log(name, after)
        beyond = 0
        for number, one in self.partitions(of.id):
            beyond += number < of.pool_size and one.position > after
            one.position, one.epoch, one.halted = min(one.position, after), one.epoch + 1, None
        if of.floors is not None:
            of.floors = self.useful_floors_v1(of, [min(floor, after) for floor in of.floors])
        forgotten = [position for position, _ in self.rows_of(of.id) if position > after]
        for position in forgotten:
            del self.parked[of.id, position]
        self.changed_v1()
        return [REWOUND((after, beyond, len(forgotten)))]

    def update_subscription_v1(self, name: str, options: str) -> list[Any]:
        of = self.lock_subscription_v1(name)
        if json.loads(of.options) == json.loads(options):
            return [(False,)]
        of.options = options
        for _, one in self.partitions(of.id):
            one.epoch += 1
        self.changed_v1()
        return [(True,)]

    def resize_subscription_v1(self, name: str, size: int) -> list[Any]:
        of = self.lock_subscription_v1(name)
        removed = self.remove_dead_nodes_v1(self.clock())
        free = all(one.owner is None for _, one in self.partitions(of.id))
        wanted, before = None if size == of.pool_size else size, of.resize_to
        of.resize_to = wanted
        if wanted == before and (wanted is None or not free):
            if removed:
                self.changed_v1()
            return [(wanted is None,)]
        if wanted is not None and free:
            self.apply_resize_v1(of)
        self.changed_v1()
        return [(wanted is None or free,)]

    # -- reading

    def read_events_v1(
        self, selector: str | None, after: int, before: int | None, since: Any, until: Any, backwards: bool,
        limit: int, window: int | None, upto: int | None, modulus: int | None, remainder: int | None,
    ) -> list[Any]:  # fmt: skip
        log = self.log
        horizon, last = (log.horizon, log.last_value) if upto is None else (upto, None)
        low, high = after, horizon if before is None else min(horizon, before - 1)
        if window is not None:
            first = log.read(None, low, high, backwards, 1, None, None)
            if backwards:
                high = first[0][7] if first else low
                low = max(low, high - window)
            else:
                low = first[0][7] - 1 if first else max(low, high)
                high = low + window if high - window > low else high
        found = log.read(selector, low, high, backwards, limit, modulus, remainder)
        return [
            *(READ((*row, None, None, None)) for row in found),
            READ((*NOTHING, horizon, last, low if backwards else max(low, high))),
        ]
