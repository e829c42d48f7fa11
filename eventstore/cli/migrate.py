"""``eventstore migrate``: the schema, brought up to date."""

from __future__ import annotations

import click

from eventstore.cli.output import cell, result
from eventstore.cli.session import Session, shared_options

__all__ = ["command"]


@click.command()
@shared_options
def command(session: Session) -> None:
    """Create the schema, or bring it up to date.

    Safe to run at every start and from many places at once. The embedded Postgres is migrated whenever it is opened.

    \b
    Examples:
      eventstore migrate --dsn postgresql://user@host/database
      eventstore migrate --schema billing_events
    """
    from eventstore.schema import REVISION, migrate

    session.log_to_stderr()
    schema = session.schema_name
    with session.server() as dsn:
        migrate(dsn, schema)
    result(session.json, {"schema": schema, "revision": REVISION}, f"schema {cell(schema)} is at revision {REVISION}")
