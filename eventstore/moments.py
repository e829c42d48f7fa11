"""Times as Postgres sends them: whole microseconds since the year 2000.

Two datetimes took asyncpg half of what reading an event costs, and hardly anybody looks at both. So connections of the
pool hand times over as numbers, and a `Moment` of an event becomes a datetime when it is looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from operator import itemgetter
from types import MemberDescriptorType
from typing import Any

__all__ = ["Moment", "hand_over_numbers", "to_datetime"]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def to_datetime(microseconds: int) -> datetime:
    """Return the time that lies *microseconds* after the start of 2000 in UTC."""
    return EPOCH + timedelta(0, 0, microseconds)


def _to_wire(time: datetime) -> tuple[int]:
    since = time - EPOCH
    return (since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds,)


async def hand_over_numbers(connection: Any) -> None:
    """Make an asyncpg *connection* return every ``timestamptz`` as microseconds for `to_datetime`."""
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_to_wire, decoder=itemgetter(0), format="tuple"
    )


class Moment:
    """A slot that may be filled with microseconds, and becomes a datetime the first time it is read."""

    def __init__(self, slot: MemberDescriptorType) -> None:
        self._slot = slot

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = self._slot.__get__(instance)
        if type(value) is int:
            value = to_datetime(value)
            self._slot.__set__(instance, value)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        self._slot.__set__(instance, value)
