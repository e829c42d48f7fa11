"""How a selector is served, stored as a subscription or not: its keys, its plan, what it matches, what is left to do.

Nothing is written, and no statement runs long: the log is gone through in windows that a query crosses in a moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID

from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.events import Event
from eventstore.log.read import Page, Reading, Window, check_bounds, check_position
from eventstore.router import Indexed, Router
from eventstore.selectors import All, Selector, check_selector, dump
from eventstore.subscriptions.model import Subscription, encode_after

__all__ = ["Explanation", "Plan", "Progress", "Remaining", "Repeated", "Sample", "explain", "plan_lines", "repeated"]

SAMPLE = 10_000
"""Positions at the end of the log that are looked at for how many of them match."""

WINDOW = 10_000
"""Positions that the first query of a count looks at."""

Advance = Callable[[int], object]
"""Is told how many more positions have been looked at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How Postgres would look for a page of 500 events between two positions.

    Attributes:
        narrows: an index leads to the events of the selector. Where none does, every event is looked at, a window at a
            time.
        indexes: the indexes that this plan uses.
        tree: as EXPLAIN (FORMAT JSON) gives it; `plan_lines` writes it down.
    """

    narrows: bool
    after: int
    upto: int
    indexes: list[str]
    tree: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """How many of the events at the end of the log match; *positions* from the horizon back were looked through."""

    positions: int
    looked_at: int
    matched: int

    @property
    def ratio(self) -> float | None:
        """Events to look at for one that matches; None: none does."""
        return self.looked_at / self.matched if self.matched else None


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is still to be delivered: matching events behind each partition's checkpoint, up to the horizon.

    Attributes:
        events: how many; at least so many, if it is not `exact`.
        exact: it was counted to the end.
        partitions: of each partition.
        per_second: how many were settled a second while it was watched; None: none were, or it was not watched.
        seconds: until it has caught up at that rate, if nothing more is appended.
    """

    events: int
    exact: bool
    partitions: list[int]
    per_second: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a subscription stands.

    Attributes:
        checkpoints: of each partition.
        floors: of each bucket, up to where it is settled beyond its partition's checkpoint; None: nowhere.
        running: how many partitions are owned.
    """

    checkpoints: list[int]
    floors: list[int] | None = None
    running: int = 0

    @property
    def after(self) -> int:
        """Everything at or below it is settled."""
        return min(self.checkpoints)

    def __contains__(self, event: Event) -> bool:
        """Whether *event* is still to be delivered."""
        floor = self.floors[event.bucket] if self.floors else 0
        return event.position > max(floor, self.checkpoints[event.bucket % len(self.checkpoints)])


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found.

    Attributes:
        name: None: the selector is not stored.
        keys: under which the router files it; an event that has none of them is not even looked at.
        residual: it also asks what no key can decide.
        events: the first ones that are delivered next.
    """

    name: str | None
    selector: Selector
    pool_size: int
    checkpoints: list[int]
    horizon: int
    keys: list[Indexed]
    residual: bool
    plan: Plan
    sample: Sample
    remaining: Remaining
    events: list[Event]


