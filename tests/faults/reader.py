"""Readers of a campaign: ``python -m tests.faults.reader DSN JOURNAL NAME END``.

One follows everything, one the streams of a prefix, one pages through the log, and one joins late, again and again.
When the file END appears, which holds the log's last position, each reads up to there and says so.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from eventstore import All, DatabaseUnavailable, Event, EventPattern, EventStore, Selector
from tests.faults.writer import opened
from tests.hunt.journal import Entry, Journal

BEGINS = "s1"
"""The streams that the filtered reader wants."""

JOINED_BEFORE, JOINED_FOR = 200, 400
"""Positions and events: how far before the head a late reader joins, and how much it reads."""


@dataclass
class Reader:
    """Notes what it reads.

    Attributes:
        at: position of the last event.
    """

    journal: Journal
    name: str
    begins: str = ""
    after: int = 0

    def __post_init__(self) -> None:
        self.at = self.after
        self.journal.note(Entry("follow", self.name, position=self.after, stream=self.begins))

    def note(self, event: Event) -> None:
        self.at = event.position
        self.journal.note(
            Entry("read", self.name, "ok", str(event.id), event.position, event.stream or "", event.version or 0)
        )

    def end(self, upto: int) -> None:
        self.journal.note(Entry("end", self.name, position=upto))


@dataclass
class Readers:
    """All readers of one process."""

    store: EventStore
    name: str
    journal: Journal
    file: Path

    async def last(self, selector: Selector) -> int | None:
        """Position of the last event to read, once it is known that nothing comes any more."""
        if not self.file.exists():
            return None
        upto = int(self.file.read_text())
        while True:
            try:
                reading = self.store.read_all(selector, backwards=True, limit=1, before=upto + 1, timeout=5)
                return next(iter([event.position async for event in reading]), 0)
            except (DatabaseUnavailable, TimeoutError):
                await asyncio.sleep(0.2)

    async def follow(self, reader: Reader, selector: Selector, most: float = float("inf")) -> None:
        """Listen until the end, or until *most* events were read."""
        async with self.store.listen(selector, after=reader.after) as events:
            ended: asyncio.Future[int] = asyncio.ensure_future(self.ended(selector))
            upcoming: asyncio.Future[Event] = asyncio.ensure_future(anext(events))
            many = 0
            while many < most and not (ended.done() and reader.at >= ended.result()):
                waiting = {upcoming} if ended.done() else {upcoming, ended}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    reader.note(upcoming.result())
                    upcoming, many = asyncio.ensure_future(anext(events)), many + 1
            for task in (upcoming, ended):
                task.cancel()
            await asyncio.wait((upcoming, ended))
        reader.end(reader.at)

    async def ended(self, selector: Selector) -> int:
        while (last := await self.last(selector)) is None:
            await asyncio.sleep(0.1)
        return last

    async def page(self, reader: Reader) -> None:
        """Read what is new, up to the horizon, then go on behind what was read."""
        while True:
            last = await self.last(All())
            # Only an event that was read is safe to go on from; a horizon is as long as the server stays.
            reading = self.store.read_all(after=reader.at, timeout=5)
            try:
                async for event in reading:
                    reader.note(event)
            except (DatabaseUnavailable, TimeoutError) as error:
                print(f"{reader.name}: {error}", file=sys.stderr, flush=True)
            if last is not None and reader.at >= last:
                return reader.end(last)
            await asyncio.sleep(0.3)

    async def join_late(self) -> None:
        for number in count():
            if self.file.exists():
                return
            try:
                async with asyncio.timeout(10):
                    head = await self.store.head()
            except (DatabaseUnavailable, TimeoutError):
                await asyncio.sleep(0.5)
                continue
            reader = Reader(self.journal, f"{self.name}.late-{number}", after=max(0, head - JOINED_BEFORE))
            await self.follow(reader, All(), JOINED_FOR)


async def main(dsn: str, path: str, name: str, end: str) -> None:
    journal = Journal(Path(path))
    async with opened(dsn, name) as store, asyncio.TaskGroup() as group:
        print("ready", flush=True)
        readers = Readers(store, name, journal, Path(end))
        group.create_task(readers.follow(Reader(journal, f"{name}.all"), All()))
        some = Reader(journal, f"{name}.some", BEGINS)
        group.create_task(readers.follow(some, EventPattern(f"{BEGINS}*")))
        group.create_task(readers.page(Reader(journal, f"{name}.pages")))
        group.create_task(readers.join_late())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
