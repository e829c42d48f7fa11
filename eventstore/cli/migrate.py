"""``eventstore migrate``: the schema, brought up to date."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.output import cell, result
from eventstore.cli.session import Session, shared_options

__all__ = ["command"]


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; show the revisions that are missing.")
@click.option("--sql", "printing", is_flag=True, help="With --dry-run: print their SQL, one transaction.")
@shared_options
def command(session: Session, dry_run: bool, printing: bool) -> None:
    """Create the schema, or bring it up to date.

    Safe to run at every start and from many places at once. The embedded Postgres is migrated whenever it is opened.
    What --dry-run --sql prints can be run by psql, where somebody else may change the schema; without --sql its columns
    are revision and title.

    \b
    Examples:
      eventstore migrate --dsn postgresql://user@host/database
      eventstore migrate --schema billing_events
      eventstore migrate --dry-run
      eventstore migrate --dry-run --sql > upgrade.sql
    """
    if printing and not dry_run:
        raise click.UsageError("--sql goes with --dry-run")
    session.of_all_tenants()
    session.log_to_stderr()
    if dry_run:
        return _show(session, printing)
    from eventstore.schema import REVISION, migrate

    schema = session.schema_name
    with session.server() as dsn:
        migrate(dsn, schema)
    result(session.json, {"schema": schema, "revision": REVISION}, f"schema {cell(schema)} is at revision {REVISION}")
    return None


def _show(session: Session, printing: bool) -> None:
    from eventstore.planning import plan

    with session.server() as dsn:
        found = plan(dsn, session.schema_name)
    if session.json:
        row = asdict(found)
        return result(True, row if printing else {name: row[name] for name in row if name != "sql"}, "")
    if printing:
        if found.sql:
            click.echo(found.sql, nl=False)
        return None
    for step in found.steps:
        click.echo(f"{step.revision}  {step.title}")
    at = f"at revision {found.found}" if found.found else "not there yet"
    click.echo(f"schema {cell(found.schema)} is {at}; {len(found.steps) or 'no'} revision(s) missing", err=True)
    return None
