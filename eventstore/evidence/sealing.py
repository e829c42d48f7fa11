"""Making the next seal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from eventstore.database import Database
from eventstore.errors import ConfigurationError, EventStoreError
from eventstore.evidence.hashing import NONE
from eventstore.evidence.keys import PublicKey, SigningKey
from eventstore.evidence.seals import Seal, parse, signed
from eventstore.evidence.switching import Status, read_status
from eventstore.evidence.verifying import LOWEST, pages
from eventstore.evidence.walking import Break, Marking, examined

__all__ = ["NotIntact", "seal"]


class NotIntact(EventStoreError):
    """What is to be sealed, or the seal before, is not as it was made. `eventstore verify` tells more."""

    def __init__(self, message: str, found: Break | None = None) -> None:
        self.position = None if found is None else found.position
        self.stream = None if found is None else found.stream
        self.version = None if found is None else found.version
        super().__init__(message)


async def seal(
    database: Database,
    key: SigningKey,
    *,
    now: datetime,
    kept: Sequence[Seal] = (),
    keys: Sequence[PublicKey] = (),
    on_page: Callable[[int], object] = lambda _events: None,
) -> Seal | None:
    """Verify what came after the last seal, sign and store the next one; None: nothing came after it.

    The chain must be on, or was once: otherwise scavenging would leave nothing that a seal could be checked with.

    Args:
        now: when it is, by the clock of who signs.
        kept: the seals that were kept elsewhere until now; the database must still hold the last of them.
        keys: who else may have signed the last seal, before the key was changed.

    Raises:
        NotIntact: an event, or the last seal, is not as it was made.
        ConfigurationError: the chain was never on, or the role may not.
        TransactionConflict: somebody else has sealed meanwhile.
    """
    status = await read_status(database)
    if status.state == "never":
        raise ConfigurationError("there is no evidence to seal: turn it on first, by `eventstore evidence on`")
    last = _last(status, kept, (key.public, *keys))
    after = 0 if last is None else last.position
    if status.horizon <= after:
        return None
    start = NONE if last is None else bytes.fromhex(last.digest)
    marking = Marking(start)
    async for rows in pages(database, after if last else LOWEST, status.horizon):
        for row in rows:
            written, wrong = examined(row, status.periods)
            if wrong is not None:
                found = Break(wrong, row.position, stream=row.stream, version=row.version)
                raise NotIntact(f"nothing was sealed: the event at position {row.position} is broken: {wrong}", found)
            marking.feed(row, written)
        on_page(len(rows))
    if not marking.events:
        return None
    made = Seal(
        number=1 if last is None else last.number + 1,
        schema=database.schema,
        after=after,
        position=status.horizon,
        events=marking.events,
        total=marking.events + (0 if last is None else last.total),
        marks=marking.marks(status.horizon),
        previous=start.hex(),
        sealed_at=now.isoformat(timespec="seconds"),
        key=key.public.name,
    )
    made = signed(made, key)
    await database.rows("add_seal_v1", made.number, made.line)
    return made


def _last(status: Status, kept: Sequence[Seal], keys: Sequence[PublicKey]) -> Seal | None:
    """Return the last seal, of which it is certain that it was made by one of *keys*."""
    if status.last_seal is None:
        if kept:
            raise NotIntact(f"seal {kept[-1].number} is missing in the database; nothing was sealed")
        return None
    try:
        last = parse(status.last_seal)
    except ConfigurationError:
        raise NotIntact(f"seal {status.seals} in the database is no seal; nothing was sealed") from None
    if not last.signed_by(keys):
        raise NotIntact(
            f"seal {status.seals} in the database is not signed by this key; if it was by another, give that as well"
            " (--public-key)"
        )
    if kept and (kept[-1].number > last.number or (kept[-1].number == last.number and kept[-1] != last)):
        raise NotIntact(f"seal {kept[-1].number} in the database is not the one that was kept; nothing was sealed")
    return last
