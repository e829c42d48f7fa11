"""Events before and after they are stored, expected versions, and what an append returns."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final, TypeAlias, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel

from eventstore.codec import check_text, encode
from eventstore.errors import InvalidEvent, PayloadTooLarge, UnreadableEvent
from eventstore.event_types import event_types
from eventstore.moments import Moment

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "Event",
    "Expected",
    "NewEvent",
    "check_stream_name",
    "uuid7",
]

MAX_EVENT_BYTES = 1 << 20
MAX_TAGS = 64
MAX_TAG_LENGTH = 256
MAX_NAME_LENGTH = 512

SCHEMA_VERSION: Final = "schema_version"
"""The key in metadata; absent means 1."""

Model = TypeVar("Model", bound=BaseModel)
ModelClass: TypeAlias = type[Model]  # within Event, type is a field


class Expected(IntEnum):
    """What an append may expect of its stream instead of an exact version."""

    NO_STREAM = 0
    ANY = -1
    STREAM_EXISTS = -2


NO_STREAM: Final = Expected.NO_STREAM
ANY: Final = Expected.ANY
STREAM_EXISTS: Final = Expected.STREAM_EXISTS

_last_uuid7 = 0
_uuid7_lock = threading.Lock()


def uuid7() -> UUID:
    """Return a UUID version 7 (RFC 9562, method 3) that sorts after every earlier one of this process.

    48 bits of Unix milliseconds, 12 bits of their fraction, 62 random bits.
    """
    global _last_uuid7
    ns = time.time_ns()
    # The top 60 bits are the time in units of 1/4096 ms; a clock that stands still or falls back is counted on.
    now = (ns // 1_000_000) << 12 | (ns % 1_000_000) * 4096 // 1_000_000
    with _uuid7_lock:
        now = _last_uuid7 = max(now, _last_uuid7 + 1)
    noise = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=(now >> 12) << 80 | 0x7 << 76 | (now & 0xFFF) << 64 | 0b10 << 62 | noise)


def _check_name(value: object, what: str, limit: int) -> None:
    if type(value) is not str:
        raise InvalidEvent(f"{what} must be a string, not {type(value).__name__}")
    if not value:
        raise InvalidEvent(f"{what} must not be empty")
    if len(value) > limit:
        raise InvalidEvent(f"{what} must not be longer than {limit} characters, this has {len(value)}")
    check_text(value, what)


def check_stream_name(name: object) -> None:
    """Refuse a stream name that is empty, longer than 512 characters, or not storable (`InvalidEvent`)."""
    _check_name(name, "stream name", MAX_NAME_LENGTH)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact to append.

    It is encoded when it is built: what is refused is refused here, and changing the dict that was handed in changes
    the event no more.

    Attributes:
        type: what happened, for example ``OrderPlaced``; up to 512 characters.
        data: any JSON value (dict with string keys, list, str, int, float, bool, None) or a pydantic model; the type
            must be the one its class is registered under, if it is.
        metadata: a JSON object about the event; the schema version of a registered model is added from 2 on.
        tags: up to 64 distinct strings of up to 256 characters, in the order given.
        id: makes repeating the append harmless; UUID version 7 by default.
        created_at: the caller's time of the fact, with a time zone; now by default.

    Raises:
        InvalidEvent: a field breaks a rule; the message names it.
        PayloadTooLarge: data and metadata together exceed 1 MiB of UTF-8.
    """

    type: str
    data: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Iterable[str] = ()
    id: UUID = field(default_factory=uuid7)
    created_at: datetime = None  # type: ignore[assignment]  # None stands for now, and is never seen again
    encoded_data: str = field(init=False, repr=False, compare=False)
    encoded_metadata: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.type, "event type", MAX_NAME_LENGTH)
        if type(self.id) is not UUID:
            raise InvalidEvent(f"id must be a UUID, not {type(self.id).__name__}")
        if not isinstance(self.metadata, dict):
            raise InvalidEvent(f"metadata must be a dict, not {type(self.metadata).__name__}")
        put = object.__setattr__
        registration = event_types.registration(type(self.data))
        if registration is not None:
            put(self, "metadata", _versioned(self.metadata, self.type, *registration))
        put(self, "tags", _checked_tags(self.tags))
        put(self, "created_at", _checked_time(self.created_at))
        put(self, "encoded_data", encode(self.data, round_trip=registration is not None))
        put(self, "encoded_metadata", encode(self.metadata, field="metadata") if self.metadata else "{}")
        self._check_size()

    @classmethod
    def of(
        cls,
        model: BaseModel,
        *,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        id: UUID | None = None,
        created_at: datetime | None = None,
    ) -> NewEvent:
        """Return the event of a registered model: type and schema version are those its class is registered under.

        Raises:
            InvalidEvent: the class is not registered, *metadata* has another schema version, or a field breaks a rule.
            PayloadTooLarge: data and metadata together exceed 1 MiB of UTF-8.
        """
        registration = event_types.registration(type(model))
        if registration is None:
            raise InvalidEvent(
                f"{type(model).__name__} is not registered as an event type; decorate it with @event_type(), "
                "or name the type: NewEvent(type, model)"
            )
        return cls(
            registration[0],
            model,
            {} if metadata is None else metadata,
            tags,
            uuid7() if id is None else id,
            created_at,  # type: ignore[arg-type]
        )

    def with_metadata(self, metadata: Mapping[str, Any]) -> NewEvent:
        """Return the same event with other metadata (`InvalidEvent`, `PayloadTooLarge`)."""
        made = copy(self)
        object.__setattr__(made, "metadata", metadata)
        object.__setattr__(made, "encoded_metadata", encode(metadata, field="metadata"))
        made._check_size()
        return made

    def _check_size(self) -> None:
        # Characters bound the bytes from both sides, so that small events are never encoded again to be counted.
        length = len(self.encoded_data) + len(self.encoded_metadata)
        if length * 4 <= MAX_EVENT_BYTES:
            return
        size = len(self.encoded_data.encode()) + len(self.encoded_metadata.encode())
        if size > MAX_EVENT_BYTES:
            raise PayloadTooLarge(f"data and metadata take {size:,} bytes; the limit is {MAX_EVENT_BYTES:,}")