async def explain(
    database: Database,
    subject: Subscription | Selector,
    *,
    after: int = 0,
    sample: int = SAMPLE,
    limit: int | None = None,
    events: int = 5,
    watch: float = 0.0,
    advance: Callable[[int], Advance] | None = None,
) -> Explanation:
    """Tell how a stored subscription, or a selector that is not stored, is served.

    Args:
        after: where a selector that is not stored would begin.
        sample: how many positions at the end of the log to look at.
        limit: stop counting what remains at so many events.
        events: how many events of a dry run to return.
        watch: seconds in which to see how fast a running subscription moves.
        advance: called with how many positions there are to look at; what it returns is told of each window.

    Raises:
        ConfigurationError: an argument is out of range.
        SubscriptionNotFound: it was deleted meanwhile.
    """
    check_bounds(after, None, limit)
    for argument, value in (("sample", sample), ("events", events)):
        check_position(argument, value)
    if not 0 <= watch < 3600:
        raise ConfigurationError(f"watch must be 0 to 3600 seconds, not {watch!r}")
    selector = subject.selector if isinstance(subject, Subscription) else check_selector(subject)
    name = subject.name if isinstance(subject, Subscription) else None
    stood = await _progress(database, name, after)
    horizon = int(await database.value("head"))
    keys = Router[str]().explain(selector)
    counter = _Counter(database, selector)
    remaining = await counter.remaining(stood, horizon, limit, advance and advance(max(0, horizon - stood.after)))
    if name is not None and watch and remaining.events and stood.running:
        remaining = await counter.watched(name, stood, remaining, horizon, watch)
    return Explanation(
        name=name,
        selector=selector,
        pool_size=len(stood.checkpoints),
        checkpoints=stood.checkpoints,
        horizon=horizon,
        keys=keys,
        residual=any(key.residual for key in keys),
        plan=await _plan(database, selector, stood, horizon),
        sample=await counter.sample(horizon, sample),
        remaining=remaining,
        events=await _first(database, selector, stood, horizon, min(events, remaining.events)),
    )


@dataclass(frozen=True, slots=True)
class Repeated:
    """What a rewind would do.

    Attributes:
        after: the position that its place comes to.
        events: how many would be delivered again; None: more than were counted.
    """

    after: int
    events: int | None


async def repeated(
    database: Database, subject: Subscription, place: int | datetime | UUID, *, limit: int, within: float
) -> Repeated:
    """Tell where a rewind to *place* leads, and how many events it repeats.

    Args:
        limit: count so many at most.
        within: count for so many seconds at most.

    Raises:
        CheckpointAheadOfLog: the place lies beyond the log.
        ConfigurationError: there is no such place, or the role may not see it.
        SubscriptionNotFound: it was deleted meanwhile.
    """
    asked = {"event": str(place)} if isinstance(place, UUID) else encode_after(place)
    after = int(await database.value("rewind_position_v1", subject.name, json.dumps(asked)))
    stands = await _progress(database, subject.name, 0)
    floors = stands.floors and [min(floor, after) for floor in stands.floors]
    would = Progress([min(one, after) for one in stands.checkpoints], floors)
    # Up to here something is settled; what is behind its partition's checkpoint even so, comes for the first time.
    end = max(*stands.checkpoints, *(stands.floors or ()), after)
    counter = _Counter(database, subject.selector)
    try:
        async with asyncio.timeout(within):
            again = await counter.remaining(would, end, limit)
            first = await counter.remaining(stands, end, limit) if again.exact else again
    except TimeoutError:
        return Repeated(after, None)
    return Repeated(after, again.events - first.events if again.exact and first.exact else None)


async def _progress(database: Database, name: str | None, after: int) -> Progress:
    if name is None:
        return Progress([after])
    (row,) = await database.rows("subscription_progress_v1", name)
    return Progress(list(row["checkpoints"]), row["floors"] and list(row["floors"]), row["running"])


def _asked(selector: Selector) -> str | None:
    """Return the selector as the SQL functions take it for reading: null is everything."""
    return None if isinstance(selector, All) else dump(selector)


# -- the plan


async def _plan(database: Database, selector: Selector, stood: Progress, horizon: int) -> Plan:
    narrows = bool(await database.value("selector_narrows_v1", dump(selector)))
    # Where an index leads to its events, windows grow until one query sees all that is left.
    upto = horizon if narrows else min(horizon, stood.after + WINDOW)
    share = (len(stood.checkpoints), 0) if len(stood.checkpoints) > 1 else (None, None)
    text = await database.value("explain_page_v1", _asked(selector), stood.after, upto, *share)
    tree = json.loads(text)[0]["Plan"]
    indexes = sorted({node["Index Name"] for node, _ in _nodes(tree) if "Index Name" in node})
    return Plan(narrows, stood.after, upto, indexes, tree)


