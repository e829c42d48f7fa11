"""``eventstore evidence``: the chain of hashes on and off, a key for seals, and the seals that the database holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventstore.cli.output import cell, result, write_line
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.evidence.switching import Status

__all__ = ["command"]


@click.group(invoke_without_command=True)
@shared_options
def command(session: Session) -> None:
    """Chain events by hashes, so that `eventstore verify` finds what was tampered with.

    Alone it shows whether the chain is on, and the last seal.

    \b
    Examples:
      eventstore evidence on
      eventstore evidence key seals.pem
      eventstore seal --key seals.pem --out seals.ndjson
      eventstore verify --seals seals.ndjson --public-key seals.pem.pub
    """
    if click.get_current_context().invoked_subcommand is None:
        session.run(_status(session))


@command.command()
@shared_options
def status(session: Session) -> None:
    """Show whether the chain is on, and the last seal.

    \b
    Examples:
      eventstore evidence status
      eventstore evidence status --json
    """
    session.run(_status(session))


@command.command()
@shared_options
def on(session: Session) -> None:
    """Give every event that is appended from now on a hash.

    It waits for appends in flight, 5 s at most. Events that are there already get no hash; the first seal covers them.

    \b
    Examples:
      eventstore evidence on
      eventstore evidence on --schema billing_events
    """
    session.run(_turn(session, True))


@command.command()
@shared_options
def off(session: Session) -> None:
    """Give events that are appended from now on no hash; those that have one keep it.

    \b
    Examples:
      eventstore evidence off
      eventstore evidence off --json
    """
    session.run(_turn(session, False))


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@shared_options
def key(session: Session, file: Path) -> None:
    """Make a key that signs seals: FILE, for the owner alone to read, and FILE.pub, which checks them.

    Needs no database. Keep FILE where nobody who could change the database can read it.

    \b
    Examples:
      eventstore evidence key seals.pem
    """
    from eventstore.evidence.keys import create

    public = create(file)
    row = {"key": public.name, "private": str(file), "public": f"{file}.pub"}
    result(session.json, row, f"key {public.name}: {cell(str(file))} signs, {cell(str(file))}.pub checks")


@command.command()
@click.option("--after", type=click.IntRange(0), default=0, show_default=True, help="Only those of higher numbers.")
@shared_options
def seals(session: Session, after: int) -> None:
    """Print the seals that the database holds, one JSON object a line, as `eventstore seal --out` writes them.

    \b
    Examples:
      eventstore evidence seals
      eventstore evidence seals --after 12
    """
    session.run(_seals(session, after))


async def _status(session: Session) -> None:
    from eventstore.evidence.switching import read_status

    async with session.store() as store:
        _print(session, await read_status(store.database))


async def _turn(session: Session, wanted: bool) -> None:
    from eventstore.evidence.switching import turn

    action = "evidence on" if wanted else "evidence off"
    async with session.store() as store, recorded(store.database, action, store.schema):
        found = await turn(store.database, wanted)
    _print(session, found)


def _print(session: Session, found: Status) -> None:
    from eventstore.evidence.seals import Seal, parse

    row = asdict(found) | {"last_seal": None}
    last: Seal | None = None if found.last_seal is None else parse(found.last_seal)
    if last is not None:
        row["last_seal"] = {"number": last.number, "position": last.position, "total": last.total, "key": last.key}
    states = {
        "on": f"on since position {found.since:,}",
        "off": f"off since position {found.since:,}",
        "never": "off, and never was on",
    }
    told = "no seals" if last is None else f"seal {last.number} covers the log up to position {last.position:,}"
    result(session.json, row, f"the chain is {states[found.state]}; {told}; the horizon is {found.horizon:,}")


async def _seals(session: Session, after: int) -> None:
    from eventstore.evidence.switching import read_seals

    async with session.store() as store:
        async for _, line in read_seals(store.database, after):
            write_line(line)
