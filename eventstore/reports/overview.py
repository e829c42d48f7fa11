"""The overview: how fast the log grows, what holds readers up, which subscriptions need somebody, and who is alive.

It is read once a second by whoever watches, so that it takes four queries at most, whatever there is to see.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from eventstore.database import Database
from eventstore.moments import to_datetime
from eventstore.reports.horizon import Blocker, read_blockers

__all__ = ["COUNTED", "LATE", "Failure", "LogHead", "NodeState", "Overview", "Waiting", "read_nodes", "read_overview"]

COUNTED = 50_000
"""Events that are counted between two looks; of more it is only known that they are at least so many."""

SHOWN_NODES, SHOWN_FAILURES = 50, 10

LATE = 60.0
"""Seconds after which an event that was not settled makes its subscription `behind`."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where the log ends, and how fast it grows.

    Attributes:
        horizon: position up to which readers see everything.
        last_position: last position drawn; above the horizon while appends are at work.
        counted_to: position up to which events have been counted, for the next look.
        events: how many came between the last look and this one; None: this is the first look, or positions have
            gone back, as after a restore.
        at_least: there were more than `COUNTED`; *events* and *per_second* are lower bounds.
        seconds: between the two looks, by the database's clock; None as *events*.
        per_second: events a second between the two looks; None as *events*.
        holder: the transaction that holds the horizon back; None: nothing does.
        held_for: seconds that the oldest transaction before the horizon has lasted; 0.0: nothing holds it; None:
            this role may not see that (it needs pg_monitor).
    """

    horizon: int
    last_position: int
    counted_to: int
    events: int | None
    at_least: bool
    seconds: float | None
    per_second: float | None
    holder: Blocker | None
    held_for: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A subscription that is behind.

    Attributes:
        status: as `reports.subscriptions.Row.status`.
        behind: positions between the checkpoint of its last partition and the horizon, matching or not.
        seconds: age of the first event after that checkpoint, matching or not.
    """

    name: str
    status: str
    behind: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node that runs handlers.

    Attributes:
        alive: its lease runs; what it owned is free for others if not.
        partitions: how many it owns.
        subscriptions: how many it has handlers or sinks for.
    """

    incarnation: UUID
    name: str
    alive: bool
    started_at: datetime
    lease_until: datetime
    partitions: int
    subscriptions: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why events of a subscription were parked, or partitions halted: the latest of those with the same error.

    Attributes:
        at: when it failed last.
        position: of the event; None: a partition was halted for something else.
        error: type of the exception.
        message: its text, at most 500 characters of it.
        count: events that were parked so, of the latest thousand, or partitions that were halted so.
    """

    at: datetime
    kind: Literal["parked", "halted"]
    subscription: str
    partition: int
    position: int | None
    error: str | None
    message: str | None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Overview:
    """What `read_overview` found.

    Attributes:
        at: the database's time.
        subscriptions: how many there are of each status: ``active``, ``paused``, ``halted``, ``unowned``, ``behind``.
            Each is counted once, so that they sum up to all; see `reports.subscriptions.Row.status`.
        waiting: those most behind, the worst first, at most five; paused ones are left out.
        parked: events set aside and neither replayed nor discarded, of all subscriptions.
        parked_subscriptions: how many subscriptions have any.
        nodes: those alive first, then by name; at most fifty.
        nodes_alive, nodes_total: how many there are.
        failures: the latest, newest first, at most ten; of one subscription those with the same error are one.
    """

    at: datetime
    log: LogHead
    subscriptions: dict[str, int]
    waiting: Sequence[Waiting]
    parked: int
    parked_subscriptions: int
    nodes: Sequence[NodeState]
    nodes_alive: int
    nodes_total: int
    failures: Sequence[Failure]

    @property
    def subscriptions_total(self) -> int:
        """How many subscriptions are stored."""
        return sum(self.subscriptions.values())


async def read_overview(database: Database, before: Overview | None = None, *, late: float = LATE) -> Overview:
    """Read the overview, in three queries, or four while something holds the horizon.

    Args:
        before: the last look, by which the rate is told.
        late: seconds after which a subscription counts as ``behind``.

    Raises:
        DatabaseUnavailable: the database cannot be reached, or is a standby.
        ConfigurationError: the role may not call the functions.
    """
    since = None if before is None else before.log.counted_to
    (row,) = await database.rows("overview_v1", since, COUNTED, float(late))
    # Appends at work hold it for a moment, too; only then is it worth asking who.
    held = row["horizon"] < row["last_position"]
    blockers = await read_blockers(database, row["last_position"]) if held else []
    nodes, alive, total = await read_nodes(database, limit=SHOWN_NODES)
    failures = await database.rows("latest_failures_v1", SHOWN_FAILURES)
    at = to_datetime(row["at"])
    return Overview(
        at=at,
        log=_log(row, at, before, blockers),
        subscriptions=json.loads(row["states"]),
        waiting=[Waiting(**one) for one in json.loads(row["waiting"])],
        parked=row["parked"],
        parked_subscriptions=row["parked_subscriptions"],
        nodes=nodes,
        nodes_alive=alive,
        nodes_total=total,
        failures=[_failure(one) for one in failures],
    )


async def read_nodes(database: Database, *, limit: int = 200) -> tuple[Sequence[NodeState], int, int]:
    """Return the nodes, those alive first, how many are alive, and how many there are; one query.

    Which partitions one of them owns is told by ``list_subscriptions(node=incarnation)``.
    """
    rows = await database.rows("node_states_v1", limit)
    nodes = [
        NodeState(
            row["incarnation"],
            row["name"],
            row["alive"],
            to_datetime(row["started_at"]),
            to_datetime(row["lease_until"]),
            row["partitions"],
            row["subscriptions"],
        )
        for row in rows
    ]
    return nodes, rows[0]["nodes_alive"] if rows else 0, rows[0]["nodes_total"] if rows else 0


def _log(row: asyncpg.Record, at: datetime, before: Overview | None, blockers: Sequence[Blocker]) -> LogHead:
    events, seconds = row["events"], None if before is None else (at - before.at).total_seconds()
    if events is None or seconds is None or seconds <= 0:
        events = seconds = None
    holder = blockers[0] if blockers else None
    return LogHead(
        horizon=row["horizon"],
        last_position=row["last_position"],
        counted_to=row["counted_to"],
        events=None if events is None else min(events, COUNTED),
        at_least=events is not None and events > COUNTED,
        seconds=seconds,
        per_second=None if events is None or seconds is None else min(events, COUNTED) / seconds,
        holder=holder,
        held_for=_held_for(blockers),
    )


def _held_for(blockers: Sequence[Blocker]) -> float | None:
    """Return how long the oldest has lasted; not known unless all are, for any of them may be the oldest."""
    lasted = [one.seconds for one in blockers]
    return None if None in lasted else max((one for one in lasted if one is not None), default=0.0)


def _failure(row: asyncpg.Record) -> Failure:
    return Failure(**dict(row) | {"at": to_datetime(row["at"])})
