"""What both sides of a comparison write: events of 256 bytes of JSON, and the same rows by raw INSERT and COPY."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from zlib import crc32

import asyncpg

from benchmarks.measure import Call
from eventstore import EventStore, NewEvent, Tags
from eventstore.conditions import AppendCondition
from eventstore.events import uuid7

__all__ = ["DATA", "TEXT", "TYPE", "Floor", "appender", "conditional_appender", "new_event", "new_events", "tags_of"]

TYPE = "BenchmarkHappened"
DATA = {"customer": 4711, "total": 129.95, "currency": "EUR", "note": ""}
DATA["note"] = "x" * (256 - len(json.dumps(DATA, separators=(",", ":"))))
TEXT = json.dumps(DATA, separators=(",", ":"))
"""256 bytes of JSON, as they are stored."""


def new_event(tags: Sequence[str] = ()) -> NewEvent:
    """Build an event as an application does: id, time and encoding included."""
    return NewEvent(TYPE, DATA, tags=tags)


def new_events(count: int, *, tagged: bool = False, first: int = 0) -> list[NewEvent]:
    """Build *count* events; tagged ones have three tags, of few, of many and of ever new values."""
    return [new_event(tags_of(number) if tagged else ()) for number in range(first, first + count)]


def tags_of(number: int) -> tuple[str, str, str]:
    """Return three tags: one of ten, one of a thousand, and one of the event's own."""
    return (f"region:{number % 10}", f"customer:{number % 1000}", f"order:{number}")


def appender(store: EventStore, stream: str) -> Call:
    """Return a call that appends one new event to *stream* and expects the exact version; all inside the clock."""
    version = 0

    async def append() -> int:
        nonlocal version
        result = await store.append(stream, [new_event()], expected=version)
        version = result.version or 0
        return 1

    return append


def conditional_appender(store: EventStore, tag: str, *, after: int, conditional: bool) -> Call:
    """Return a call that appends one event with *tag*, without a stream, if none has it since the caller's last one."""

    async def append() -> int:
        nonlocal after
        condition = AppendCondition(Tags(tag), after=after) if conditional else None
        result = await store.append(None, [new_event([tag])], condition=condition)
        after = result.position
        return 1

    return append


def bucket(stream: str) -> int:
    """Return a number as the store's bucket is one; which, does not matter to a table."""
    return crc32(stream.encode()) % 1024


@dataclass(frozen=True)
class Floor:
    """A table with the columns and indexes of a store's `events`, and nothing else: what Postgres itself costs.

    No triggers, no checks, no other tables. Position and time of recording come from defaults.
    """

    dsn: str
    schema: str

    @classmethod
    async def make(cls, dsn: str, like: str) -> Self:
        """Create the table like *like*'s, in a schema of its own."""
        schema = f"{like}_floor"
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(f"""
                create schema {schema};
                create table {schema}.events (like {like}.events including indexes);
                create sequence {schema}.positions;
                alter table {schema}.events alter position set default nextval('{schema}.positions');
                alter table {schema}.events alter recorded_at set default clock_timestamp();
            """)
        finally:
            await connection.close()
        return cls(dsn, schema)

    COLUMNS = ("id", "stream", "version", "bucket", "type", "data", "metadata", "tags", "created_at")

    @classmethod
    def row(cls, event: NewEvent, stream: str, version: int) -> tuple[Any, ...]:
        """Return the row that the store makes of *event*."""
        return (
            event.id, stream, version, bucket(stream), event.type, event.encoded_data, event.encoded_metadata,
            event.tags, event.created_at,
        )  # fmt: skip

    async def inserter(self, stream: str) -> tuple[asyncpg.Connection, Call]:
        """Return a connection of its own and a call that inserts one row by a prepared statement, autocommitted."""
        connection = await asyncpg.connect(self.dsn)
        places = ", ".join(f"${number}" for number in range(1, len(self.COLUMNS) + 1))
        statement = await connection.prepare(
            f"insert into {self.schema}.events ({', '.join(self.COLUMNS)}) values ({places})"
        )
        version, number = 0, bucket(stream)

        async def insert() -> int:
            nonlocal version
            version += 1
            await statement.fetch(uuid7(), stream, version, number, TYPE, TEXT, "{}", (), datetime.now(UTC))
            return 1

        return connection, insert

    async def copy(self, connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Store *rows* by one COPY, in a transaction of its own."""
        await connection.copy_records_to_table("events", schema_name=self.schema, records=rows, columns=self.COLUMNS)
