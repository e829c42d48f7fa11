"""``eventstore dev``: the embedded Postgres, for as long as somebody wants it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from eventstore.cli.failures import Terminated
from eventstore.cli.output import result
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.embedded import EmbeddedPostgres

__all__ = ["command"]

LOOK_EVERY = 1.0
"""Seconds between two looks whether the server runs."""


@click.command()
@shared_options
def command(session: Session) -> None:
    """Run the embedded Postgres until Ctrl-C.

    Starts the server or joins the one that runs, brings the schema up to date, and prints the DSN. The data stays
    when the server stops.

    \b
    Examples:
      eventstore dev
      eventstore dev --data-dir ./data
      eventstore dev --json
    """
    from eventstore.schema import migrate

    if session.dsn is not None:
        raise click.UsageError("dev runs the embedded Postgres; --dsn names another server")
    session.of_all_tenants()
    session.log_to_stderr()
    with session.embedded() as server:
        migrate(server.dsn, session.schema_name)
        _announce(session, server.dsn, str(server.data_dir))
        _keep_running(server)


def _announce(session: Session, dsn: str, data_dir: str) -> None:
    result(session.json, {"dsn": dsn, "schema": session.schema_name, "data_dir": data_dir}, dsn)
    if not session.json:
        click.echo(f"data in {data_dir}; Ctrl-C stops the server", err=True)


def _keep_running(server: EmbeddedPostgres) -> None:
    """Wait for SIGTERM, which is how a service is asked to stop; Ctrl-C passes through.

    The supervisor starts a killed server again, but nobody else does that for a killed supervisor.
    """
    try:
        while True:
            time.sleep(LOOK_EVERY)
            server.start()
    except Terminated:
        return
