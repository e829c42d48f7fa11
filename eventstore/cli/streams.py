"""``eventstore streams``: what streams there are."""

from __future__ import annotations

import click

from eventstore.cli.output import Rows
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME

__all__ = ["command"]


@click.command()
@click.option("--prefix", type=NAME, default="", metavar="TEXT", help="Only names that begin like this.")
@shared_options
def command(session: Session, prefix: str) -> None:
    """List streams by name.

    Columns: stream, version, created_at.

    \b
    Examples:
      eventstore streams
      eventstore streams --prefix order- --json
    """
    session.run(_streams(session, prefix))


async def _streams(session: Session, prefix: str) -> None:
    columns = ("stream", "version", "created_at")
    with Rows(session.json, columns) as rows:
        async with session.store() as store:
            async for row in store.streams(prefix):
                rows.add(dict(zip(columns, row, strict=True)))
