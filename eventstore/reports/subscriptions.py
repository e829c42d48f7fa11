"""Subscriptions as pages of a list, and one of them in full; readable at tens of thousands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import asyncpg

from eventstore.codec import check_text
from eventstore.database import Database
from eventstore.errors import ConfigurationError, InvalidEvent
from eventstore.log.read import check_position
from eventstore.moments import to_datetime
from eventstore.reports.overview import LATE
from eventstore.reports.paging import check_limit
from eventstore.selectors import dump
from eventstore.sinks.urls import shown
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import MAX_NAME_LENGTH, Lag, Subscription, encode_after
from eventstore.subscriptions.policy import load as load_policy

__all__ = [
    "STATUSES",
    "Detail",
    "Order",
    "PartitionRow",
    "Row",
    "Status",
    "SubscriptionPage",
    "list_subscriptions",
    "read_subscription",
    "selector_text",
    "status_of",
]

Status: TypeAlias = Literal["active", "paused", "halted", "unowned", "behind"]
"""What is the matter with a subscription, in one word: the first that is true of

- ``paused``: an operator stopped it;
- ``halted``: a partition stopped by the failure policy;
- ``unowned``: no live node runs a partition, as while it has no handler, or while a resize is under way;
- ``behind``: the first event after a checkpoint is older than `reports.overview.LATE`, whether or not it is wanted;
- ``active``: nothing.
"""

STATUSES: tuple[Status, ...] = get_args(Status)

Order: TypeAlias = Literal["name", "behind", "seconds", "parked"]
"""By name, or the most first. Behind in positions and in seconds are one order: later positions are later."""

ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class Row:
    """A subscription in a list.

    Attributes:
        selector: as JSON.
        selector_text: the same in a line, as it would be written in Python.
        pool_size: number of partitions; *resize_to*: the number it is about to get.
        checkpoint: of its last partition.
        behind: positions between *checkpoint* and the horizon, matching or not.
        seconds: age of the first event after *checkpoint*, matching or not; 0 if there is none.
        parked: events set aside, and neither replayed nor discarded.
        halted: how many partitions are.
        unowned: how many partitions no live node runs.
        nodes: names of the live nodes that run it, at most five.
        sink: where it is delivered without a handler, without what may be secret in it.
    """

    name: str
    status: Status
    selector: dict[str, Any]
    selector_text: str
    pool_size: int
    resize_to: int | None
    checkpoint: int
    behind: int
    seconds: float
    parked: int
    halted: int
    unowned: int
    nodes: list[str]
    sink: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """A page of the list.

    Attributes:
        total: how many fit the search and the status, on all pages.
        counts: how many fit the search, by status.
        head: the horizon that *behind* counts up to.
    """

    rows: Sequence[Row]
    total: int
    counts: dict[str, int]
    head: int


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """One partition.

    Attributes:
        owner: name of the node that owns it, None if nobody does.
        lease_until: until when that node's lease runs.
        state: ``running``, ``idle`` (nobody owns it) or ``halted``.
        halted: why: as `subscriptions.model.Partition.halted`.
        behind: positions between its checkpoint and the horizon.
        seconds: age of the first event after its checkpoint; 0 if there is none.
    """

    number: int
    checkpoint: int
    epoch: int
    owner: str | None
    lease_until: datetime | None
    state: str
    halted: dict[str, Any] | None
    behind: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Detail:
    """One subscription in full.

    Attributes:
        state: ``active`` or ``paused``, as stored; *status* says more.
        after: as declared: a position, ``"current"``, or a time as text.
        start_position: what *after* was resolved to when it was stored.
        policy: the failure policy, by the names of `FailurePolicy`'s fields.
        sink: where it is delivered without a handler, without what may be secret in it; *sink_options*: how.
        parked, replaying, skipped, discarded: events set aside, by what became of them; *replaying* are among *parked*.
        oldest_parked: seconds since the first of the parked failed first; None: none is parked.
    """

    name: str
    status: Status
    state: str
    selector: dict[str, Any]
    selector_text: str
    pool_size: int
    resize_to: int | None
    after: int | str
    start_position: int
    created_at: datetime
    policy: dict[str, Any]
    sink: str | None
    sink_options: dict[str, Any]
    head: int
    behind: int
    seconds: float
    partitions: Sequence[PartitionRow]
    parked: int
    replaying: int
    skipped: int
    discarded: int
    oldest_parked: float | None


async def list_subscriptions(
    database: Database,
    *,
    search: str = "",
    prefix: str = "",
    status: Status | None = None,
    node: UUID | None = None,
    order: Order = "name",
    offset: int = 0,
    limit: int = 50,
    late: float = LATE,
) -> SubscriptionPage:
    """Return a page of subscriptions; one query.

    Args:
        search: a part of the name, whatever its case; *prefix*: what it begins with, exactly.
        status: only these; None: all.
        node: only those of which this incarnation owns a partition.
        offset: rows to leave out, *limit*: rows of a page, 1 to 500.
        late: seconds after which a subscription counts as ``behind``.

    Raises:
        ConfigurationError: an argument is out of range.
    """
    check_position("offset", offset)
    check_limit(limit)
    for what, word, words in (("status", status, (None, *STATUSES)), ("order", order, ORDERS)):
        if word not in words:
            raise ConfigurationError(f"{what} must be one of {', '.join(filter(None, words))}, not {word!r}")
    by = "behind" if order == "seconds" else order
    *rows, closing = await database.rows(
        "subscription_page_v1", _searchable(search), _searchable(prefix), status, node, by, offset, limit, float(late)
    )
    head = closing["head"]
    return SubscriptionPage([_row(row, head) for row in rows], closing["total"], json.loads(closing["counts"]), head)


def _searchable(text: str) -> str:
    """Return what no name can hold as something that finds nothing: Postgres takes neither NUL nor lone surrogates."""
    try:
        check_text(text, "search")
        return text
    except InvalidEvent:
        return "\x1a" * (MAX_NAME_LENGTH + 1)


def _row(row: asyncpg.Record, head: int) -> Row:
    selector, options = json.loads(row["selector"]), json.loads(row["options"])
    return Row(
        name=row["name"],
        status=row["status"],
        selector=selector,
        selector_text=selector_text(selector),
        pool_size=row["pool_size"],
        resize_to=row["resize_to"],
        checkpoint=row["checkpoint"],
        behind=max(0, head - row["checkpoint"]),
        seconds=row["waited"],
        parked=row["parked"],
        halted=row["halted"],
        unowned=row["unowned"],
        nodes=row["running"],
        sink=_sink(options),
        created_at=to_datetime(row["created_at"]),
    )


def _sink(options: Mapping[str, Any]) -> str | None:
    sink = options.get("sink")
    return shown(sink) if sink is not None and sink.lower().startswith("http") else sink


async def read_subscription(database: Database, name: str, *, late: float = LATE) -> Detail:
    """Return one subscription with its partitions; three queries (`SubscriptionNotFound`).

    Its parked events are told by ``store.subscriptions.parked(name, after=…, limit=…)``.
    """
    ledger = Ledger(database)
    stored = await ledger.get(name)
    (lag,) = await ledger.lag(name)
    (aside,) = await database.rows("set_aside_v1", name)
    selector = json.loads(dump(stored.selector))
    return Detail(
        name=name,
        status=status_of(stored, lag, to_datetime(aside["at"]), late),
        state=stored.state,
        selector=selector,
        selector_text=selector_text(selector),
        pool_size=stored.pool_size,
        resize_to=stored.resize_to,
        after=encode_after(stored.after),
        start_position=stored.start_position,
        created_at=stored.created_at,
        policy=_policy(stored.options),
        sink=_sink(stored.options),
        sink_options=dict(stored.options.get("sink_options", {})),
        head=lag.head,
        behind=lag.behind,
        seconds=lag.seconds,
        partitions=_partitions(stored, lag),
        parked=aside["parked"],
        replaying=aside["replaying"],
        skipped=aside["skipped"],
        discarded=aside["discarded"],
        oldest_parked=aside["oldest_ago"],
    )


def _policy(options: Mapping[str, Any]) -> dict[str, Any]:
    return asdict(load_policy(options.get("policy", {})))


def status_of(stored: Subscription, lag: Lag | None, now: datetime, late: float = LATE) -> Status:
    """Return what ``subscription_states_v1`` says of it at *now*, the database's time."""
    if stored.state == "paused":
        return "paused"
    if any(one.halted is not None for one in stored.partitions):
        return "halted"
    if any(one.lease_until is None or one.lease_until <= now for one in stored.partitions):
        return "unowned"
    return "behind" if lag is not None and lag.seconds > late else "active"


