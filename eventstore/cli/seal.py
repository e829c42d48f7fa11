"""``eventstore seal``: sign what the log holds, to be kept elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventstore.cli.output import progress, result
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.evidence.seals import Seal

__all__ = ["command"]

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--key", "key_file", type=FILE, required=True, help="Private key, of `eventstore evidence key`.")
@click.option("--out", type=FILE, help="File that the seal is added to; made if it is missing.")
@click.option("--public-key", "public_keys", type=FILE, multiple=True, help="Of who signed before; repeatable.")
@shared_options
def command(session: Session, key_file: Path, out: Path | None, public_keys: tuple[Path, ...]) -> None:
    """Sign what the log holds, up to the horizon.

    What came after the last seal is verified first; if it is broken nothing is signed. The seal is stored, and written
    to --out as one JSON line: keep that file where nobody who could change the database can. The chain must be on
    (`eventstore evidence on`). If nothing came after the last seal, none is made.

    \b
    Examples:
      eventstore seal --key seals.pem --out seals.ndjson
      eventstore seal --key new.pem --public-key seals.pem.pub --out seals.ndjson --json
    """
    made = session.run(_seal(session, key_file, out, public_keys))
    if made is None:
        result(session.json, {"sealed": False}, "nothing came after the last seal")
        return
    row = asdict(made) | {"sealed": True}
    result(
        session.json,
        row,
        f"seal {made.number} covers {made.events:,} events after position {made.after:,}, up to {made.position:,}",
    )


async def _seal(session: Session, key_file: Path, out: Path | None, public_keys: tuple[Path, ...]) -> Seal | None:
    from datetime import UTC, datetime

    from eventstore.evidence.keys import PublicKey, SigningKey
    from eventstore.evidence.sealing import seal
    from eventstore.evidence.seals import append_to, read_file

    key, keys = SigningKey.read(key_file), [PublicKey.read(one) for one in public_keys]
    kept: list[Seal] = []
    if out is not None:
        append_to(out, [])  # before anything is sealed: whether it can be written
        kept = read_file(out)
    async with session.store() as store:
        with progress("sealing") as more:
            now = datetime.now(UTC)
            made = await seal(store.database, key, now=now, kept=kept, keys=keys, on_page=more)
        if made is not None:
            async with recorded(store.database, "seal", store.schema, number=made.number, position=made.position):
                if out is not None:
                    append_to(out, [made])
    return made
