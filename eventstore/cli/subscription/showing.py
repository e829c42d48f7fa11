"""``eventstore subscription list`` and ``show``: what is stored of subscriptions, and how far they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import Rows, cell, json_line, write_line
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, NAME

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from eventstore.subscriptions.model import Lag, PartitionLag, Subscription

__all__ = ["list_", "row_of", "show", "status_of"]

COLUMNS = ("name", "status", "pool_size", "settled", "behind", "seconds", "owners")
PARTITION_COLUMNS = ("number", "checkpoint", "state", "owner", "epoch", "lease_until", "behind", "seconds", "halted")

COUNTED = 100
"""Parked events are counted up to here: their bodies come along."""

SHOWN_OWNERS = 3


# -- list


@click.command("list")
@click.option("--match", type=NAME, metavar="GLOB", help="Names like bill*; ? is one character.")
@click.option("--limit", type=COUNT, metavar="N", help="So many at most.")
@shared_options
def list_(session: Session, match: str | None, limit: int | None) -> None:
    """List subscriptions by name, with how far they are behind.

    Columns: name, status, partitions, position settled by all of them, how many positions they are behind, for how many
    seconds, and the nodes that run them. status is paused, halted (so many of its partitions), unowned (one has no live
    node), behind (by more than a minute) or active; and resizing.

    \b
    Examples:
      eventstore subscription list
      eventstore subscription list --match 'bill*' --json
    """
    with Rows(session.json, COLUMNS) as rows:
        for subscription, lag, now in islice(session.run(_list(session, match)), limit):
            row = _summary(subscription, lag, now)
            rows.add(row if session.json else row | {"owners": _owners(row["owners"])})


async def _list(session: Session, match: str | None) -> Iterator[tuple[Subscription, Lag | None, datetime]]:
    async with session.store() as store:
        lags = {one.name: one for one in await store.subscriptions.lag()}
        stored = await store.subscriptions.list()
        now = await _now(store)
    fits = _glob(match or "*").fullmatch
    return ((one, lags.get(one.name), now) for one in stored if fits(one.name))


async def _now(store: EventStore) -> datetime:
    """Return the database's time, by which leases are judged."""
    from eventstore.moments import to_datetime

    async with store.database.acquire() as connection:
        return to_datetime(await connection.fetchval("select clock_timestamp()"))


def _glob(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _summary(subscription: Subscription, lag: Lag | None, now: datetime | None) -> dict[str, Any]:
    """Return the row of one subscription; it has no lag if it was stored a moment ago."""
    return _facts(subscription, lag, now) | {
        "settled": min(partition.checkpoint for partition in subscription.partitions),
        "head": None if lag is None else lag.head,
        "behind": None if lag is None else lag.behind,
        "seconds": None if lag is None else round(lag.seconds, 3),
        "owners": sorted({one.owner for one in subscription.partitions if one.owner is not None}),
    }


def _facts(subscription: Subscription, lag: Lag | None, now: datetime | None) -> dict[str, Any]:
    return {
        "name": subscription.name,
        "status": status_of(subscription, lag, now),
        "state": subscription.state,
        "halted": _halted(subscription),
        "resize_to": subscription.resize_to,
        "pool_size": subscription.pool_size,
    }


def status_of(subscription: Subscription, lag: Lag | None = None, now: datetime | None = None) -> str:
    """Return what is the matter with a subscription in a few words, or ``active``.

    Args:
        now: the database's time; None: whoever owns a partition is taken to be alive.
    """
    from eventstore.reports.subscriptions import status_of as status_in_a_word

    halted = _halted(subscription)
    word = status_in_a_word(subscription, lag, now or datetime.min.replace(tzinfo=UTC))
    words = [
        word if word in ("paused", "unowned", "behind") else "",
        f"halted {halted} of {subscription.pool_size}" if halted else "",
        f"resizing to {subscription.resize_to}" if subscription.resize_to is not None else "",
    ]
    return ", ".join(filter(None, words)) or "active"


def _halted(subscription: Subscription) -> int:
    return sum(partition.halted is not None for partition in subscription.partitions)


def _owners(names: list[str]) -> str:
    more = len(names) - SHOWN_OWNERS
    return ", ".join(names[:SHOWN_OWNERS]) + (f" and {more} more" if more > 0 else "")


# -- show


@click.command()
@click.argument("name", type=NAME)
@shared_options
def show(session: Session, name: str) -> None:
    """Show a subscription and its partitions.

    Columns of the partitions: number, checkpoint, state (running, idle, halted), node, epoch, end of the lease unless
    renewed, positions and seconds behind, and why it is halted; the traceback of that with -v or --json. Parked events
    are counted up to 100.

    \b
    Examples:
      eventstore subscription show billing
      eventstore subscription show billing --json
    """
    row = session.run(_show(session, name))
    if session.json:
        write_line(json_line(row))
        return
    partitions = row.pop("partitions")
    for key, value in row.items():
        write_line(f"{key}\t{cell(value)}".expandtabs(16).rstrip())
    with Rows(False, PARTITION_COLUMNS) as rows:
        for partition in partitions:
            rows.add(partition | {"halted": _why(partition["halted"])})
    if session.verbose:
        _print_tracebacks(partitions)


async def _show(session: Session, name: str) -> dict[str, Any]:
    async with session.store() as store:
        subscription = await store.subscriptions.get(name)
        (lag,) = await store.subscriptions.lag(name)
        parked = await store.subscriptions.parked(name, limit=COUNTED + 1)
        now = await _now(store)
    row = row_of(subscription, lag, now)
    return row | {"parked": f"more than {COUNTED}" if len(parked) > COUNTED else len(parked)}


def _why(halted: Mapping[str, Any] | None) -> str | None:
    if halted is None:
        return None
    place = f" at position {halted['position']}" if halted.get("position") else ""
    return f"{halted['error']}{place}: {halted['message']}"


def _print_tracebacks(partitions: Iterable[Mapping[str, Any]]) -> None:
    for partition in partitions:
        if partition["halted"] is not None:
            write_line(f"partition {partition['number']}, halted at {partition['halted']['at']}:")
            for line in str(partition["halted"]["traceback"]).splitlines():
                write_line(f"  {cell(line)}")


# -- both


def row_of(subscription: Subscription, lag: Lag | None = None, now: datetime | None = None) -> dict[str, Any]:
    """Return all of a subscription; what may be secret in the URL of a sink is left out."""
    from eventstore.selectors import dump
    from eventstore.subscriptions.model import encode_after

    lags = {one.number: one for one in lag.partitions} if lag is not None else {}
    return _summary(subscription, lag, now) | {
        "selector": json.loads(dump(subscription.selector)),
        "after": encode_after(subscription.after),
        "start_position": subscription.start_position,
        "options": _discreet(subscription.options),
        "created_at": subscription.created_at,
        "partitions": [_partition(one, lags.get(one.number)) for one in subscription.partitions],
    }


def _partition(partition: Any, lag: PartitionLag | None) -> dict[str, Any]:
    from dataclasses import asdict

    behind = None if lag is None else lag.behind
    return asdict(partition) | {"behind": behind, "seconds": None if lag is None else round(lag.seconds, 3)}


def _discreet(options: Mapping[str, Any]) -> dict[str, Any]:
    from eventstore.sinks.urls import shown

    sink = options.get("sink", "")
    return dict(options) | ({"sink": shown(sink)} if sink.lower().startswith("http") else {})