def _nodes(tree: dict[str, Any], depth: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    yield tree, depth
    for inner in tree.get("Plans", ()):
        yield from _nodes(inner, depth + 1)


def plan_lines(plan: Plan) -> list[str]:
    """Write the plan down, a line for each step and each of its conditions."""
    lines = []
    for node, depth in _nodes(plan.tree):
        what = node["Node Type"]
        what += f" using {node['Index Name']}" if "Index Name" in node else ""
        what += f" on {node['Relation Name']}" if "Relation Name" in node else ""
        lines.append(f"{'  ' * depth}{what} (rows: {node['Plan Rows']}, cost: {node['Total Cost']})")
        conditions = [name for name in ("Index Cond", "Recheck Cond", "Filter") if name in node]
        lines += [f"{'  ' * depth}  {name}: {node[name]}" for name in conditions]
    return lines


# -- counting


class _Counter:
    """Counts matching events in windows."""

    def __init__(self, database: Database, selector: Selector) -> None:
        self._database, self._selector = database, selector

    async def sample(self, horizon: int, positions: int) -> Sample:
        """Look at what is at the end of the log."""
        after = max(0, horizon - positions)
        here = Progress([after])
        looked_at, _ = await self._count(None, here, after, horizon)
        matched, _ = await self._count(_asked(self._selector), here, after, horizon)
        return Sample(horizon - after, sum(looked_at), sum(matched))

    async def remaining(
        self, stood: Progress, upto: int, limit: int | None = None, advance: Advance | None = None
    ) -> Remaining:
        """Count what is behind the checkpoints, up to *upto*, or to *limit* events."""
        counts, exact = await self._count(_asked(self._selector), stood, stood.after, upto, limit, advance)
        return Remaining(sum(counts), exact, counts)

    async def watched(self, name: str, stood: Progress, was: Remaining, upto: int, seconds: float) -> Remaining:
        """See how many of those that remained are settled within *seconds*, and when it will have caught up."""
        began, before = monotonic(), await _progress(self._database, name, 0)
        await asyncio.sleep(seconds)
        now = await _progress(self._database, name, 0)
        took = monotonic() - began
        end = min(upto, max(now.checkpoints))
        left = [await self.remaining(one, end) for one in (before, now)]
        settled = left[0].events - left[1].events
        if settled <= 0:
            return was
        rate = settled / took
        return Remaining(was.events, was.exact, was.partitions, rate, was.events / rate if was.exact else None)

    async def _count(
        self,
        selector: str | None,
        stood: Progress,
        after: int,
        upto: int,
        limit: int | None = None,
        advance: Advance | None = None,
    ) -> tuple[list[int], bool]:
        """Return how many there are of each partition, and whether all were counted."""
        counts, window = [0] * len(stood.checkpoints), Window(WINDOW)
        while after < upto and (limit is None or sum(counts) < limit):

            async def one(size: int, after: int = after) -> Page:
                end = min(upto, after + size)
                rows = await self._database.rows(
                    "count_matches_v1", selector, after, end, stood.checkpoints, stood.floors
                )
                for partition, matches in rows:
                    counts[partition] += matches
                return Page([], end, upto, None)

            page = await window.read(one, 1)
            if advance is not None:
                advance(page.scanned - after)
            after = page.scanned
        return counts, after >= upto


async def _first(database: Database, selector: Selector, stood: Progress, horizon: int, count: int) -> list[Event]:
    """Return the first *count* events that are to be delivered; there are as many."""
    found: list[Event] = []
    if not count:
        return found
    async for event in Reading(database, selector, after=stood.after, before=horizon + 1, page_size=100):
        if event in stood:
            found.append(event)
            if len(found) == count:
                break
    return found
