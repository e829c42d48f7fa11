"""``eventstore read``: one stream by version, or the log by position."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import StreamNotFound
from eventstore.cli.output import Events
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, POSITION, TIME

if TYPE_CHECKING:
    from eventstore.selectors import Selector

__all__ = ["command"]


@click.command()
@click.argument("stream", required=False)
@click.option(
    "--after", type=POSITION, default=0, show_default=True, help="Begin after this position; with STREAM, version."
)
@click.option("--before", type=POSITION, help="End before this position; with STREAM, version.")
@click.option("--limit", type=COUNT, help="Print at most so many events.")
@click.option("--backwards", is_flag=True, help="The latest first.")
@click.option("--since", type=TIME, metavar="TIME", help="Recorded at this time or later, in UTC.")
@click.option("--until", type=TIME, metavar="TIME", help="Recorded before this time.")
@selector_options
@shared_options
def command(
    session: Session,
    stream: str | None,
    selector: Selector | None,
    since: datetime | None,
    until: datetime | None,
    **bounds: Any,
) -> None:
    """Read one stream, or the whole log by selector.

    With STREAM its events by version; without, the events the selector options match, by position. --after and
    --before are exclusive, whatever the direction.

    \b
    Examples:
      eventstore read order-1
      eventstore read order-1 --backwards --limit 1 --json
      eventstore read --type OrderPlaced --tag customer:7 --after 1200
      eventstore read --pattern 'order-*' --payload '{"total": {"$gt": 100}}' --since 2025-01-31
    """
    if stream is None:
        session.run(_read_all(session, selector, since=since, until=until, **bounds))
    elif selector is not None or since or until:
        raise click.UsageError("STREAM takes no selector options, --since or --until; use --stream NAME with them")
    else:
        session.run(_read_stream(session, stream, **bounds))


async def _read_all(session: Session, selector: Selector | None, **bounds: Any) -> None:
    events = Events(session.json)
    async with session.store() as store:
        async for event in store.read_all(selector, **bounds):
            events.add(event)


async def _read_stream(session: Session, stream: str, **bounds: Any) -> None:
    events, found = Events(session.json), False
    async with session.store() as store:
        async for event in store.read(stream, **bounds):
            events.add(event)
            found = True
        if not found and not [event async for event in store.read(stream, limit=1)]:
            raise StreamNotFound(stream)
