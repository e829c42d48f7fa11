"""``eventstore streams``: what streams there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import Rows
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME

if TYPE_CHECKING:
    from eventstore.log.streams import StreamInfo

__all__ = ["command", "row_of"]

COLUMNS = ("stream", "version", "state", "first_version", "created_at")


@click.command()
@click.option("--prefix", type=NAME, default="", metavar="TEXT", help="Only names that begin like this.")
@click.option("--all", "every", is_flag=True, help="Also deleted, tombstoned and merely configured ones.")
@shared_options
def command(session: Session, prefix: str, every: bool) -> None:
    """List streams by name.

    Columns: stream, version, state, first version that readers see, created_at. JSON has the limits as well.

    \b
    Examples:
      eventstore streams
      eventstore streams --prefix order- --json
      eventstore streams --all
    """
    session.run(_streams(session, prefix, every))


async def _streams(session: Session, prefix: str, every: bool) -> None:
    with Rows(session.json, COLUMNS) as rows:
        async with session.store() as store:
            async for info in store.streams(prefix, include_deleted=every):
                rows.add(row_of(info))


def row_of(info: StreamInfo) -> dict[str, Any]:
    """Return a stream as the row that ``--json`` prints."""
    return {
        "stream": info.name,
        "version": info.version,
        "state": info.state,
        "first_version": info.first_version,
        "events": info.events,
        "created_at": info.created_at,
        "max_age": info.metadata.max_age,
        "max_count": info.metadata.max_count,
        "truncate_before": info.metadata.truncate_before,
        "custom": info.metadata.custom,
    }
