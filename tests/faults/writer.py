"""A writer of a campaign: ``python -m tests.faults.writer DSN JOURNAL NAME RATE SEED``, appends a second.

It notes each append before it is sent and then what became of it. At SIGTERM it finishes what it has in hand.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from eventstore import (
    ANY,
    AppendCondition,
    AppendResult,
    DatabaseUnavailable,
    EventStore,
    EventStoreError,
    NewEvent,
    OutcomeUnknown,
    Settings,
    StreamAppend,
    Tags,
)
from tests.hunt.journal import Entry, Journal

__all__ = ["SETTINGS", "STREAMS", "Noted", "opened"]

STREAMS = 40
LOOPS = 4
SETTINGS = Settings(connections=4, connect_timeout=3.0, append_timeout=5.0, poll_interval=0.5, heartbeat_interval=3.0)
GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, DatabaseUnavailable)


@dataclass
class Noted:
    """One append: what is sent, and what is noted of it."""

    journal: Journal
    writer: str
    name: str
    parts: Sequence[StreamAppend]

    def note(self, outcome: Any, results: Sequence[AppendResult] = ()) -> None:
        for number, part in enumerate(self.parts):
            result = results[number] if results else None
            for nth, event in enumerate(part.events):
                self.journal.note(self._entry(outcome, part, event, nth, result))

    def _entry(self, outcome: Any, part: StreamAppend, event: NewEvent, nth: int, result: AppendResult | None) -> Entry:
        entry = Entry("append", self.writer, outcome, str(event.id), append=self.name)
        if result is None:
            return entry
        assert result.first_version is not None
        # Positions of one append increase, and not by one each: only those of both ends are told.
        ends = {len(part.events) - 1: result.position, 0: result.first_position}
        return replace(entry, stream=part.stream, version=result.first_version + nth, position=ends.get(nth, 0))


@dataclass
class Writer:
    """Appends in every form there is.

    Attributes:
        seen: versions of streams, as far as they are known here.
    """

    store: EventStore
    dsn: str
    name: str
    journal: Journal
    rng: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    numbers: Any = field(default_factory=count)
    lent: list[asyncpg.Connection] = field(default_factory=list)

    async def run(self, pause: float, enough: asyncio.Event) -> None:
        while not enough.is_set():
            form = self.rng.choices(
                (self.plain, self.expected, self.conditional, self.many, self.borrowing), (8, 4, 2, 3, 3)
            )[0]
            await form()
            await asyncio.sleep(pause * (0.5 + self.rng.random()))

    def append(self, *parts: StreamAppend) -> Noted:
        return Noted(self.journal, self.name, f"{self.name}/{next(self.numbers)}", parts)

    def part(self, stream: str, expected: int = ANY) -> StreamAppend:
        many = self.rng.choice((1, 1, 1, 2, 3))
        tags = [f"t{self.rng.randrange(8)}"] if self.rng.random() < 0.3 else []
        return StreamAppend(stream, [NewEvent("T", self.rng.randrange(1000), tags=tags) for _ in range(many)], expected)

    def stream(self) -> str:
        return f"s{self.rng.randrange(STREAMS)}"

    # -- forms

    async def plain(self) -> None:
        await self.send(self.append(self.part(self.stream())))

    async def expected(self) -> None:
        stream = self.stream()
        await self.send(self.append(self.part(stream, self.seen[stream])))

    async def many(self) -> None:
        names = self.rng.sample([f"s{n}" for n in range(STREAMS)], self.rng.randrange(2, 4))
        await self.send(self.append(*map(self.part, names)))

    async def conditional(self) -> None:
        try:
            async with asyncio.timeout(10):
                known = await self.store.head()
        except (TimeoutError, DatabaseUnavailable):
            return
        condition = AppendCondition(Tags(f"t{self.rng.randrange(8)}"), after=known)
        await self.send(self.append(self.part(self.stream())), condition)

    async def send(self, append: Noted, condition: AppendCondition | None = None) -> None:
        """Send it, and once more if nobody knows what became of it."""
        append.note("invoke")
        for again in (False, True):
            try:
                results = await self.store.append_many(append.parts, condition=condition, timeout=10)
            except OutcomeUnknown:
                append.note("unknown")
                if self.rng.random() < 0.3:
                    return
            except (EventStoreError, TimeoutError) as error:
                append.note("fail") if not again else None
                for_stream = getattr(error, "stream", None)
                if for_stream is not None:
                    self.seen[for_stream] = getattr(error, "actual", 0)
                return
            else:
                return self.done(append, results)

    def done(self, append: Noted, results: Sequence[AppendResult]) -> None:
        append.note("ok", results)
        for result in results:
            self.seen[str(result.stream)] = result.version or 0

    async def borrowing(self) -> None:
        """In a transaction of the caller's, which pauses, and rolls back now and then."""
        append = self.append(self.part(self.stream()))
        append.note("invoke")
        connection = None
        try:
            connection = self.lent.pop() if self.lent else await asyncpg.connect(
                self.dsn, timeout=3, command_timeout=10
            )  # fmt: skip
            transaction = connection.transaction()
            await transaction.start()
            results = await self.store.append_many(append.parts, connection=connection)
            await asyncio.sleep(self.rng.random() * 0.1)
            if self.rng.random() < 0.2:
                await transaction.rollback()
                append.note("fail")
                self.lent.append(connection)
                return
        except (*GONE, asyncpg.PostgresError, EventStoreError):
            append.note("fail")  # nobody asked for a commit
            if connection is not None:
                connection.terminate()
            return
        await self.commit(append, results, transaction, connection)

    async def commit(self, append: Noted, results: list[AppendResult], transaction: Any, connection: Any) -> None:
        try:
            await transaction.commit()
        except (*GONE, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
            append.note("unknown")
            connection.terminate()
        except asyncpg.PostgresError:
            append.note("fail")
            connection.terminate()
        else:
            self.done(append, results)
            self.lent.append(connection)


@asynccontextmanager
async def opened(dsn: str, name: str, settings: Settings = SETTINGS) -> AsyncIterator[EventStore]:
    """Open a store, as soon as the database is there."""
    while True:
        store = EventStore(dsn, node_name=name, settings=settings)
        try:
            await store.__aenter__()
            break
        except DatabaseUnavailable as error:
            print(f"not opened: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.5)
    try:
        yield store
    finally:
        await store.__aexit__()


async def main(dsn: str, path: str, name: str, rate: float, seed: int) -> None:
    enough = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough.set)
    journal = Journal(Path(path))
    async with opened(dsn, name) as store, asyncio.TaskGroup() as group:
        print("ready", flush=True)
        for number in range(LOOPS):
            writer = Writer(store, dsn, f"{name}.{number}", journal, random.Random(seed + number))
            group.create_task(writer.run(LOOPS / rate, enough))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], float(sys.argv[4]), int(sys.argv[5])))
