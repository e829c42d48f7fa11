"""Concurrent appends of one process share round trips.

While a batch is on its way the next one gathers; there is no timer, so that a lone append waits for nobody. Each append
is atomic and has an outcome of its own. What cannot be settled without waiting (its stream is locked, a condition holds
its stripes) or may be a retry leaves the batch and is run alone, and so is every append of a batch that failed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from eventstore.database import Database
from eventstore.errors import ConfigurationError, DatabaseUnavailable, EventStoreError, OutcomeUnknown
from eventstore.events import AppendResult
from eventstore.log import append as appending
from eventstore.log.append import KnownRequest, Request
from eventstore.service import Tasks

__all__ = ["Coalescer"]

LANES = 2
"""Batches on their way at a time, if many wait."""

ENOUGH = 16
"""Appends that make a second batch worth its while; fewer are better off in the next one: measured with 16 callers, one
batch at a time does two to three times as many appends as two half as large."""

MAX_APPENDS = 128
"""Appends of one batch."""

MAX_CHARACTERS = 4 << 20
"""Encoded characters after which a batch is full."""

CLOSED = "the store was closed"
UNSENT = "before the append was sent; nothing happened"

MAX_WAITING = 10_000
"""Appends that may wait here; further callers wait outside, in order."""


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Request
    done: asyncio.Future[asyncpg.Record | None]
    """The row of the batch; None: it has to be run alone."""


class Coalescer:
    """Gathers appends to one stream (or none) each into batches."""

    def __init__(self, database: Database, connections: int, patience: float) -> None:
        self._database, self._connections, self._patience = database, connections, patience
        self._closed = True

    async def start(self, dsn: str, schema: str) -> None:
        """Accept appends; the connections are the database's."""
        self._queue: deque[_Waiting] = deque()
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}
        self._lanes = self._most_lanes = min(LANES, self._connections)
        self._under_way = 0
        self._places = asyncio.Semaphore(MAX_WAITING)
        self._brief = asyncio.Semaphore(max(1, self._connections // 4))
        self._waiting = asyncio.Semaphore(max(1, self._connections // 2))
        self._tasks = Tasks()
        self._closed = False

    async def stop(self) -> None:
        """End the batches on their way: whoever waits for them is told that the outcome is unknown."""
        if self._closed:
            return
        self._closed = True
        await self._tasks.stop()
        for waiting in self._queue:
            _fail(waiting)
        self._queue.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the store is not open; use `async with EventStore(...) as store`")

    async def alone(self, request: Request | KnownRequest) -> Sequence[asyncpg.Record]:
        """Append *request*, whatever its form, on a connection of its own; see `append.run`."""
        if not request.sent:
            self._check_open()
        return await appending.run(self._database, request, self._patience, self._brief, self._waiting)

    async def append(self, request: Request) -> AppendResult:
        """Append *request*, which has one part."""
        self._check_open()
        stream = request.parts[0].stream
        await self._places.acquire()
        try:
            if stream is None:
                return await self._append(request)
            await self._take_turn(stream)
            try:
                return await self._append(request)
            finally:
                self._pass_turn(stream)
        finally:
            self._places.release()

    async def _take_turn(self, stream: str) -> None:
        """Let one append to *stream* pass at a time, in order: two of them would stand in each other's way."""
        waiting = self._turns.get(stream)
        if waiting is None:
            self._turns[stream] = deque()
            return
        mine = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self._pass_turn(stream)
            raise

    def _pass_turn(self, stream: str) -> None:
        waiting = self._turns[stream]
        while waiting:
            first = waiting.popleft()
            if not first.done():
                first.set_result(None)
                return
        del self._turns[stream]

    async def _append(self, request: Request) -> AppendResult:
        row = await self._batched(request)
        if row is None:
            if self._closed and not request.sent:
                raise DatabaseUnavailable(f"{CLOSED} {UNSENT}")
            return appending.results(await self.alone(request))[0]
        return AppendResult(
            request.parts[0].stream,
            row["version"],
            row["position"],
            row["first_version"],
            row["first_position"],
            False,
        )

    async def _batched(self, request: Request) -> asyncpg.Record | None:
        if self._closed:
            return None
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        if self._lanes == self._most_lanes and not self._queue:
            # Nobody else waits: no need for a task of its own.
            self._lanes -= 1
            try:
                return (await self._rows([waiting]))[0]
            finally:
                self._lanes += 1
                self._open_lane()
        self._queue.append(waiting)
        self._open_lane()
        # A caller that is cancelled cancels the future; a batch leaves out what is cancelled before it is sent.
        return await waiting.done

    def _open_lane(self) -> None:
        if self._lanes and self._worthwhile(self._most_lanes - self._lanes) and not self._closed:
            self._lanes -= 1
            self._tasks.spawn("append batches", self._lane())

    def _worthwhile(self, other_lanes: int) -> bool:
        # Three quarters of an even share: less would let a small batch and a large one chase each other for ever.
        return len(self._queue) >= (max(ENOUGH, self._even() * 3 // 4) if other_lanes else 1)

    def _even(self) -> int:
        """An even share for each lane of all appends that wait or are under way."""
        return -(-(len(self._queue) + self._under_way) // self._most_lanes)

    async def _lane(self) -> None:
        """Send batch after batch until nothing waits."""
        try:
            while self._worthwhile(self._most_lanes - self._lanes - 1) and (batch := self._gather()):
                await self._send(batch)
                # Those who have their answer may append again at once: they belong into the next batch.
                await asyncio.sleep(0)
        finally:
            self._lanes += 1
            self._open_lane()

    def _gather(self) -> list[_Waiting]:
        """Take what waits, but no more than an even share, so that the lanes stay alike."""
        share = min(MAX_APPENDS, max(ENOUGH, self._even()))
        batch: list[_Waiting] = []
        events = characters = 0
        while self._queue and len(batch) < share:
            waiting = self._queue[0]
            if waiting.done.done():
                self._queue.popleft()
                continue
            new = waiting.request.parts[0].events
            events += len(new)
            characters += sum(len(event.encoded_data) for event in new)
            if batch and (events > appending.MAX_EVENTS or characters > MAX_CHARACTERS):
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        """Append *batch* and answer everybody in it, whatever happens."""
        try:
            rows = await self._rows(batch)
        except DatabaseUnavailable as error:
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(DatabaseUnavailable(str(error)))
            return
        except BaseException as error:
            for waiting in batch:
                _fail(waiting, CLOSED if self._closed else f"{type(error).__name__}: {error}")
            raise
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(row)

    async def _rows(self, batch: list[_Waiting]) -> list[asyncpg.Record | None]:
        """Append *batch*, from which those who left meanwhile are taken out; None for what has to be run alone.

        Raises:
            DatabaseUnavailable: there is no connection to be had, for nobody in the batch; nothing was sent.
        """
        self._under_way += (count := len(batch))
        try:
            async with self._database.acquire() as connection:
                batch[:] = [waiting for waiting in batch if not waiting.done.done()]
                if not batch:
                    return []
                for waiting in batch:
                    waiting.request.sent = True
                if lone := _one_event(batch):
                    rows = await self._database.rows("append_one_v1", *lone, on=connection)
                else:
                    rows = await self._database.rows("append_batch_v1", *_arguments(batch), on=connection)
        except (EventStoreError, asyncpg.PostgresError) as error:
            if isinstance(error, DatabaseUnavailable) and not batch[0].request.sent:
                raise
            # Alone each finds its own error. An answer says that nothing happened.
            unknown = isinstance(error, DatabaseUnavailable) and not appending.answered(error)
            for waiting in batch:
                waiting.request.sent &= unknown
                if waiting.request.sent:
                    appending.lost(waiting.request, self._patience)
            return [None] * len(batch)
        finally:
            self._under_way -= count
        for waiting, row in zip(batch, rows, strict=True):
            waiting.request.sent = row["outcome"] == "appended"
        return [row if row["outcome"] == "appended" else None for row in rows]


def _fail(waiting: _Waiting, reason: str = CLOSED) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(
            OutcomeUnknown(f"{reason} during an append; append the same events again to learn whether it happened")
            if waiting.request.sent
            else DatabaseUnavailable(f"{reason} {UNSENT}")
        )


def _one_event(batch: Sequence[_Waiting]) -> list[object] | None:
    """Return the arguments of ``append_one_v1``, if it can do what is asked for."""
    request = batch[0].request
    (part,) = request.parts
    if len(batch) > 1 or len(part.events) > 1 or request.condition is not None:
        return None
    event = part.events[0]
    tags = appending.tags_literal(event)
    columns = (event.id, event.type, event.encoded_data, event.encoded_metadata, tags, event.created_at)
    return [part.stream, int(part.expected), *columns]


def _arguments(batch: Sequence[_Waiting]) -> list[object]:
    parts = [waiting.request.parts[0] for waiting in batch]
    events = [event for part in parts for event in part.events]
    numbers = [number for number, part in enumerate(parts, 1) for _ in part.events]
    conditions = [waiting.request.condition.encoded if waiting.request.condition else None for waiting in batch]
    return [
        [part.stream for part in parts],
        [int(part.expected) for part in parts],
        *appending.event_arrays(events, numbers),
        conditions if any(conditions) else None,
    ]
