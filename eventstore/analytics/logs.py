"""`RequestLog`: one answered request."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["RequestLog", "storable"]

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(value: Any, most: int) -> Any:
    """Return text that Postgres can hold: at most *most* characters, NUL and lone surrogates replaced by U+FFFD.

    Clients choose paths and headers: what is odd about them is no reason to lose the request.
    """
    if type(value) is not str:
        return value
    value = value[:most]
    return value if value.isascii() and "\0" not in value else _UNSTORABLE.sub("\ufffd", value)


def _cut(most: int) -> BeforeValidator:
    def cut(value: Any) -> Any:
        # Nearly all text is short and plain; this is called seven times a request.
        if type(value) is str and len(value) <= most and value.isascii() and "\0" not in value:
            return value
        return storable(value, most)

    return BeforeValidator(cut)


def _now() -> datetime:
    return datetime.now(UTC)


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is UTC else time.astimezone(UTC)


class RequestLog(BaseModel):
    """A request and how it was answered.

    Attributes:
        request_id: stored once, however often it is inserted; of version 7 by `RequestTracker`.
        method: at most 32 characters; longer text is cut, here and below.
        path: without the query, which may hold secrets; at most 2,048 characters.
        status_code: 100 to 599.
        duration_ms: milliseconds from the arrival of the request until its answer began, 0 or more.
        user_agent: at most 512 characters.
        remote_ip: the keyed hash of the client's address, 16 hex digits; never the address.
        referer: at most 2,048 characters, without the query.
        device_type: ``desktop``, ``mobile`` or ``tablet``.
        session_id: a random name for the visit, at most 64 characters.
        session_page_views: which request of its session this is, from 1.
        inserted_at: when it was answered, in UTC; part of what makes it the same request when it is inserted again.

    Raises:
        pydantic.ValidationError: a value is missing or out of range.
    """

    model_config = ConfigDict(frozen=True)

    request_id: UUID
    method: Annotated[str, _cut(32)]
    path: Annotated[str, _cut(2048)]
    status_code: Annotated[int, Field(ge=100, le=599)]
    duration_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    user_agent: Annotated[str | None, _cut(512)] = None
    remote_ip: Annotated[str | None, _cut(64)] = None
    referer: Annotated[str | None, _cut(2048)] = None
    device_type: Annotated[str | None, _cut(32)] = None
    session_id: Annotated[str | None, _cut(64)] = None
    session_page_views: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    inserted_at: Annotated[AwareDatetime, AfterValidator(_utc)] = Field(default_factory=_now)
