"""From a row to the event it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from eventstore.codec import MAX_INTEGER_DIGITS, encode
from eventstore.errors import ConfigurationError, ImportFailed, InvalidEvent
from eventstore.events import NewEvent, check_stream_name
from eventstore.importing.ids import DerivedIds
from eventstore.importing.rows import Reject, Row, RowFile

__all__ = ["ColumnMapping", "Exported", "Mapped", "Mapping", "inferred", "map_rows", "to_time"]

ALL = "*"

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?P<float>(?:\.\d+)?(?:[eE][+-]?\d+)?)", re.ASCII)
_WORDS: dict[str, bool | None] = {"null": None}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Mapped:
    """An event, the stream it goes to (None: it belongs to none), and the row it came from."""

    row: Row
    stream: str | None
    event: NewEvent


class Mapping(Protocol):
    """How the rows of one file become events."""

    def check(self, rows: RowFile) -> None:
        """Refuse a file this mapping cannot apply to (`ImportFailed`, `ConfigurationError`)."""

    def event(self, row: Row, ids: DerivedIds) -> tuple[str | None, NewEvent]:
        """Return the stream and the event of *row* (`InvalidEvent`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMapping:
    """Columns become the parts of an event.

    Attributes:
        stream: column of the stream's name.
        type: column of the event's type.
        time: column of `created_at`, in ISO 8601; a time without a zone is UTC. None: the time of the import.
        tags: columns that give ``COLUMN:value`` each; a list gives one tag an item, an empty cell none.
        data: columns of the data, ``*`` for all.
        metadata: columns of the metadata, ``*`` for all.
        stream_prefix: put before each stream's name.
        infer_types: read CSV cells as `inferred` does; otherwise they are strings.

    In CSV an empty cell gives no key. In NDJSON values are kept as they are, and a key that a row lacks is left out.
    Keys are stored sorted, and so are the tags by their columns: neither the order of a file's columns nor that of
    *tags*, *data* and *metadata* makes another event.
    """

    stream: str
    type: str
    time: str | None = None
    tags: tuple[str, ...] = ()
    data: tuple[str, ...] = (ALL,)
    metadata: tuple[str, ...] = ()
    stream_prefix: str = ""
    infer_types: bool = False

    @property
    def columns(self) -> set[str]:
        """The columns named anywhere."""
        named = {self.stream, self.type, *self.tags, *self.data, *self.metadata} - {ALL}
        return named | ({self.time} if self.time is not None else set())

    def check(self, rows: RowFile) -> None:
        """Refuse a CSV file that lacks a column (`ImportFailed`), and NDJSON with inference (`ConfigurationError`)."""
        if rows.header is None:
            if self.infer_types:
                raise ConfigurationError("--infer-types is for CSV; the values of NDJSON have their types already")
            rows.unseen = self.columns
            return
        if missing := sorted(self.columns - set(rows.header)):
            listed = ", ".join(map(repr, rows.header))
            raise ImportFailed(rows.name, 1, f"there is no column {missing[0]!r}; the columns are {listed}")

    def event(self, row: Row, ids: DerivedIds) -> tuple[str, NewEvent]:
        """Return the stream and the event of *row* (`InvalidEvent`)."""
        if row.typed:  # cells are checked text already
            encode(row.columns, field="row")
        identity = ids.next(row.columns)
        cells = row.columns if row.typed else self._filled(row.columns)
        stream = self.stream_prefix + _name(row.columns, self.stream, "stream")
        check_stream_name(stream)
        return stream, NewEvent(
            type=_name(row.columns, self.type, "type"),
            data=_picked(cells, self.data),
            metadata=_picked(cells, self.metadata),
            tags=tuple(_tags(row.columns, self.tags)),
            id=identity,
            created_at=datetime.now(UTC) if self.time is None else to_time(row.columns.get(self.time)),
        )

    def _filled(self, cells: dict[str, str]) -> dict[str, Any]:
        if self.infer_types:
            return {column: inferred(cell) for column, cell in cells.items() if cell}
        return {column: cell for column, cell in cells.items() if cell}


class Exported:
    """NDJSON as ``eventstore export`` writes it: every field is taken as it is, the id included."""

    def check(self, rows: RowFile) -> None:
        """Refuse CSV (`ConfigurationError`)."""
        if rows.header is not None:
            raise ConfigurationError("--exported is for NDJSON written by `eventstore export`, not for CSV")

    def event(self, row: Row, ids: DerivedIds) -> tuple[str | None, NewEvent]:
        """Return the stream and the event of *row* (`InvalidEvent`)."""
        fields = row.columns
        if missing := [name for name in ("id", "stream", "type", "data", "created_at") if name not in fields]:
            raise InvalidEvent(f"not a line of an export: there is no {missing[0]!r}")
        if fields["stream"] is not None:
            check_stream_name(fields["stream"])
        return fields["stream"], NewEvent(
            type=fields["type"],
            data=fields["data"],
            metadata=fields.get("metadata", {}),
            tags=fields.get("tags", []),
            id=_uuid(fields["id"]),
            created_at=to_time(fields["created_at"]),
        )


def map_rows(rows: RowFile, mapping: Mapping) -> Iterator[Mapped | Reject]:
    """Yield what each row becomes, in the file's order.

    Raises:
        ImportFailed: the mapping names a column the file lacks, or the file is damaged.
        ConfigurationError: the mapping is for another format.
    """
    mapping.check(rows)
    ids = DerivedIds()
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            yield Mapped(row, *mapping.event(row, ids))
        except InvalidEvent as error:
            yield Reject(row.line, str(error), row.raw)


def inferred(cell: str) -> Any:
    """Return the value a cell spells: a JSON number, ``null``, ``true`` or ``false`` (in any capitals).

    Everything else stays a string: ``007`` and ``+1``, which are no JSON numbers, and what no float can hold.
    """
    number = _NUMBER.fullmatch(cell)
    if number is None:
        return _BOOLEANS.get(cell.lower(), _WORDS.get(cell, cell))
    if not number["float"]:
        return int(cell) if len(cell) <= MAX_INTEGER_DIGITS else cell
    value = float(cell)
    return cell if value in (float("inf"), float("-inf")) else value


def to_time(value: Any) -> datetime:
    """Return an ISO 8601 time; without a zone it is UTC.

    Raises:
        InvalidEvent: it is empty, or none.
    """
    if not isinstance(value, str) or not value:
        raise InvalidEvent("the time is empty" if value in (None, "") else f"the time {value!r} is not ISO 8601 text")
    try:
        time = datetime.fromisoformat(value.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidEvent(f"the time {value!r} is not ISO 8601, like 2025-01-31T12:00:00+01:00") from None


def _uuid(value: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidEvent(f"id {value!r} is no UUID") from None


def _name(columns: dict[str, Any], column: str, what: str) -> str:
    value = columns.get(column)
    if value is None or value == "":
        raise InvalidEvent(f"the {what} is empty (column {column!r})")
    return _text(value, column)


def _text(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return encode(value)
    raise InvalidEvent(f"column {column!r} holds a {type(value).__name__}; a string or a number is needed")


def _tags(columns: dict[str, Any], named: Iterable[str]) -> Iterator[str]:
    for column in sorted(set(named)):
        value = columns.get(column)
        for item in value if isinstance(value, list) else (value,):
            if item is not None and item != "":
                yield f"{column}:{_text(item, column)}"


def _picked(cells: dict[str, Any], named: tuple[str, ...]) -> dict[str, Any]:
    """Return the named columns in one order: the id knows none, so that of the file or the options must not count."""
    chosen = cells.keys() if ALL in named else set(named) & cells.keys()
    return {column: _ordered(cells[column]) for column in sorted(chosen)}


def _ordered(value: Any) -> Any:
    """Return *value* with the keys of all objects in it sorted."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    return value
