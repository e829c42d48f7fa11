"""Checks of subscriptions and nodes: what stands still, and why.

A subscription is well if each of its partitions is owned by a node whose lease runs, and its checkpoint moves while
there are events that it wants. What tells is read once, and each check looks for one reason.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from shlex import quote
from time import monotonic
from typing import Any

from eventstore.database import Database
from eventstore.errors import CheckpointAheadOfLog
from eventstore.events import Event
from eventstore.log.read import Share, read_page
from eventstore.reports.health import Verdict, check, fail, named, ok, unknown, warn
from eventstore.reports.site import Site
from eventstore.selectors import Selector
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Node

__all__ = ["Deliveries", "Parking", "Part", "read_deliveries", "read_nodes"]

LOOK_AGAIN = 2.0
"""Seconds after which a partition that nobody owns is looked for again: it may just be moving from node to node."""

STILL, STANDS = 60.0, 600.0
"""Seconds without progress after which a partition is suspicious, and after which it is taken to stand.

Where no live node handles it, nothing but a new node can help, and it stands after the first.
"""

DEAD = 60.0
"""Seconds after which a node whose lease ran out should have been removed by another."""

LOOKED_FOR, LOOKED_FOR_EACH = 5.0, 0.5
"""Seconds in which the next events of partitions that stand still are looked for, together and of each."""

WINDOW = 10_000
"""Positions that one query looks at."""


@dataclass(frozen=True, slots=True)
class Part:
    """A partition, with what is known of its subscription.

    Attributes:
        settled_ago: seconds since its checkpoint was written; None: never.
        owner_alive: None: nobody owns it.
        owner_age: seconds since its owner started.
        handlers: how many live nodes handle the subscription.
        waiting: seconds since the first event after the checkpoint that it wants was recorded, or since it was created
            if that was later; None: there is none, or it was not looked for.
        sink: where it is delivered to without a handler; None also if it was not looked for.
    """

    name: str
    state: str
    pool_size: int
    resize_to: int | None
    partition: int
    checkpoint: int
    settled_ago: float | None
    halted: dict[str, Any] | None
    owner: str | None
    owner_alive: bool | None
    owner_age: float | None
    handlers: int
    waiting: float | None = None
    sink: str | None = None

    @property
    def label(self) -> str:
        """Name and number."""
        return self.name if self.pool_size == 1 else f"{self.name}/{self.partition}"

    @property
    def should_run(self) -> bool:
        """Nobody stopped it, and there are nodes for it."""
        return self.state == "active" and self.halted is None and self.resize_to is None and self.handlers > 0

    @property
    def unhandled(self) -> bool:
        """Nobody stopped it, and there are no nodes for it."""
        return self.state == "active" and self.halted is None and not self.handlers

    @property
    def still(self) -> float | None:
        """Seconds in which it could have gone on and did not; None: it did, or could not have."""
        if self.waiting is None:
            return None
        times = (self.waiting, self.settled_ago, self.owner_age if self.owner_alive else None)
        return min(one for one in times if one is not None)


@dataclass(frozen=True, slots=True)
class Parking:
    """How many events one subscription has set aside; *oldest_ago*: seconds since the first of the parked failed."""

    name: str
    parked: int
    replaying: int
    skipped: int
    discarded: int
    oldest_ago: float | None


@dataclass(frozen=True, slots=True)
class Deliveries:
    """All partitions, what is set aside, and the last position drawn.

    Attributes:
        unseen: how many partitions stand still, and there was no time to find out whether there are events for them.
    """

    parts: Sequence[Part]
    parked: Sequence[Parking]
    last_position: int
    unseen: int = 0

    def each(self) -> Iterator[tuple[str, list[Part]]]:
        """Yield every subscription's name and partitions."""
        for name, parts in groupby(self.parts, key=lambda part: part.name):
            yield name, list(parts)


