"""Parked events: the fake of the SQL functions about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eventstore.errors import ConfigurationError
from tests.simulation.leasing import Leasing
from tests.simulation.tables import ParkedRow, rows

__all__ = ["Parking"]

PARKED_KEY = rows("key", "blocking", "replay", "position")
EVENT = (
    "id", "type", "data", "metadata", "tags", "stream", "version", "position", "bucket", "created_at", "recorded_at",
)  # fmt: skip
REPLAYABLE = rows(*EVENT, "parked_position", "key", "attempts", "blocking")
KEY = rows("key")
LISTED = rows(
    "position", "partition", "key", "state", "blocking", "replay", "attempts", "error", "message", "traceback",
    "first_failed_at", "last_failed_at", "id", "type", "stream", "version", "data", "metadata", "recorded_at",
)  # fmt: skip


class Parking(Leasing):
    """What happens to events that are set aside."""

    def rows_of(self, subscription: int) -> list[tuple[int, ParkedRow]]:
        """Position and row of each parked event, by position."""
        found = [(position, one) for (of, position), one in self.parked.items() if of == subscription]
        return sorted(found, key=lambda each: each[0])

    def park_events_v1(self, subscription: int, failed: list[dict[str, Any]]) -> None:
        before = dict(self.rows_of(subscription))
        again = [before[one["position"]] for one in failed
                 if one["attempts"] > 0 and not one["replay"] and one["position"] in before]  # fmt: skip
        ended = {row.key for row in again if row.replay and row.blocking}
        closing = {one["key"] for one in failed if one["blocking"] and one["attempts"] > 0}
        waiting = {
            row.key for row in before.values() if row.state == "parked" and row.blocking and not row.replay
        } | closing  # fmt: skip
        for one in failed:
            if (row := self.parked.get((subscription, one["position"]))) is None:
                behind = one["blocking"] and one["attempts"] == 0 and one["key"] not in waiting
                self._park(subscription, one, one["replay"] or behind)
            elif one["attempts"] > 0:
                self._park_again(row, one)
        for _, row in self.rows_of(subscription):
            if row.key in ended and row.state == "parked":
                row.replay = False

    def _park(self, subscription: int, one: dict[str, Any], replay: bool) -> None:
        now = self.clock()
        self.parked[subscription, one["position"]] = ParkedRow(
            one["bucket"], one["key"], one["state"], one["blocking"], replay, one["attempts"], one["error"],
            one["message"], one["traceback"], now, now,
        )  # fmt: skip

    def _park_again(self, row: ParkedRow, one: dict[str, Any]) -> None:
        row.attempts += one["attempts"]
        row.error, row.message, row.traceback = one["error"], one["message"], one["traceback"]
        row.last_failed_at = self.clock()
        discarded = row.state == "discarded"
        row.replay = one["replay"] and not discarded and one["state"] == "parked"
        row.state = row.state if discarded else one["state"]

    def load_parked_v1(self, subscription: int, partition: int) -> list[Any]:
        if (of := self.subscriptions.get(subscription)) is None:
            return []
        checkpoint = self.checkpoints[subscription, partition].position
        mine = [each for each in self.rows_of(subscription) if each[1].bucket % of.pool_size == partition]
        found = {(one.key, one.blocking, one.replay, position) for position, one in mine if position > checkpoint}
        closed: dict[str, list[tuple[int, ParkedRow]]] = {}
        for position, one in mine:
            if one.state == "parked" and (one.blocking or one.replay):
                closed.setdefault(one.key, []).append((position, one))
        for key, some in closed.items():
            blocking, replay = any(one.blocking for _, one in some), any(one.replay for _, one in some)
            found.add((key, blocking, replay, some[0][0]))
        return [PARKED_KEY(each) for each in sorted(found)]

    def replayable_v1(self, subscription: int, partition: int, limit: int) -> list[Any]:
        if (of := self.subscriptions.get(subscription)) is None:
            return []
        mine = [
            (position, one) for position, one in self.rows_of(subscription)
            if one.state == "parked" and one.replay and one.bucket % of.pool_size == partition
        ]  # fmt: skip
        return [
            REPLAYABLE((*self._event(position), position, one.key, one.attempts, one.blocking))
            for position, one in mine[:limit]
        ]

    def _event(self, position: int) -> tuple[Any, ...]:
        return self.log.rows[self.log.positions.index(position)]

    def closed_keys_v1(self, subscription: int, keys: Sequence[str]) -> list[Any]:
        closed = {
            one.key for _, one in self.rows_of(subscription) if one.state == "parked" and (one.blocking or one.replay)
        }
        return [KEY((key,)) for key in keys if key in closed]

    # -- by an operator

    def replay_parked_v1(self, name: str, position: int | None, key: str | None) -> list[Any]:
        of = self.lock_subscription_v1(name)
        chosen = self.chosen_parked_v1(of.id, position, key)
        if position is not None:
            self.check_first_of_queue_v1(of.id, position)
        for one in chosen:
            self.parked[of.id, one].replay = True
        self._bump(of.id, chosen)
        return [(len(chosen),)]

    def discard_parked_v1(self, name: str, position: int | None, key: str | None) -> list[Any]:
        of = self.lock_subscription_v1(name)
        chosen = self.chosen_parked_v1(of.id, position, key)
        for one in chosen:
            row = self.parked[of.id, one]
            row.state, row.blocking, row.replay = "discarded", False, False
        self._bump(of.id, chosen)
        return [(len(chosen),)]

    def _bump(self, subscription: int, positions: Iterable[int]) -> None:
        size = self.subscriptions[subscription].pool_size
        numbers = {self.parked[subscription, position].bucket % size for position in positions}
        for number in numbers:
            self.checkpoints[subscription, number].parked_revision += 1
        if numbers:
            self.changed_v1()

    def chosen_parked_v1(self, subscription: int, position: int | None, key: str | None) -> list[int]:
        mine = [(at, one) for at, one in self.rows_of(subscription) if one.state == "parked"]
        if position is not None:
            found = [at for at, _ in mine if at == position]
            if not found:
                raise ConfigurationError(f"no event is parked at position {position}")
            return found
        return [at for at, one in mine if key is None or one.key in (f"s:{key}", f"e:{key.lower()}")]

    def check_first_of_queue_v1(self, subscription: int, position: int) -> None:
        this = self.parked[subscription, position]
        queue = [
            at for at, one in self.rows_of(subscription)
            if one.key == this.key and one.state == "parked" and one.blocking
        ]  # fmt: skip
        if this.blocking and queue and queue[0] < position:
            raise ConfigurationError(f"the event at position {position} waits behind the one at {queue[0]}")

    def list_parked_v1(self, name: str, state: str | None, key: str | None, after: int, limit: int | None) -> list[Any]:
        of = self.find_subscription_v1(name)
        found = [
            LISTED((
                position, one.bucket % of.pool_size, one.key[2:], one.state, one.blocking, one.replay, one.attempts,
                one.error, one.message, one.traceback, one.first_failed_at, one.last_failed_at,
                *self._described(position),
            ))
            for position, one in self.rows_of(of.id)
            if position > after and state in (None, one.state)
            and (key is None or one.key in (f"s:{key}", f"e:{key.lower()}"))
        ]  # fmt: skip
        return found[:limit]

    def _described(self, position: int) -> tuple[Any, ...]:
        row = self._event(position)
        return row[0], row[1], row[5], row[6], row[2], row[3], row[10]
