"""The life of a stream: what is known of it, its limits, deleting it, and scavenging what limits hide."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import asyncpg

from eventstore.codec import decode, encode
from eventstore.database import Database
from eventstore.errors import ConfigurationError, InvalidEvent, PayloadTooLarge
from eventstore.events import ANY, MAX_EVENT_BYTES, Expected, check_stream_name
from eventstore.moments import to_datetime

__all__ = [
    "MAX_BATCH",
    "Scavenged",
    "StreamInfo",
    "StreamMetadata",
    "delete_stream",
    "info_of",
    "list_streams",
    "scavenge",
    "set_stream_metadata",
    "stream_info",
    "tombstone_stream",
]

MAX_BATCH = 100_000
"""Events of one batch of scavenging."""


@dataclass(frozen=True, slots=True)
class StreamMetadata:
    """A stream's limits, and what its users note about it.

    Attributes:
        max_age: seconds; readers of the stream do not see what was recorded longer ago.
        max_count: readers see so many of the newest events.
        truncate_before: the first version that is kept.
        custom: a JSON object that the store keeps and does not look into.

    Raises:
        ConfigurationError: a limit is no number above 0.
        InvalidEvent: *custom* is no dict, or holds what JSON cannot.
        PayloadTooLarge: *custom* exceeds 1 MiB of UTF-8.
    """

    max_age: float | None = None
    max_count: int | None = None
    truncate_before: int | None = None
    custom: dict[str, Any] = field(default_factory=dict)
    encoded_custom: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_age(self.max_age)
        for name, value in (("max_count", self.max_count), ("truncate_before", self.truncate_before)):
            if value is not None and (type(value) is not int or not 0 < value < 1 << 63):
                raise ConfigurationError(f"{name} must be a whole number from 1 to 2^63 - 1, not {value!r}")
        if not isinstance(self.custom, dict):
            raise InvalidEvent(f"custom must be a dict, not {type(self.custom).__name__}")
        encoded = encode(self.custom, field="custom") if self.custom else "{}"
        if (size := len(encoded.encode())) > MAX_EVENT_BYTES:
            raise PayloadTooLarge(f"custom takes {size:,} bytes; the limit is {MAX_EVENT_BYTES:,}")
        object.__setattr__(self, "encoded_custom", encoded)


def _check_age(age: object) -> None:
    if age is None or (type(age) in (int, float) and 0 < age < math.inf):  # type: ignore[operator]
        return
    raise ConfigurationError(
        f"max_age must be a number of seconds above 0, not {age!r}; a timedelta has total_seconds()"
    )


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream.

    Attributes:
        version: of its last event, hidden or not; 0 if there never was one.
        state: ``live``, ``deleted`` (the next append revives it) or ``tombstoned`` (closed for good).
        first_version: of the first event that readers of the stream see; None if they see none.
        created_at: when its name was first used, by the database's clock.
        metadata: its limits, and what its users note about it.
    """

    name: str
    version: int
    state: Literal["live", "deleted", "tombstoned"]
    first_version: int | None
    created_at: datetime
    metadata: StreamMetadata

    @property
    def events(self) -> int:
        """How many events readers of the stream see."""
        return 0 if self.first_version is None else self.version - self.first_version + 1


@dataclass(frozen=True, slots=True)
class Scavenged:
    """What a scavenging did, or, as a dry run, would do.

    Attributes:
        streams: how many have limits and were looked at.
        events: whose content was removed.
        bytes: that content took on disk. Postgres uses the space again; only ``VACUUM FULL`` gives it back.
    """

    streams: int = 0
    events: int = 0
    bytes: int = 0


async def stream_info(database: Database, stream: str) -> StreamInfo | None:
    """Return what is known of *stream*; see `EventStore.stream_info`."""
    check_stream_name(stream)
    rows = await database.rows("stream_info_v1", stream)
    return info_of(rows[0]) if rows else None


async def list_streams(
    database: Database, prefix: str, *, include_deleted: bool, page_size: int
) -> AsyncIterator[StreamInfo]:
    """Yield streams by name; see `EventStore.streams`."""
    if prefix:
        check_stream_name(prefix)
    after = ""
    while True:
        rows = await database.rows("list_streams_v1", prefix, after, page_size, include_deleted)
        for row in rows:
            yield info_of(row)
        if len(rows) < page_size:
            return
        after = rows[-1]["name"]


