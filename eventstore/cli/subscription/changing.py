"""``eventstore subscription pause``, ``resume``, ``rewind``, ``resize`` and ``delete``; running nodes hear of them."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from eventstore.cli.asking import confirm, yes_option
from eventstore.cli.output import cell, progress, result
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME, POSITION, ParamType, Time

if TYPE_CHECKING:
    from eventstore.reports.explaining import Repeated
    from eventstore.store import EventStore
    from eventstore.subscriptions.model import Rewound

__all__ = ["delete", "pause", "resize", "resume", "rewind"]

LOOKED_EVERY = 0.2
"""Seconds between looks at a resize under way, for the progress bar."""

COUNTED, COUNTED_WITHIN = 100_000, 2.0
"""How many of the events that a rewind repeats are counted before it is asked for, and for how many seconds."""

# Every store here listens: that is how who watches the subscription hears what was done.


@click.command()
@click.argument("name", type=NAME)
@shared_options
def pause(session: Session, name: str) -> None:
    """Stop delivering on every node, until it is resumed.

    Handlers finish what they have in hand, and it is settled.

    \b
    Examples:
      eventstore subscription pause billing
      eventstore subscription pause billing --json
    """
    done = session.run(_pause(session, name))
    sentence = f"subscription {cell(name)} {'is' if done else 'was already'} paused"
    result(session.json, {"name": name, "paused": done}, sentence)


async def _pause(session: Session, name: str) -> bool:
    async with session.store(listen=True) as store, recorded(store.database, "pause", name):
        return await store.subscriptions.pause(name)


@click.command()
@click.argument("name", type=NAME)
@shared_options
def resume(session: Session, name: str) -> None:
    """Go on after a pause, and with partitions that are halted.

    A partition whose reason to halt is still there halts again; `eventstore subscription show` tells the reason.

    \b
    Examples:
      eventstore subscription resume billing
      eventstore subscription resume billing --json
    """
    done = session.run(_resume(session, name))
    sentence = f"resumed subscription {cell(name)}" if done else f"subscription {cell(name)} has nothing to resume"
    result(session.json, {"name": name, "resumed": done}, sentence)


async def _resume(session: Session, name: str) -> bool:
    async with session.store(listen=True) as store, recorded(store.database, "resume", name):
        return await store.subscriptions.resume(name)


# -- rewind


class _Place(ParamType):
    """A position, or a time."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        if value.lstrip("-").isdecimal():
            return int(POSITION.convert(value, param, ctx))
        return Time().convert(value, param, ctx)


@click.command()
@click.argument("name", type=NAME)
@click.option("--after", type=_Place(), metavar="N|TIME", help="After this position, or what was recorded by then.")
@click.option("--event", type=click.UUID, metavar="UUID", help="After the event with this id.")
@yes_option
@shared_options
def rewind(session: Session, name: str, after: int | datetime | None, event: UUID | None, yes: bool) -> None:
    """Deliver again what comes after a position, a time or an event.

    A partition that has not come so far stays where it is. Parked events beyond it are forgotten, since they come
    again; halted partitions go on. Running handlers begin anew at once.

    \b
    Examples:
      eventstore subscription rewind billing --after 0
      eventstore subscription rewind billing --after 2025-01-31T12:00:00Z --yes
      eventstore subscription rewind billing --event 0194b3d0-7f6e-7c5c-9c3b-2f0a4c1d5e6f
    """
    if (after is None) == (event is None):
        raise click.UsageError("say where to: --after N|TIME, or --event UUID; one of them")
    place = after if after is not None else event
    assert place is not None
    if not yes:
        told = {int: "position ", UUID: "event "}.get(type(place), "") + cell(place)
        repeats = _repeats(session, name, place)
        if repeats is not None:
            if type(place) is not int:
                told += f", which is position {repeats.after}"
                place = repeats.after
            told += f" ({'many events' if repeats.events is None else _counted(repeats.events, 'event')})"
        confirm(f"Deliver to {cell(name)} again what comes after {told}, and forget what is parked of that?", "changed")
    done = session.run(_rewind(session, name, place))
    row = {"name": name, "after": done.after, "partitions": done.partitions, "forgotten": done.parked}
    moved, forgotten = _counted(done.partitions, "partition"), _counted(done.parked, "parked event")
    sentence = f"rewound {moved} of {cell(name)} to position {done.after}; {forgotten} forgotten"
    result(session.json, row, sentence)