async def read_deliveries(site: Site, again: float = LOOK_AGAIN) -> Deliveries:
    """Read the partitions, and look into the log where one seems to stand still."""
    database, ledger = await site.database(), await site.ledger()
    parts = await _parts(database)
    if any(_ownerless(part) for part in parts):
        await asyncio.sleep(again)
        parts = await _parts(database)
    parts, unseen = await _with_waiting(site, database, ledger, parts)
    parked = [Parking(**row) for row in await database.rows("parked_counts_v1")]
    # Last: what is settled meanwhile lies below it.
    (bounds,) = await database.rows("log_bounds_v1")
    return Deliveries(parts, parked, bounds["last_position"], unseen)


async def _parts(database: Database) -> list[Part]:
    rows = [dict(row) for row in await database.rows("partition_health_v1")]
    return [Part(**row | {"halted": json.loads(row["halted"]) if row["halted"] else None}) for row in rows]


def _ownerless(part: Part) -> bool:
    return part.should_run and not part.owner_alive


async def _with_waiting(site: Site, database: Database, ledger: Ledger, parts: list[Part]) -> tuple[list[Part], int]:
    """Look for the next event of those that have not moved for long although there is something behind them."""
    behind = {(lag.name, one.number): lag.head for lag in await ledger.lag() for one in lag.partitions if one.behind}
    old = [part for part in parts if _suspicious(part) and (part.name, part.partition) in behind]
    old.sort(key=lambda part: -(part.settled_ago or float("inf")))
    until, found, unseen = monotonic() + LOOKED_FOR, {}, 0
    stored = {one.name: one for one in await ledger.list()} if old or any(part.unhandled for part in parts) else {}
    for part in old:
        if part.name not in stored:  # deleted meanwhile
            continue
        limit, subscription = min(until, monotonic() + LOOKED_FOR_EACH), stored[part.name]
        event, seen = await _next_event(database, subscription.selector, part, behind[part.name, part.partition], limit)
        unseen += not seen
        if event is not None:
            since = max(event.recorded_at, subscription.created_at)
            found[part.name, part.partition] = await _age(site, since)
    sinks = {name: one.options.get("sink") for name, one in stored.items()}
    return [
        replace(part, waiting=found.get((part.name, part.partition)), sink=sinks.get(part.name)) for part in parts
    ], unseen


def _suspicious(part: Part) -> bool:
    """Whether it may have stood still; one that live nodes handle and nobody owns may just be moving."""
    times = (part.settled_ago, part.owner_age if part.owner_alive else None)
    return (part.should_run or part.unhandled) and all(one is None or one >= STILL for one in times)


async def _next_event(
    database: Database, selector: Selector, part: Part, head: int, until: float
) -> tuple[Event | None, bool]:
    """Return the first event behind the checkpoint that it wants, and whether it was looked for to the end."""
    if monotonic() >= until:
        return None, False
    share = Share(part.pool_size, part.partition) if part.pool_size > 1 else None
    after = part.checkpoint
    while after < head and monotonic() < until:
        page = await read_page(database, selector, limit=1, window=WINDOW, after=after, upto=head, share=share)
        if page.events:
            return page.events[0], True
        after = page.scanned
    return None, after >= head


async def _age(site: Site, recorded: datetime) -> float:
    now = (await site.row("select clock_timestamp() as now"))["now"]
    return float((now.astimezone(UTC) - recorded.astimezone(UTC)).total_seconds())


# -- subscriptions


@check("halted", read_deliveries)
def halted(found: Deliveries) -> Verdict:
    """Partitions that stopped by their failure policy."""
    stopped = [part for part in found.parts if part.halted]
    if not stopped:
        return ok("no partition is halted")
    why = [f"{part.label} since {(part.halted or {}).get('at')}: {_error(part.halted or {})}" for part in stopped]
    facts = [
        {"name": part.name, "partition": part.partition, "checkpoint": part.checkpoint, **(part.halted or {})}
        for part in stopped
    ]
    return fail(f"halted: {named(why, 3)}", "; ".join(_going_on(stopped)), facts)


def _going_on(stopped: Sequence[Part]) -> Iterator[str]:
    """Yield what makes halted partitions go on. One that was ahead would, resumed, miss what was appended since."""
    beyond = [part for part in stopped if (part.halted or {}).get("error") == CheckpointAheadOfLog.__name__]
    if beyond:
        rewind = _for_each("rewind {} --after POSITION", beyond)
        yield f"{rewind}: the position where the log ended, which the reason tells"
    if others := [part for part in stopped if part not in beyond]:
        yield f"mend the handler, then {_for_each('resume {}', others)}"