def _versioned(metadata: Mapping[str, Any], given: str, name: str, version: int) -> Mapping[str, Any]:
    """Return *metadata* with the schema version a registered model is written with."""
    if given != name:
        raise InvalidEvent(f"event type {given!r}: the model is registered as {name!r}; give that, or use NewEvent.of")
    if SCHEMA_VERSION not in metadata:
        return metadata if version == 1 else {**metadata, SCHEMA_VERSION: version}
    stated = metadata[SCHEMA_VERSION]
    if type(stated) is not int or stated != version:
        raise InvalidEvent(
            f"metadata.{SCHEMA_VERSION} is {stated!r}, but the model is registered as version {version} of {name!r}"
        )
    return metadata


def _checked_time(time: datetime | None) -> datetime:
    if time is None:
        return datetime.now(UTC)
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidEvent("created_at must be a datetime with a time zone")
    if time.replace(tzinfo=None) in (datetime.min, datetime.max):
        raise InvalidEvent("created_at must not be datetime.min or datetime.max, which stand for infinity in Postgres")
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(f"created_at is out of range in UTC: {time!r}") from None
    return time


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, (list, tuple, set, frozenset)):
        raise InvalidEvent(f"tags must be a list of strings, not {type(tags).__name__}")
    if not tags:
        return ()
    for tag in tags:
        _check_name(tag, "tag", MAX_TAG_LENGTH)
    distinct = tuple(dict.fromkeys(sorted(tags) if isinstance(tags, (set, frozenset)) else tags))
    if len(distinct) > MAX_TAGS:
        raise InvalidEvent(f"an event has at most {MAX_TAGS} tags, this has {len(distinct)}")
    return distinct


@dataclass(frozen=True, slots=True)
class Event:
    """A stored event.

    Attributes:
        stream: None for an event appended without a stream.
        version: counts from 1 within the stream, without gaps; None without a stream.
        position: place in the global order.
        bucket: hash of the stream name, 0…1023; decides the partition.
        data: as it was stored, whatever its schema version; `as_model` never changes it.
        created_at: the caller's time.
        recorded_at: the database's time.
    """

    id: UUID
    type: str
    data: Any
    metadata: dict[str, Any]
    tags: tuple[str, ...]
    stream: str | None
    version: int | None
    position: int
    bucket: int
    created_at: datetime
    recorded_at: datetime

    @property
    def schema_version(self) -> int:
        """The schema version the data was written in: ``metadata["schema_version"]``, or 1.

        Raises:
            UnreadableEvent: what stands there is no integer from 1.
        """
        version = self.metadata.get(SCHEMA_VERSION, 1)
        if type(version) is not int or version < 1:
            reason = f"metadata.{SCHEMA_VERSION} must be an integer from 1"
            raise UnreadableEvent(self.type, version, self.position, reason)
        return version

    @overload
    def as_model(self, model: None = None) -> BaseModel: ...

    @overload
    def as_model(self, model: ModelClass[Model]) -> Model: ...

    def as_model(self, model: ModelClass[BaseModel] | None = None) -> BaseModel:
        """Return the data as the newest model registered for this type, after chaining upcasters up to its version.

        *model* names another class: one that is registered for this type is read at its own version, any other has to
        take the data as it is stored.

        Raises:
            UnreadableEvent: no model is registered for the type, the event is newer than the model, an upcaster is
                missing or fails, or the model refuses the data.
        """
        return event_types.read(self.type, self.schema_version, self.data, position=self.position, model=model)


for _name in ("created_at", "recorded_at"):
    setattr(Event, _name, Moment(Event.__dict__[_name]))


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Where an append's events stand.

    Attributes:
        version: of the last event; None without a stream.
        position: of the last event.
        idempotent: the events were stored already when this attempt ran.
    """

    stream: str | None
    version: int | None
    position: int
    first_version: int | None
    first_position: int
    idempotent: bool
