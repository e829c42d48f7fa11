"""``eventstore tail``: the log, live."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import click

from eventstore.cli.output import Events
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, After

if TYPE_CHECKING:
    from eventstore.selectors import Selector

__all__ = ["command"]

log = logging.getLogger(__name__)


@click.command()
@click.option(
    "--after", type=After(), default="current", show_default=True, metavar="current|N", help="Begin after this."
)
@click.option("--limit", type=COUNT, help="Stop after so many events.")
@selector_options
@shared_options
def command(session: Session, after: int | Literal["current"], limit: int | None, selector: Selector | None) -> None:
    """Follow the log live, until Ctrl-C.

    Prints the events the selector options match, in order of position: what lies after --after first, then what is
    appended from now on. A lost connection is waited out, and nothing is missed.

    \b
    Examples:
      eventstore tail
      eventstore tail --type OrderPlaced --after 0 --json
      eventstore tail --stream order-1 --limit 1
    """
    if limit != 0:
        session.run(_tail(session, selector, after, limit))


async def _tail(
    session: Session, selector: Selector | None, after: int | Literal["current"], limit: int | None
) -> None:
    printed, count = Events(session.json, live=True), 0
    async with session.store(listen=True) as store, store.listen(selector, after=after) as events:
        log.info("following the log")
        async for event in events:
            printed.add(event)
            count += 1
            if count == limit:
                return
