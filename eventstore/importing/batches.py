"""Batches of mapped rows, and appending them: the next one is parsed while the last one is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID

from eventstore.errors import DuplicateEventId, ImportFailed, StreamDeleted
from eventstore.events import NewEvent
from eventstore.importing.mapping import Mapped, Mapping, map_rows
from eventstore.importing.rows import Reject, RowFile

__all__ = ["BATCH_SIZE", "Append", "Batch", "Imported", "batched", "import_rows"]

BATCH_SIZE = 1000
"""Rows of one transaction."""

MAX_BATCH_CHARACTERS = 16 << 20
"""Encoded characters after which a batch is full whatever its number of rows, lest large events fill the memory."""

Append = Callable[[Sequence[str | None], Sequence[NewEvent]], Awaitable[int]]
"""`EventStore.append_known`: streams and events side by side; returns how many were new."""


@dataclass(slots=True)
class Batch:
    """Rows of one transaction, and the records rejected between them.

    Attributes:
        bytes_read: how far the file was read when the batch was complete.
    """

    mapped: list[Mapped] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)
    characters: int = 0
    bytes_read: int = 0

    def add(self, one: Mapped) -> None:
        """Put a row behind the others."""
        self.mapped.append(one)
        self.ids.add(one.event.id)
        self.characters += len(one.event.encoded_data) + len(one.event.encoded_metadata)

    def full(self, size: int) -> bool:
        """Whether it is time to write it."""
        return len(self.mapped) + len(self.rejects) >= size or self.characters >= MAX_BATCH_CHARACTERS


@dataclass(slots=True)
class Imported:
    """What an import has done so far.

    Attributes:
        rows: records read, rejected ones included.
        added: events that are new in the log.
        rejected: records that became no event.
    """

    rows: int = 0
    added: int = 0
    rejected: int = 0

    @property
    def known(self) -> int:
        """Rows that were in the log already."""
        return self.rows - self.rejected - self.added


def batched(items: Iterable[Mapped | Reject], rows: RowFile, size: int = BATCH_SIZE) -> Iterator[Batch]:
    """Group *items*, which come from *rows*, in their order.

    An id that comes again begins a new batch, because one append takes it only once; it is then known.
    """
    batch = Batch()
    for item in items:
        if batch.full(size) or (isinstance(item, Mapped) and item.event.id in batch.ids):
            batch.bytes_read = rows.bytes_read
            yield batch
            batch = Batch()
        if isinstance(item, Mapped):
            batch.add(item)
        else:
            batch.rejects.append(item)
    batch.bytes_read = rows.bytes_read
    yield batch


async def import_rows(
    rows: RowFile,
    mapping: Mapping,
    append: Append,
    *,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[Batch, Imported], None] = lambda batch, so_far: None,
    on_reject: Callable[[Reject], None] | None = None,
) -> Imported:
    """Import every row of *rows*: in the file's order, each batch in one transaction.

    Rows that are in the log already are left out, so an import that stopped goes on when it is run again.

    Args:
        on_batch: called after each batch is written.
        on_reject: takes each record that cannot become an event; None: the first one stops the import.

    Raises:
        ImportFailed: a record cannot become an event, its stream was closed for good, or the file is damaged. Nothing
            of its batch is written.
        DuplicateEventId: a row was imported with another mapping; the message names its line.
    """
    so_far = Imported()
    items = map_rows(rows, mapping)
    batches = batched(items if on_reject else _until_reject(items, rows.name), rows, batch_size)
    try:
        async with aclosing(_parsed_ahead(batches)) as parsed:
            async for batch in parsed:
                so_far.added += await _append(batch, rows.name, append)
                so_far.rows += len(batch.mapped) + len(batch.rejects)
                so_far.rejected += len(batch.rejects)
                if on_reject is not None:
                    for reject in batch.rejects:
                        on_reject(reject)
                on_batch(batch, so_far)
    except ImportFailed as error:
        raise ImportFailed(error.file, error.line, f"{error.reason}. {_so_far(so_far)}") from error.__cause__
    return so_far


def _until_reject(items: Iterable[Mapped | Reject], file: str) -> Iterator[Mapped]:
    for item in items:
        if isinstance(item, Reject):
            raise ImportFailed(file, item.line, item.reason)
        yield item


async def _parsed_ahead(batches: Iterator[Batch]) -> AsyncGenerator[Batch, None]:
    """Yield *batches*, each parsed in a thread while the one before is being used; one at a time, in order."""
    loop = asyncio.get_running_loop()
    parsing = loop.run_in_executor(None, next, batches, None)
    try:
        # Shielded, because a thread cannot be cancelled: whoever leaves waits for it below.
        while (batch := await asyncio.shield(parsing)) is not None:
            parsing = loop.run_in_executor(None, next, batches, None)
            yield batch
    finally:
        await asyncio.wait([parsing])
        parsing.exception()


async def _append(batch: Batch, file: str, append: Append) -> int:
    if not batch.mapped:
        return 0
    try:
        return await append([one.stream for one in batch.mapped], [one.event for one in batch.mapped])
    except StreamDeleted as error:
        line = next((one.row.line for one in batch.mapped if one.stream == error.stream), 0)
        raise ImportFailed(file, line, f"stream {error.stream!r} is closed for good by a tombstone") from error
    except DuplicateEventId as error:
        lines = [one.row.line for one in batch.mapped if one.event.id in error.ids]
        raise DuplicateEventId(
            error.ids,
            f"{file}, line {lines[0] if lines else '?'}: this row is in the log already, as another event. "
            "Was it imported with another mapping? Use the same one, or another schema.",
        ) from None


def _so_far(imported: Imported) -> str:
    if not imported.rows:
        return "Nothing was imported."
    return (
        f"The {imported.rows:,} rows before its batch are imported ({imported.added:,} events added); "
        "once it is corrected, import again: it goes on where it stopped."
    )
