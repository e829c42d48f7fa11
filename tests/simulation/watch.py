"""What has to hold after every step, whatever goes wrong. It looks at the tables and at what handlers are called with.

The rules are written down here anew, and nothing of the engine or of the fake's own fences is asked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventstore.errors import EventStoreError
from eventstore.events import Event
from tests.simulation.log import bucket_v1
from tests.simulation.operating import FakeLedger
from tests.simulation.tables import Key

__all__ = ["Faulty", "Term", "Watch"]

READS = {
    "renew_node_v1", "register_node_v1", "read_events_v1", "owned_partitions_v1", "load_parked_v1", "replayable_v1",
    "closed_keys_v1",
}  # fmt: skip
"""Functions that change nothing that is looked at here."""

SETTLES = {"settle_partitions_v1", "settle_partition_v1", "release_partitions_v1"}


class Faulty(AssertionError):
    """A promise was broken."""


@dataclass
class Term:
    """What one owner of a partition, under one epoch, began with and is through with."""

    checkpoint: int
    epoch: int
    pool_size: int
    floors: list[int] | None
    handled: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)

    def covers(self, event: Event) -> bool:
        """Whether the event was settled when the term began."""
        return event.position <= self.checkpoint or (
            self.floors is not None and event.position <= self.floors[event.bucket]
        )


@dataclass
class Watched:
    """One subscription."""

    name: str
    blocking: bool
    terms: dict[tuple[int, int], Term] = field(default_factory=dict)
    handled: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    replayed: set[int] = field(default_factory=set)
    highest: dict[int, int] = field(default_factory=dict)
    latest: dict[int, int] = field(default_factory=dict)


class Watch:
    """Looks at every call that is run, and every event that is delivered."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger
        self.watched: dict[str, Watched] = {}
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._before: Any = None
        self._folded: dict[tuple[str, str], int] = defaultdict(int)
        self.looks = 0

    def subscription(self, name: str, blocking: bool) -> None:
        self.watched[name] = Watched(name, blocking)

    def appended(self, events: list[Event]) -> None:
        for event in events:
            self._events[event.stream or ""].append(event)

    # -- the tables

    def _state(self) -> dict[Key, tuple[int, int, UUID | None, bool]]:
        return {
            key: (one.position, one.epoch, one.owner, one.halted is not None)
            for key, one in self._ledger.checkpoints.items()
        }

    def before(self, function: str, _args: tuple[Any, ...]) -> None:
        if function in READS:
            return
        leases = {node: one.lease_until for node, one in self._ledger.nodes.items()}
        settled = self._all_settled() if self._may_resize(function) else None
        self._before = self._state(), leases, settled, set(self._ledger.parked)

    def after(self, function: str, args: tuple[Any, ...], result: Any) -> None:
        if function in READS:
            return
        self.looks += 1
        state, leases, settled, parked = self._before
        for key, new in self._state().items():
            old = state.get(key)
            if old is not None and old != new:
                self._changed(function, args, key, old, new, leases)
        if settled is not None and not isinstance(result, EventStoreError):
            self._resized(settled, self._all_settled())
        if function in SETTLES | {"halt_partition_v1"}:
            self._fenced(function, args, state, parked)
        if isinstance(result, EventStoreError):
            return
        if function == "rewind_subscription_v1":
            self._rewound(args[0], result)
        elif function == CLAIM:
            for row in result[:-1]:
                self._claimed(row)
        elif function == "settle_partition_v1" and result[0][0]:
            self._replayed(*args[1:4], args[6])
            self._left_behind(args[1])

    def _changed(
        self, function: str, args: tuple[Any, ...], key: Key, old: Any, new: Any, leases: dict[UUID, int]
    ) -> None:
        """Judge how one partition went from *old* to *new*: position, epoch, owner, halted."""
        what = f"{function}: partition {key} went from {old[:2]} to {new[:2]}"
        if new[1] < old[1]:
            raise Faulty(f"an epoch fell. {what}")
        if new[0] < old[0] and function not in {"rewind_subscription_v1", *RESIZES}:
            raise Faulty(f"a checkpoint fell. {what}")
        if new[0] > old[0] and function not in {*SETTLES, *RESIZES, "ack_subscription_v1"}:
            raise Faulty(f"a checkpoint moved that nobody settled. {what}")
        if new[0] > old[0] and function in SETTLES:
            self._settled(key, old[0], new[0], old[1])
        if new[2] is not None and new[2] != old[2]:
            if function != CLAIM or new[2] != args[0]:
                raise Faulty(f"an owner came from nowhere. {what}")
            if new[1] <= old[1]:
                raise Faulty(f"a new owner has no higher epoch. {what}")
        if old[2] is not None and old[2] != new[2]:
            self._lost(function, args, old[2], what, leases)

    def _lost(self, function: str, args: tuple[Any, ...], owner: UUID, what: str, leases: dict[UUID, int]) -> None:
        """An owner loses a partition by its own word, or because its lease ran out by the database's clock."""
        by_itself = function in {CLAIM, "release_partitions_v1", "halt_partition_v1", "leave_node_v1"}
        if by_itself and args[0] == owner:
            return
        if leases.get(owner, 0) > self._ledger.clock():
            raise Faulty(f"an owner was robbed whose lease runs. {what}")

    def _fenced(self, function: str, args: tuple[Any, ...], before: dict[Key, Any], parked: set[Key]) -> None:
        """Nothing changes for whoever does not own the partition under its epoch."""
        many = isinstance(args[1], (list, tuple))
        claims = zip(args[1], args[2], args[3], strict=True) if many else [args[1:4]]
        now = self._state()
        for subscription, number, epoch in claims:
            key = subscription, number
            old = before.get(key)
            if old is None or (old[1] == epoch and old[2] == args[0]):
                continue
            if now.get(key) != old or (not many and set(self._ledger.parked) != parked):
                raise Faulty(f"{function}: a stale owner changed partition {key}, epoch {epoch} of {old[1]}")

    def _settled(self, key: Key, low: int, high: int, epoch: int) -> None:
        """What a checkpoint passes was handled under its epoch, or is parked."""
        row = self._ledger.subscriptions[key[0]]
        watched = self.watched[row.name]
        for event in self._ledger.log.events.values():
            if low < event.position <= high and event.bucket % row.pool_size == key[1]:
                floor = row.floors[event.bucket] if row.floors else 0
                through = epoch in watched.handled[event.position] or (row.id, event.position) in self._ledger.parked
                if event.position > floor and not through and event.position not in watched.replayed:
                    said = f"settled unhandled {short(event)} by moving {key} to {high}, epoch {epoch}"
                    raise Faulty(f"{row.name}: {said}")

    # -- resizes and rewinds

    def _may_resize(self, function: str) -> bool:
        waits = any(row.resize_to is not None for row in self._ledger.subscriptions.values())
        return function == "resize_subscription_v1" or (function == CLAIM and waits)

    def _all_settled(self) -> dict[str, set[int]]:
        return {row.name: self.settled_of(row.name) for row in self._ledger.subscriptions.values()}

    def settled_of(self, name: str) -> set[int]:
        """Positions of the events that count as settled."""
        row = self._ledger.find_subscription_v1(name)
        settled = set()
        for position, event in self._ledger.log.events.items():
            checkpoint = self._ledger.checkpoints[row.id, event.bucket % row.pool_size].position
            if position <= max(checkpoint, row.floors[event.bucket] if row.floors else 0):
                settled.add(position)
        return settled

    def _resized(self, before: dict[str, set[int]], after: dict[str, set[int]]) -> None:
        for name, settled in before.items():
            if after.get(name, settled) != settled:
                lost, again = sorted(after[name] - settled), sorted(settled - after[name])
                raise Faulty(f"{name}: a resize skips {lost} and brings {again} again")

    def _rewound(self, name: str, result: Any) -> None:
        watched, after = self.watched[name], result[0][0]
        for position in [one for one in watched.handled if one > after]:
            del watched.handled[position]
        watched.replayed = {one for one in watched.replayed if one <= after}
        for term in watched.terms.values():
            term.handled = {one for one in term.handled if one <= after}

    # -- projections

    def folded(self, rows: list[tuple[str, str, int]]) -> None:
        """Judge what a projection has committed: each event once, in order."""
        for name, stream, version in rows:
            known = self._folded[name, stream]
            if version != known + 1:
                raise Faulty(f"{name}: {stream}@{version} was projected after version {known}")
            self._folded[name, stream] = version

    # -- deliveries

    def _claimed(self, row: Any) -> None:
        watched = self.watched[row["name"]]
        term = Term(row["checkpoint"], row["epoch"], row["pool_size"], row["floors"])
        watched.terms[row["partition"], term.epoch] = term
        for bucket in {bucket_v1(stream) for stream in self._events}:
            if bucket % term.pool_size == row["partition"]:
                if term.epoch <= watched.highest.get(bucket, -1):
                    raise Faulty(f"{watched.name}: streams of bucket {bucket} come again under epoch {term.epoch}")
                watched.highest[bucket] = term.epoch

    def _replayed(self, subscription: int, _partition: int, epoch: int, done: Any) -> None:
        watched = self.watched[self._ledger.subscriptions[subscription].name]
        for position in done:
            if epoch not in watched.handled[position]:
                raise Faulty(f"{watched.name}: the parked event at {position} counts as done and was not handled")
            watched.replayed.add(position)

    def _left_behind(self, subscription: int) -> None:
        """Who queues for nobody's replay waits for an event that failed: operators here choose whole keys."""
        rows = self._ledger.rows_of(subscription)
        waiting = [(at, one) for at, one in rows if one.state == "parked" and one.blocking and not one.replay]
        for at, one in waiting:
            if not one.attempts and not any(other.key == one.key and other.attempts for _, other in waiting):
                raise Faulty(f"the event at {at} was left behind in the queue of {one.key}, which nobody waits for")

    def begun(self, name: str, partition: int, epoch: int, events: list[Event], honest: bool) -> None:
        """Judge the call of a handler: no event overtakes an earlier one of its stream.

        Args:
            honest: the node was never frozen, and its clock is right: it has to know when its lease is over.
        """
        watched = self.watched[name]
        term = watched.terms[partition, epoch]
        row = self._ledger.find_subscription_v1(name)
        current = self._ledger.checkpoints[row.id, partition].epoch == epoch
        with_it = {event.position for event in events}
        for event in events:
            if honest and epoch < watched.latest.get(event.bucket, 0):
                raise Faulty(f"{name}: {short(event)} is delivered under epoch {epoch}, beside a later owner")
            watched.latest[event.bucket] = max(epoch, watched.latest.get(event.bucket, 0))
            if event.bucket % term.pool_size != partition:
                raise Faulty(f"{name}: {short(event)} was delivered to partition {partition}")
            if current and term.covers(event) and (row.id, event.position) not in self._ledger.parked:
                raise Faulty(f"{name}: {short(event)} comes again, and was settled when epoch {epoch} began")
            for earlier in self._events[event.stream or ""]:
                if earlier.position >= event.position:
                    break
                if earlier.position not in with_it:
                    self._before_it(watched, term, row.id, earlier, event, current)

    def _before_it(
        self, watched: Watched, term: Term, subscription: int, earlier: Event, event: Event, current: bool
    ) -> None:
        position = earlier.position
        parked = self._ledger.parked.get((subscription, position))
        if parked is not None:
            if current and parked.state == "parked" and parked.blocking:
                raise Faulty(f"{watched.name}: {short(event)} overtook the parked {short(earlier)}")
            return
        if position in term.handled or term.covers(earlier) or position in watched.replayed:
            return
        if position in term.given_up and not watched.blocking:
            return
        if current:
            raise Faulty(f"{watched.name}: {short(event)} overtook {short(earlier)} under epoch {term.epoch}")

    def handled(self, name: str, partition: int, epoch: int, event: Event) -> None:
        watched = self.watched[name]
        watched.terms[partition, epoch].handled.add(event.position)
        watched.handled[event.position].add(epoch)

    def failed(self, name: str, partition: int, epoch: int, event: Event) -> None:
        """Take note that the last attempt failed."""
        self.watched[name].terms[partition, epoch].given_up.add(event.position)

    def unhandled(self, name: str) -> list[Event]:
        """Events that were neither handled nor given up."""
        row = self._ledger.find_subscription_v1(name)
        watched = self.watched[name]
        return [
            event for position, event in self._ledger.log.events.items()
            if not watched.handled[position] and position not in watched.replayed
            and (row.id, position) not in self._ledger.parked
        ]  # fmt: skip


CLAIM = "claim_partitions_v1"
RESIZES = {CLAIM, "resize_subscription_v1"}


def short(event: Event) -> str:
    return f"{event.stream}@{event.version} ({event.position})"
