"""``eventstore actions``: what operators did, on the command line and in the dashboard."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.output import Rows
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME, POSITION

__all__ = ["command"]

COLUMNS = ("id", "at", "who", "via", "action", "subject", "arguments", "outcome", "error")

PAGE = 500
"""Rows of one query."""


@click.command()
@click.option("--subject", type=NAME, metavar="NAME", help="Only what was done to this subscription or stream.")
@click.option("--before", type=POSITION, metavar="ID", help="Only what came before this one.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="So many at most."
)
@shared_options
def command(session: Session, subject: str | None, before: int | None, limit: int) -> None:
    """Show what operators did.

    The newest first: what was changed by hand, by whom, through the command line (cli) or the dashboard, and how it
    ended. An action that has "begun" is under way, or was broken off so that nobody knows. It is written down before it
    is done, so that nothing is missing but what a role without the right to record has done. With --json there is also
    the database role, which nobody can choose freely, and when it ended.

    \b
    Examples:
      eventstore actions
      eventstore actions --subject billing --limit 10
      eventstore actions --json
    """
    session.run(_list(session, subject, before, limit))


async def _list(session: Session, subject: str | None, before: int | None, limit: int) -> None:
    from eventstore.reports.actions import list_actions

    with Rows(session.json, COLUMNS) as rows:
        async with session.store() as store:
            while limit > 0:
                size = min(PAGE, limit)
                page = await list_actions(store.database, subject=subject, before=before, limit=size)
                for one in page:
                    rows.add(asdict(one))
                if len(page) < size:
                    return
                limit, before = limit - size, page[-1].id