def _partitions(stored: Subscription, lag: Lag) -> list[PartitionRow]:
    lags = {one.number: one for one in lag.partitions}
    rows = []
    for one in stored.partitions:
        behind = lags.get(one.number)  # None: it was resized between the two queries
        rows.append(
            PartitionRow(
                one.number,
                one.checkpoint,
                one.epoch,
                one.owner,
                one.lease_until,
                one.state,
                one.halted,
                behind.behind if behind else 0,
                behind.seconds if behind else 0.0,
            )
        )
    return rows


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return *selector*, as stored, in a line of Python."""
    match selector:
        case {"kind": "all"}:
            return "All()"
        case {"kind": "stream", "stream": name}:
            return f"Stream({name!r})"
        case {"kind": "event_type", "types": types}:
            return f"EventType({_arguments(types)})"
        case {"kind": "tags", "tags": tags}:
            return f"Tags({_arguments(tags)}{', match=' + repr('any') if selector.get('match') == 'any' else ''})"
        case {"kind": "event_pattern"}:
            return f"EventPattern({selector.get('glob') or selector.get('pattern')!r})"
        case {"kind": "event_payload", "pattern": pattern}:
            return f"EventPayload({pattern!r})"
        case {"kind": "and" | "or" as kind, "of": parts}:
            return (" & " if kind == "and" else " | ").join(_bracketed(one, kind) for one in parts)
    return json.dumps(selector, ensure_ascii=False)


def _arguments(values: Sequence[str]) -> str:
    return ", ".join(map(repr, values))


def _bracketed(part: Mapping[str, Any], inside: str) -> str:
    text = selector_text(part)
    return f"({text})" if inside == "and" and part.get("kind") == "or" else text
