"""``eventstore verify``: whether the log is as it was written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventstore.cli.output import Rows, cell, json_line, progress, write_line
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME

if TYPE_CHECKING:
    from eventstore.evidence.verifying import Verified
    from eventstore.evidence.walking import Break

__all__ = ["command"]

COLUMNS = ("position", "stream", "version", "what")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--seals", "seals_file", type=FILE, help="Seals that were kept elsewhere.")
@click.option("--public-key", "public_keys", type=FILE, multiple=True, help="Checks who signed them; repeatable.")
@click.option("--stream", type=NAME, help="Only this stream; without seals.")
@click.option("--since-seal", is_flag=True, help="Only what came after the last seal.")
@shared_options
def command(
    session: Session, seals_file: Path | None, public_keys: tuple[Path, ...], stream: str | None, since_seal: bool
) -> int:
    """Find out whether the log is as it was written.

    Looks at every event up to the horizon, its hash and the one before it in its stream, the rows beside it, and the
    seals: those of --seals, and those that the database holds. Only with --seals and --public-key is it certain that
    nothing was cut off, removed as a whole or written again with new hashes. The exit code is 1 if something is broken;
    the first 100 breaks are told, the first one first. Columns: position (or the range that a seal tells of), stream,
    version, what is wrong.

    \b
    Examples:
      eventstore verify
      eventstore verify --seals seals.ndjson --public-key seals.pem.pub
      eventstore verify --stream order-1 --json
    """
    if stream is not None and (seals_file or public_keys or since_seal):
        raise click.UsageError("--stream looks at one stream; seals are about the whole log")
    if seals_file and not public_keys:
        raise click.UsageError("--seals needs --public-key, which tells who signed them")
    found = session.run(_verify(session, seals_file, public_keys, stream, since_seal))
    if session.json:
        write_line(json_line(asdict(found) | {"intact": found.intact}))
    else:
        with Rows(False, COLUMNS) as rows:
            for one in found.breaks:
                rows.add(_row(one))
        write_line(_sentence(found))
    return 0 if found.intact else 1


async def _verify(
    session: Session, seals_file: Path | None, public_keys: tuple[Path, ...], stream: str | None, since_seal: bool
) -> Verified:
    from eventstore.cli.failures import StreamNotFound
    from eventstore.evidence.keys import PublicKey
    from eventstore.evidence.seals import read_file
    from eventstore.evidence.verifying import verify

    seals = read_file(seals_file) if seals_file else []
    keys = [PublicKey.read(one) for one in public_keys]
    async with session.store() as store:
        if stream is not None and await store.stream_info(stream) is None:
            raise StreamNotFound(stream)
        with progress("verifying", total=None if stream or since_seal else await store.head()) as more:
            return await verify(
                store.database, seals=seals, keys=keys, stream=stream, since_seal=since_seal, on_page=more
            )


def _row(found: Break) -> dict[str, object]:
    row = asdict(found)
    if found.after is not None and found.position is not None and found.after + 1 < found.position:
        row["position"] = f"{found.after + 1}-{found.position}"
    return row


def _sentence(found: Verified) -> str:
    looked = f"{found.events:,} events up to position {found.upto:,}: {found.chained:,} with a hash"
    if found.scavenged:
        looked += f", {found.scavenged:,} scavenged"
    if found.seals:
        checked = "signatures checked" if found.signed else "signatures not checked"
        looked += f"; {found.seals:,} seals up to position {found.sealed_upto:,}, {checked}"
    if found.first is None:
        return f"intact: {looked}"
    places = "one place" if found.found == 1 else f"{found.found:,} places, first"
    return f"BROKEN in {places} {cell(_place(found.first))}: {looked}"


def _place(found: Break) -> str:
    if found.position is None:
        return found.what if found.stream is None else f"in stream {found.stream}"
    place = f"at position {_row(found)['position']}"
    return place if found.stream is None else f"{place} (stream {found.stream}, version {found.version})"
