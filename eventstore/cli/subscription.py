"""``eventstore subscription``: create, list, show, delete."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from eventstore.cli.output import Rows, cell, json_line, result, write_line
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME, After

if TYPE_CHECKING:
    from eventstore.selectors import Selector
    from eventstore.subscriptions.model import Subscription

__all__ = ["command"]

COLUMNS = ("name", "state", "pool_size", "start_position", "settled", "selector")
PARTITION_COLUMNS = ("number", "checkpoint", "state", "owner", "epoch", "lease_until")


@click.group()
@shared_options
def command(_session: Session) -> None:
    """Create, list, show and delete subscriptions."""


@command.command()
@click.argument("name", type=NAME)
@click.option("--pool-size", type=int, default=1, show_default=True, help="Partitions: events handled at once.")
@click.option(
    "--after", type=After(times=True), default="0", metavar="N|current|TIME", help="Begin after this.  [default: 0]"
)
@selector_options
@shared_options
def create(
    session: Session, name: str, selector: Selector | None, pool_size: int, after: int | datetime | Literal["current"]
) -> None:
    """Store a subscription; the same one stored already is fine.

    \b
    Examples:
      eventstore subscription create billing --type OrderPlaced --pool-size 4
      eventstore subscription create audit --after current
      eventstore subscription create vip --payload '{"tier": "VIP"}' --after 2025-01-31
    """
    stored = session.run(_create(session, name, selector, pool_size, after))
    result(session.json, _row(stored), f"subscription {cell(name)} begins after position {stored.start_position}")


async def _create(session: Session, name: str, selector: Selector | None, pool_size: int, after: Any) -> Subscription:
    from eventstore.selectors import All

    async with session.store() as store:
        return await store.subscribe(name, selector or All(), pool_size=pool_size, after=after)


@command.command("list")
@shared_options
def list_(session: Session) -> None:
    """List subscriptions by name.

    Columns: name, state, pool size, start position, position settled by all partitions, selector.

    \b
    Examples:
      eventstore subscription list
      eventstore subscription list --json
    """
    with Rows(session.json, COLUMNS) as rows:
        for subscription in session.run(_list(session)):
            rows.add(_row(subscription))


async def _list(session: Session) -> Sequence[Subscription]:
    async with session.store() as store:
        return await store.subscriptions.list()


@command.command()
@click.argument("name", type=NAME)
@shared_options
def show(session: Session, name: str) -> None:
    """Show a subscription and its partitions.

    \b
    Examples:
      eventstore subscription show billing
      eventstore subscription show billing --json
    """
    row = _row(session.run(_get(session, name)))
    if session.json:
        write_line(json_line(row))
        return
    partitions = row.pop("partitions")
    for key, value in row.items():
        write_line(f"{key}\t{cell(value)}".expandtabs(16))
    with Rows(False, PARTITION_COLUMNS) as rows:
        for partition in partitions:
            rows.add(partition)


async def _get(session: Session, name: str) -> Subscription:
    async with session.store() as store:
        return await store.subscriptions.get(name)


@command.command()
@click.argument("name", type=NAME)
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a subscription and its checkpoints; events stay.

    \b
    Examples:
      eventstore subscription delete billing
      eventstore subscription delete billing --yes
    """
    if not yes and not _confirmed(f"Delete subscription {cell(name)} and its checkpoints?"):
        raise click.ClickException("not confirmed, nothing was deleted; --yes does not ask")
    session.run(_delete(session, name))
    result(session.json, {"name": name, "deleted": True}, f"deleted subscription {cell(name)}")


async def _delete(session: Session, name: str) -> None:
    async with session.store() as store:
        await store.unsubscribe(name)


def _confirmed(question: str) -> bool:
    # click.confirm reports the end of input and Ctrl-C alike.
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the end of the input, which moves no terminal to the next line
        click.echo(err=True)
    return answer.strip().lower() in ("y", "yes")


def _row(subscription: Subscription) -> dict[str, Any]:
    from eventstore.selectors import dump
    from eventstore.subscriptions.model import encode_after

    row = {name: getattr(subscription, name) for name in ("name", "state", "pool_size", "start_position")}
    return row | {
        "settled": min(partition.checkpoint for partition in subscription.partitions),
        "selector": json.loads(dump(subscription.selector)),
        "after": encode_after(subscription.after),
        "options": subscription.options,
        "created_at": subscription.created_at,
        "partitions": [asdict(partition) for partition in subscription.partitions],
    }
