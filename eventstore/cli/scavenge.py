"""``eventstore scavenge``: remove for good what the limits of streams hide."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventstore.cli.output import progress, result
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.log.streams import Scavenged

__all__ = ["command"]


@click.command()
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
@click.option(
    "--batch", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Events of one transaction."
)
@click.option(
    "--pause", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="Between batches.  [default: 0]"
)
@shared_options
def command(session: Session, dry_run: bool, batch: int, pause: float) -> None:
    """Remove for good what the limits of streams hide.

    Of a removed event data, metadata and tags are gone; position, version, id, type and times stay. Writers, readers
    and subscriptions go on meanwhile. After Ctrl-C what is done is done, and the next run goes on from there. It takes
    the owner of the schema's tables.

    \b
    Examples:
      eventstore scavenge --dry-run
      eventstore scavenge
      eventstore scavenge --batch 500 --pause 0.1 --json
    """
    done = session.run(_scavenge(session, batch, pause, dry_run))
    sentence = f"{done.streams:,} streams with limits looked at: " + (
        f"{done.events:,} events ({done.bytes:,} bytes) to remove; nothing was removed"
        if dry_run
        else f"{done.events:,} events removed ({done.bytes:,} bytes)"
    )
    result(session.json, asdict(done) | {"dry_run": dry_run}, sentence)


async def _scavenge(session: Session, batch: int, pause: float, dry_run: bool) -> Scavenged:
    async with session.store() as store, AsyncExitStack() as noted:
        if not dry_run:
            await noted.enter_async_context(recorded(store.database, "scavenge", store.schema))
        with progress("counting" if dry_run else "scavenging") as more:
            return await store.scavenge(
                batch=batch, pause=pause, dry_run=dry_run, on_batch=lambda one: more(one.events)
            )