def _for_each(command: str, parts: Iterable[Part]) -> str:
    """Return the command for the first subscription, and the names of those that need it as well."""
    first, *others = dict.fromkeys(part.name for part in parts)
    return f"`eventstore subscription {command.format(quote(first))}`" + (
        f", likewise {named(others)}" if others else ""
    )


def _error(why: dict[str, Any]) -> str:
    message = " ".join(str(why.get("message") or "").split())
    return f"{why.get('error')}: {message[:300]}".rstrip(": ")


@check("paused", read_deliveries)
def paused(found: Deliveries) -> Verdict:
    """Subscriptions that an operator paused; nothing is wrong with that."""
    names = [name for name, parts in found.each() if parts[0].state == "paused"]
    if not names:
        return ok("no subscription is paused")
    return ok(f"paused until `eventstore subscription resume`: {named(names)}", [{"name": name} for name in names])


@check("parked", read_deliveries)
def parked(found: Deliveries) -> Verdict:
    """Events that were set aside after their retries."""
    waiting = [one for one in found.parked if one.parked]
    if not waiting:
        return ok("no event is parked", _counts(found.parked))
    text = named(f"{one.name} {one.parked:,} (the oldest for {one.oldest_ago or 0:.0f} s)" for one in waiting)
    return warn(
        f"events are parked, and later ones of their keys behind them: {text}",
        "`eventstore parked list NAME` tells why; mend the handler, then `eventstore parked replay`, or `discard`",
        _counts(found.parked),
    )


def _counts(parked: Iterable[Parking]) -> list[dict[str, Any]]:
    names = ("name", "parked", "replaying", "skipped", "discarded", "oldest_ago")
    return [{name: getattr(one, name) for name in names} for one in parked]


@check("handled", read_deliveries)
def handled(found: Deliveries) -> Verdict:
    """Whether a live node handles each active subscription, above all one that events wait for."""
    unhandled = {name: parts for name, parts in found.each() if parts[0].state == "active" and not parts[0].handlers}
    if not unhandled:
        return ok("every active subscription is handled by a live node")
    times = {name: [part.still for part in parts if part.still is not None] for name, parts in unhandled.items()}
    waiting = {name: max(some, default=None) for name, some in times.items()}
    late = {name: time for name, time in waiting.items() if time is not None and time >= STILL}
    longest = sorted(late, key=lambda name: -late[name])
    text = f"no live node handles {named([*longest, *(name for name in waiting if name not in late)])}"
    if late:
        text += f"; events wait: {named(f'{name} for {late[name]:.0f} s' for name in longest)}"
    cures = ["start a node with a handler for it (`eventstore work`), pause it, or delete it if nobody needs it"]
    sinks = [name for name, parts in unhandled.items() if parts[0].sink is not None]
    if sinks:
        cures.append(
            f"to deliver to the sink of {named(sinks)} a node needs no handler: if one is up, it lacks the variable of "
            "a secret, or an option does not fit it; its log names which"
        )
    facts = [{"name": name, "waiting": waiting[name], "sink": parts[0].sink} for name, parts in unhandled.items()]
    return (fail if late else warn)("; ".join(filter(None, (text, _unseen(found)))), "; ".join(cures), facts)


@check("owned", read_deliveries)
def owned(found: Deliveries) -> Verdict:
    """Whether every partition that should run is owned by a live node."""
    free = [part for part in found.parts if _ownerless(part)]
    if not free:
        return ok("every partition that should run is owned")
    return _about(
        warn,
        free,
        f"live nodes handle them, and nobody owns {named(part.label for part in free)}",
        "look into the logs of the nodes that handle them; a node where it was stopped leaves it free",
    )


