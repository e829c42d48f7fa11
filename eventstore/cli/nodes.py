"""``eventstore nodes``: who runs handlers, and what each of them holds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import Rows, cell, json_line, write_line
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from eventstore.subscriptions.model import Node

__all__ = ["command", "rows_of"]

COLUMNS = ("node", "incarnation", "lease", "present", "version", "started_at", "lease_until", "holds")

CHECKED_EVERY = 1.0
"""Seconds between looks at the table while watching: a lease runs out without a word."""


@click.command()
@click.option("--watch", is_flag=True, help="Go on, and print each node again when it changes.")
@shared_options
def command(session: Session, watch: bool) -> None:
    """Show who runs handlers, and what each of them holds.

    lease is what the database decides: "alive", or "expired", whose partitions are free for others. With --watch this
    process joins the nodes and also shows what they say about themselves: present tells whether a node is heard of, and
    version which release it runs; "-" where the table does not know the node or it is not heard of.

    \b
    Examples:
      eventstore nodes
      eventstore nodes --json
      eventstore nodes --watch
    """
    session.run(_watch(session) if watch else _show(session))


async def _show(session: Session) -> None:
    with Rows(session.json, COLUMNS) as rows:
        async with session.store() as store:
            for row in rows_of(await store.nodes(), None):
                rows.add(row)


async def _watch(session: Session) -> None:
    import asyncio

    from eventstore.presence import NODES, nodes_tracker
    from eventstore.service import set_within

    changed = asyncio.Event()
    async with session.store(listen=True) as store, nodes_tracker(store.pubsub, changed) as tracker:
        printed: dict[str, dict[str, Any]] = {}
        while True:
            changed.clear()
            now = {row["incarnation"]: row for row in await _rows(store, dict(tracker.list(NODES)))}
            for row in _changes(printed, now):
                _print(session.json, row)
            printed = now
            await set_within(changed, CHECKED_EVERY)


async def _rows(store: EventStore, present: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return rows_of(await store.nodes(), present)


def rows_of(table: Iterable[Node], present: dict[str, dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return a row for each node of the *table* and each that says it is *present*; None: nobody was asked."""
    rows = {
        str(node.incarnation): {
            "node": node.name,
            "incarnation": str(node.incarnation),
            "lease": "alive" if node.alive else "expired",
            "present": None,
            "version": None,
            "started_at": node.started_at,
            "lease_until": node.lease_until,
            "holds": len(node.partitions),
            "partitions": [f"{name}/{number}" for name, number in node.partitions],
        }
        for node in table
    }
    for incarnation, row in rows.items():
        if present is not None:
            row["present"] = incarnation in present
    for incarnation, meta in (present or {}).items():
        unknown = dict.fromkeys(COLUMNS) | {"node": meta.get("name"), "incarnation": incarnation, "lease": "none"}
        row = rows.setdefault(incarnation, unknown | {"partitions": []})
        row |= {"present": True, "version": meta.get("version")}
    return list(rows.values())


def _changes(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield what is new, what changed but for the term of its lease, and what went, marked as gone."""
    for key, row in now.items():
        if _known(before.get(key)) != _known(row):
            yield row
    for key, row in before.items():
        if key not in now:
            yield {**row, "lease": "gone", "present": False, "holds": 0, "partitions": []}


def _known(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {name: value for name, value in row.items() if name != "lease_until"}


def _print(as_json: bool, row: dict[str, Any]) -> None:
    at = datetime.now(UTC)
    if as_json:
        write_line(json_line({"at": at, **row}), flush=True)
        return
    texts = (
        f"{row['lease']}",
        "present" if row.get("present") else "not heard of",
        f"holds {'-' if row['holds'] is None else row['holds']}",
        f"version {row['version'] or '-'}",
    )
    write_line("\t".join((f"{at:%H:%M:%S}", cell(row["node"]), row["incarnation"], *texts)), flush=True)
