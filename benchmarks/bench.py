"""What a work is given to prepare with: a database, stores in schemas of their own, helpers in other processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

import asyncpg

from benchmarks.measure import Call
from benchmarks.model import Sample
from benchmarks.sides import Floor, new_event
from eventstore import EventStore

__all__ = ["Bench", "Helper", "pooled"]


@dataclass
class Bench:
    """One work's room.

    Attributes:
        notes: what a reader of the figures should know, printed below them.
        progress: called with what is going on.
    """

    dsn: str
    schema: str
    quick: bool
    message_db_sql: str | None = None
    progress: Callable[[str], None] = lambda _text: None
    notes: list[str] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """Return a number of events or callers, smaller in a quick run."""
        return quick if self.quick else full

    @asynccontextmanager
    async def store(self) -> AsyncIterator[EventStore]:
        """Yield an open store with default settings in an empty schema, which goes with it."""
        await EventStore.migrate(self.dsn, schema=self.schema)
        try:
            async with EventStore(self.dsn, schema=self.schema) as store:
                yield store
        finally:
            await self.execute(
                f"drop schema {self.schema} cascade", f"drop schema if exists {self.schema}_floor cascade"
            )

    async def floor(self) -> Floor:
        """Return the floor's table beside the store's."""
        return await Floor.make(self.dsn, self.schema)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a plain connection."""
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction of its own."""
        async with self.connection() as connection:
            for statement in statements:
                await connection.execute(statement)

    @asynccontextmanager
    async def inserters(self, floor: Floor, count: int) -> AsyncIterator[list[Call]]:
        """Yield calls that insert one row each, every one on its own connection and stream."""
        made = [await floor.inserter(f"floor-{number}") for number in range(count)]
        try:
            yield [call for _, call in made]
        finally:
            for connection, _ in made:
                await connection.close()

    async def fill(
        self, store: EventStore, count: int, *, seconds: float, streams: int = 100, tag_count: int = 0
    ) -> int:
        """Append *count* events in large appends, for at most *seconds*; returns how many it became.

        With a *tag_count* every event has one tag, ``customer:N``, of so many different ones.
        """
        began, done, batches = monotonic(), 0, iter(range(0, count, 1000))

        async def append() -> None:
            nonlocal done
            for first in batches:
                if monotonic() - began > seconds:
                    return
                numbers = range(first, min(first + 1000, count))
                tags = [[f"customer:{number * 7919 % tag_count}"] if tag_count else [] for number in numbers]
                await store.append(f"filled-{first // 1000 % streams}", [new_event(each) for each in tags])
                done += len(numbers)
                self.progress(f"storing {done:,} of {count:,} events beforehand")

        await asyncio.gather(*(append() for _ in range(2)))
        await self.execute("analyze")
        if done < count:
            self.notes.append(f"{done:,} events stored beforehand instead of {count:,}: the time for it was up")
        return done

    @asynccontextmanager
    async def helpers(self, count: int) -> AsyncIterator[list[Helper]]:
        """Yield other processes."""
        async with AsyncExitStack() as started:
            made = [await started.enter_async_context(Helper.start(self.dsn, self.schema)) for _ in range(count)]
            await asyncio.gather(*(each.call("hello") for each in made))
            yield made


class Helper:
    """A process that does what it is told (`helper.py`), by lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, dsn: str, schema: str) -> AsyncIterator[Self]:
        """Start one, and end it in the end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.helper", dsn, schema,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
            start_new_session=True,  # Ctrl-C is for the parent; the end of its input ends it
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.stdin:
                process.stdin.close()  # the end of its input is the end of its work
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def call(self, action: str, **arguments: Any) -> Any:
        """Let it do *action*, and return what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([action, arguments]).encode() + b"\n")
        answer = await self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the helper process ended during {action!r}; its error is above")
        return json.loads(answer)


def pooled(samples: list[dict[str, Any]]) -> Sample:
    """Join what several processes measured in the same seconds: rates add up, the slowest tail counts."""
    took = max(sample["seconds"] for sample in samples)
    return Sample(
        count=sum(sample["count"] for sample in samples),
        seconds=took,
        p50=max(sample["p50"] for sample in samples),
        p99=max(sample["p99"] for sample in samples),
        errors=sum(sample["errors"] for sample in samples),
    )