@check("resizing", read_deliveries)
def resizing(found: Deliveries) -> Verdict:
    """Resizes that wait for partitions to be given back."""
    texts, held = [], []
    for name, parts in found.each():
        if parts[0].resize_to is not None:
            holders = {str(part.owner): part.owner_alive for part in parts if part.owner is not None}
            who = [node if alive else f"{node} (whose lease ran out)" for node, alive in holders.items()]
            waits = f"partitions held by {named(who)}" if who else "a live node that handles it"
            texts.append(f"{name} to {parts[0].resize_to}, waits for {waits}")
            held += [part for part in parts if part.owner is not None] or parts[:1]
    if not texts:
        return ok("no resize is pending")
    return _about(
        warn, held, named(texts, 3), "a handler that does not return keeps its partition: stop that node; or start one"
    )


@check("ahead", read_deliveries)
def ahead(found: Deliveries) -> Verdict:
    """Checkpoints beyond the log, as after a database was restored from an older backup."""
    beyond = [part for part in found.parts if part.checkpoint > found.last_position]
    if not beyond:
        return ok("no checkpoint lies beyond the log")
    at = named(f"{part.label} at {part.checkpoint}" for part in beyond)
    rewind = _for_each(f"rewind {{}} --after {found.last_position}", beyond)
    return _about(
        fail,
        beyond,
        f"beyond position {found.last_position}, the last one drawn: {at}",
        f"{rewind}; after an earlier position if events since then are to be delivered again",
    )


@check("stuck", read_deliveries)
def stuck(found: Deliveries) -> Verdict:
    """Partitions whose owner lives and whose checkpoint does not move although there are events for them."""
    late = [part for part in found.parts if part.still is not None and part.still >= STILL]
    still, alone = [part for part in late if part.owner_alive], [part for part in late if not part.owner_alive]
    nobody = f"nobody runs {named(part.label for part in alone)}, and events wait" if alone else ""
    if still:
        text = named(f"{part.label} on {part.owner} for {part.still or 0:.0f} s at {part.checkpoint}" for part in still)
        judge = fail if any((part.still or 0) >= STANDS for part in still) else warn
        cure = "see what its handler waits for (the node's log); stop that node, and others take over"
        return _about(judge, late, "; ".join(filter(None, (f"no progress: {text}", nobody, _unseen(found)))), cure)
    if alone:
        text = "; ".join(filter(None, (nobody, _unseen(found))))
        return _about(warn, alone, text, "the checks `handled` and `owned` tell why")
    if found.unseen:
        return unknown(f"unknown: {_unseen(found)}", "ask again when the database is less busy")
    return ok("every partition that has something to do moves")


def _unseen(found: Deliveries) -> str:
    return f"there was no time to see whether {found.unseen} others have something to do" if found.unseen else ""


def _about(judge: Callable[..., Verdict], parts: Iterable[Part], text: str, cure: str) -> Verdict:
    names = ("name", "partition", "checkpoint", "owner", "owner_alive", "handlers", "resize_to", "settled_ago", "still")
    return judge(text, cure, [{name: getattr(part, name) for name in names} for part in parts])


# -- nodes


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes as stored, and the database's time."""

    nodes: Sequence[Node]
    now: datetime


async def read_nodes(site: Site) -> Nodes:
    """Read the nodes."""
    nodes = await (await site.ledger()).nodes()
    return Nodes(nodes, (await site.row("select clock_timestamp() as now"))["now"])


@check("nodes", read_nodes)
def nodes(found: Nodes) -> Verdict:
    """Nodes whose lease ran out, and that no other node removed."""
    gone = [(one, (found.now - one.lease_until).total_seconds()) for one in found.nodes if not one.alive]
    old = [(one, ago) for one, ago in gone if ago >= DEAD]
    alive = sum(one.alive for one in found.nodes)
    if not old:
        return ok("1 node runs handlers" if alive == 1 else f"{alive} nodes run handlers")
    text = named(f"{one.name} {ago:.0f} s ago, with {len(one.partitions)} partitions" for one, ago in old)
    facts = [
        {"name": one.name, "incarnation": str(one.incarnation), "expired_ago": ago, "partitions": len(one.partitions)}
        for one, ago in old
    ]
    cure = "start a node: the first that claims removes them" if not alive else "see whether the live nodes hang"
    return warn(f"leases ran out: {text}", cure, facts)