def info_of(row: asyncpg.Record) -> StreamInfo:
    """Return a row of ``stream_info_v1`` or ``list_streams_v1`` as what it tells."""
    limits = StreamMetadata(row["max_age"], row["max_count"], row["truncate_before"], decode(row["metadata"]))
    return StreamInfo(
        row["name"], row["version"], row["state"], row["first_version"], to_datetime(row["created_at"]), limits
    )


async def set_stream_metadata(database: Database, stream: str, metadata: StreamMetadata) -> None:
    """Replace the limits and custom metadata of *stream*; see `EventStore.set_stream_metadata`."""
    check_stream_name(stream)
    if not isinstance(metadata, StreamMetadata):
        raise ConfigurationError(f"metadata must be StreamMetadata, not {type(metadata).__name__}")
    age = None if metadata.max_age is None else float(metadata.max_age)
    limits = (age, metadata.max_count, metadata.truncate_before)
    await database.rows("set_stream_metadata_v1", stream, *limits, metadata.encoded_custom)


async def delete_stream(database: Database, stream: str, expected: int = ANY) -> bool:
    """Delete *stream* softly; see `EventStore.delete_stream`."""
    _check(stream, expected)
    return bool(await database.value("delete_stream_v1", stream, int(expected)))


async def tombstone_stream(database: Database, stream: str, expected: int = ANY) -> bool:
    """Close *stream* for good; see `EventStore.tombstone_stream`."""
    _check(stream, expected)
    return bool(await database.value("tombstone_stream_v1", stream, int(expected)))


def _check(stream: str, expected: int) -> None:
    check_stream_name(stream)
    if isinstance(expected, bool) or not isinstance(expected, int) or not min(Expected) <= expected < 1 << 63:
        raise InvalidEvent(f"expected must be ANY, NO_STREAM, STREAM_EXISTS or a version, not {expected!r}")


async def scavenge(
    database: Database,
    schema: str,
    *,
    batch: int = 1000,
    pause: float = 0.0,
    dry_run: bool = False,
    now: datetime | None = None,
    on_batch: Callable[[Scavenged], object] | None = None,
) -> Scavenged:
    """Remove what limits hide, batch by batch; see `EventStore.scavenge`, which checks *now*."""
    if type(batch) is not int or not 1 <= batch <= MAX_BATCH:
        raise ConfigurationError(f"batch must be a whole number from 1 to {MAX_BATCH:,}, not {batch!r}")
    if type(pause) not in (int, float) or not 0 <= pause < math.inf:
        raise ConfigurationError(f"pause must be a number of seconds, not {pause!r}")
    total, stream, reached = Scavenged(), "", None
    while rows := await _batch(database, schema, stream, reached, batch, now, dry_run):
        # A stream that was not done in one batch stands in the next one again, first.
        again = int(reached is not None and rows[0]["stream"] == stream)
        done = Scavenged(len(rows) - again, sum(r["events"] for r in rows), sum(r["bytes"] for r in rows))
        total = Scavenged(total.streams + done.streams, total.events + done.events, total.bytes + done.bytes)
        if not dry_run:
            await database.rows("mark_scavenged_v1", [r["stream"] for r in rows], [r["upto"] for r in rows])
        if on_batch is not None:
            on_batch(done)
        stream, reached = rows[-1]["stream"], None if rows[-1]["done"] else rows[-1]["upto"]
        await asyncio.sleep(pause)
    return total


async def _batch(
    database: Database, schema: str, stream: str, reached: int | None, batch: int, now: datetime | None, dry_run: bool
) -> list[asyncpg.Record]:
    """Scavenge one batch in one transaction; a role that may not is told who may."""
    try:
        return await database.rows("scavenge_v1", stream, reached, batch, now, dry_run)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise
        async with database.acquire() as connection:
            owner = await connection.fetchval(_OWNER, schema)
        raise ConfigurationError(
            f"this role may not scavenge schema {schema!r}; connect as {owner!r}, which owns it, as a member of that, "
            "or as an admin (`eventstore roles`)"
        ) from error


_OWNER = """
    select pg_get_userbyid(c.relowner)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = 'events'
"""
