"""Looking at everything again: every event, the chain of its stream, the rows beside it, and the seals.

Reads pages up to the horizon, each in a statement of its own, so that nothing waits and no transaction lasts. Every
hash is made here, from the texts and bytes that are stored; the database only reads them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.evidence.hashing import Stored, stored_link
from eventstore.evidence.keys import PublicKey
from eventstore.evidence.seals import Seal, parse, unlinked
from eventstore.evidence.switching import Status, read_seals, read_status
from eventstore.evidence.walking import Break, SealWalk, examined, sort_key

__all__ = ["LOWEST", "MOST", "PAGE", "Verified", "pages", "verify"]

PAGE = 500
"""Rows of one page."""

LOWEST = -(1 << 63)
"""Before every position, also of those that none can have."""

MOST = 100
"""Breaks that are kept; the others are counted."""


@dataclass(slots=True)
class Verified:
    """What verifying found.

    Attributes:
        upto: position up to which all was looked at.
        events: how many events that were.
        chained: how many of them have a hash.
        scavenged: how many of them are stubs.
        seals: how many seals were looked at.
        sealed_upto: position up to which seals cover the log; 0: none does.
        signed: the signatures of the seals were checked.
        found: how many breaks there are.
        breaks: the first of them, by position.
    """

    upto: int = 0
    events: int = 0
    chained: int = 0
    scavenged: int = 0
    seals: int = 0
    sealed_upto: int = 0
    signed: bool = False
    found: int = 0
    breaks: list[Break] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Nothing was found."""
        return not self.found

    @property
    def first(self) -> Break | None:
        """The first break; None: there is none."""
        return self.breaks[0] if self.breaks else None

    def add(self, found: Break) -> None:
        """Count a break, and keep it among the first."""
        self.found += 1
        self.breaks.append(found)
        self.breaks.sort(key=sort_key)
        del self.breaks[MOST:]


Progress = Callable[[int], object]


async def verify(
    database: Database,
    *,
    seals: Sequence[Seal] = (),
    keys: Sequence[PublicKey] = (),
    stream: str | None = None,
    since_seal: bool = False,
    on_page: Progress = lambda _events: None,
) -> Verified:
    """Verify the log up to the horizon, or one *stream* of it.

    Args:
        seals: those that were kept elsewhere; the database must hold them too. It may hold newer ones, which count as
            well.
        keys: one of them must have signed each seal. Without any the signatures are not looked at.
        since_seal: only what came after the last seal.
        on_page: called with the number of events of each page.

    Raises:
        ConfigurationError: the role may not, or a seal cannot be checked.
    """
    if seals and not keys:
        raise ConfigurationError("seals are worth nothing without the public key that checks who signed them")
    status, report = await read_status(database), Verified(signed=bool(keys))
    held = [] if stream is not None else await _seals(database, seals, keys, report)
    # The horizon may fall back for a moment, never what was sealed: all appends below had finished then.
    report.upto = max(status.horizon, min(report.sealed_upto, status.last_position))
    start = LOWEST
    if since_seal:
        if not report.seals:
            raise ConfigurationError("there is no seal yet; leave out --since-seal, or make one: eventstore seal")
        start, held = report.sealed_upto, []
    await _events(database, status, report, SealWalk(held), start, stream, on_page)
    if stream is None:
        await _bounds(database, report)
        await _streams(database, report)
        await _tags(database, report)
    return report


# -- seals


async def _seals(database: Database, kept: Sequence[Seal], keys: Sequence[PublicKey], report: Verified) -> list[Seal]:
    """Return the seals to compare the log with, in their order; what is wrong with them goes to *report*."""
    trusted = {seal.number: seal for seal in kept}
    found: dict[int, Seal] = {}
    numbers: set[int] = set()
    async for number, text in read_seals(database):
        try:
            seal = parse(text)
        except ConfigurationError:
            numbers.add(number)
            report.add(Break(f"seal {number} in the database is no seal", seal=number))
            continue
        numbers.add(number)
        if seal.number != number or (number in trusted and trusted[number] != seal):
            report.add(Break(f"seal {number} in the database is not the one that was made", seal=number))
        elif number not in trusted:
            found[number] = seal
    for number in sorted(trusted.keys() - numbers):
        report.add(Break(f"seal {number} is missing in the database", seal=number))
    every = [one for _, one in sorted((trusted | found).items())]
    report.seals = len(every)
    good = []
    for seal in every:
        if keys and not seal.signed_by(keys):
            report.add(Break(f"seal {seal.number} is not signed by a key that was given", seal=seal.number))
        else:
            good.append(seal)
    for seal, what in unlinked(good):
        report.add(Break(f"seal {seal.number}: {what}", seal=seal.number))
    report.sealed_upto = max((seal.position for seal in good), default=0)
    return good


# -- the log


async def pages(database: Database, start: int, upto: int, stream: str | None = None) -> AsyncIterator[list[Stored]]:
    """Yield the events after *start*, a position, or a version of *stream*, up to the position *upto*, as they are."""
    while rows := await database.rows("chain_page_v1", start, upto, PAGE, stream):
        yield [Stored(*row) for row in rows]
        start = rows[-1]["position" if stream is None else "version"]


async def _events(
    database: Database,
    status: Status,
    report: Verified,
    walk: SealWalk,
    start: int,
    stream: str | None,
    on_page: Progress,
) -> None:
    before = LOWEST
    async for rows in pages(database, start, report.upto, stream):
        for row in rows:
            written, wrong = examined(row, status.periods)
            if row.position == before:
                wrong = "another event has the same position"
            before = row.position
            if wrong is not None:
                report.add(Break(wrong, row.position, stream=row.stream, version=row.version))
            for found in walk.feed(row, written):
                report.add(found)
            report.events += 1
            report.chained += stored_link(row.hash) is not None
            report.scavenged += row.data is None
        on_page(len(rows))
        await asyncio.sleep(0)
    for found in walk.finish():
        report.add(found)


async def _bounds(database: Database, report: Verified) -> None:
    """Look for events where none can be: readers would see them once the log gets there."""
    (row,) = await database.rows("log_bounds_v1")
    if row["highest"] > row["last_position"]:
        report.add(
            Break(f"an event lies beyond the last position that was drawn, {row['last_position']}", row["highest"])
        )


async def _streams(database: Database, report: Verified) -> None:
    """Compare the rows of streams with where their events end."""
    after = ""
    while rows := await database.rows("chain_streams_v1", after, PAGE):
        for row in rows:
            if row["version"] != row["ends"]:
                what = f"its stream's row ends at version {row['version']}, its events at {row['ends']}"
                report.add(Break(what, stream=row["stream"], version=row["ends"]))
            elif not row["bucket_fits"]:
                report.add(Break("its stream's row has another bucket than its name", stream=row["stream"]))
        after = rows[-1]["stream"]


async def _tags(database: Database, report: Verified) -> None:
    """Look for rows that would show events under tags that they do not have."""
    tag, position = "", LOWEST
    while rows := await database.rows("chain_tags_v1", tag, position, report.upto, PAGE):
        for row in rows:
            if row["wrong"]:
                report.add(Break(f"event_tags says that it has the tag {row['tag']!r}", row["position"]))
        tag, position = rows[-1]["tag"], rows[-1]["position"]