def _repeats(session: Session, name: str, place: int | datetime | UUID) -> Repeated | None:
    """Look where it would lead; None: not every role may see that, who can rewind."""
    from eventstore.errors import ConfigurationError

    session.log_to_stderr()
    try:
        with session.server() as dsn:
            return session.run(_look(session, dsn, name, place))
    except ConfigurationError:
        return None


async def _look(session: Session, dsn: str, name: str, place: int | datetime | UUID) -> Repeated:
    from eventstore.reports.explaining import repeated
    from eventstore.reports.site import Site

    async with Site(dsn, session.schema_name, tenant=session.tenant_name) as site:
        stored = await (await site.ledger()).get(name)
        return await repeated(await site.database(), stored, place, limit=COUNTED, within=COUNTED_WITHIN)


async def _rewind(session: Session, name: str, place: int | datetime | UUID) -> Rewound:
    async with session.store(listen=True) as store, recorded(store.database, "rewind", name, after=place):
        return await store.subscriptions.rewind(name, place)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# -- resize


@click.command()
@click.argument("name", type=NAME)
@click.argument("pool_size", type=int, metavar="PARTITIONS")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for it.",
)
@shared_options
def resize(session: Session, name: str, pool_size: int, timeout: float) -> None:
    """Change the number of partitions, also while it runs.

    Nothing is lost, delivered twice or out of order: the nodes finish what they have in hand and give all partitions
    back, and the new ones begin where those ended. Waits for that; when the time is over or Ctrl-C is pressed, it
    happens nevertheless.

    \b
    Examples:
      eventstore subscription resize billing 8
      eventstore subscription resize billing 8 --timeout 5
    """
    session.run(_resize(session, name, pool_size, timeout))
    partitions = _counted(pool_size, "partition")
    result(session.json, {"name": name, "pool_size": pool_size}, f"subscription {cell(name)} has {partitions}")


async def _resize(session: Session, name: str, pool_size: int, timeout: float) -> None:
    from eventstore.service import Tasks

    async with session.store(listen=True) as store:
        await store.subscriptions.get(name)
        watching = Tasks()
        watching.spawn("progress", _show_progress(store, name))
        try:
            async with recorded(store.database, "resize", name, pool_size=pool_size):
                await store.subscriptions.resize(name, pool_size, timeout=timeout)
        except TimeoutError:
            stored = await store.subscriptions.get(name)
            owners = sorted({one.owner for one in stored.partitions if one.owner is not None})
            raise TimeoutError(
                f"{name!r} is not resized after {timeout:g} s; it will be once its partitions are given back, "
                f"by {', '.join(owners) or 'nobody any more'}: `eventstore nodes` shows who is alive"
            ) from None
        finally:
            await watching.stop()


async def _show_progress(store: EventStore, name: str) -> None:
    """Draw how many of the partitions that were owned have been given back."""
    import asyncio

    from eventstore.errors import EventStoreError

    if not sys.stderr.isatty():
        return
    owned = await _owned(store, name)
    with suppress(EventStoreError), progress("partitions given back", owned) as done:
        while True:
            await asyncio.sleep(LOOKED_EVERY)
            now = await _owned(store, name)
            done(owned - now)
            owned = now


async def _owned(store: EventStore, name: str) -> int:
    return sum(one.owner is not None for one in (await store.subscriptions.get(name)).partitions)


# -- delete


@click.command()
@click.argument("name", type=NAME)
@yes_option
@shared_options
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a subscription, its checkpoints and parked events.

    Events themselves stay. Nodes that run it stop.

    \b
    Examples:
      eventstore subscription delete billing
      eventstore subscription delete billing --yes
    """
    if not yes:
        confirm(f"Delete subscription {cell(name)}, its checkpoints and what it has parked?", "deleted")
    session.run(_delete(session, name))
    result(session.json, {"name": name, "deleted": True}, f"deleted subscription {cell(name)}")


async def _delete(session: Session, name: str) -> None:
    async with session.store(listen=True) as store, recorded(store.database, "delete", name):
        await store.unsubscribe(name)
