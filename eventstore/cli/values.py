"""Option types: JSON, times, positions, names. A value that is refused is a usage error that names its option."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import click

__all__ = [
    "COUNT",
    "JSON",
    "NAME",
    "POSITION",
    "TIME",
    "After",
    "Json",
    "Name",
    "ParamType",
    "Seconds",
    "Time",
    "parse_json",
]

# Generic in newer releases of click only.
if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:
    ParamType = click.ParamType

MAX_BIGINT = (1 << 63) - 1

POSITION = click.IntRange(min=0, max=MAX_BIGINT)
"""A position or version: what the database can count to."""

COUNT = click.IntRange(min=0, max=MAX_BIGINT)
"""How many."""


class Seconds(click.FloatRange):
    """A number within its range; ``nan``, which is neither below nor above anything, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check *value*."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is no number", param, ctx)
        return number


def parse_json(text: str | bytes) -> Any:
    """Return the value of JSON *text* (`ValueError` says where it is malformed)."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class Json(ParamType):
    """A JSON value; integers of any length stay as they are."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse *value*."""
        try:
            return parse_json(value)
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)


class Time(ParamType):
    """A time in ISO format; without a time zone it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse *value*."""
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time in ISO format, such as 2025-01-31T12:00:00Z", param, ctx)
        return time if time.tzinfo else time.replace(tzinfo=UTC)


class Name(ParamType):
    """Text the database can hold: UTF-8 without NUL."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check *value*."""
        # Arguments that are not UTF-8 arrive as lone surrogates, which cannot be encoded.
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            self.fail(f"{value!r} must be UTF-8 without NUL", param, ctx)
        return str(value)


class After(ParamType):
    """``current``, a position, or, where *times* allows it, a time."""

    name = "after"

    def __init__(self, *, times: bool = False) -> None:
        self._times = times

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse *value*."""
        if value == "current":
            return value
        if not self._times or value.lstrip("-").isdecimal():
            return POSITION.convert(value, param, ctx)
        return Time().convert(value, param, ctx)


JSON, TIME, NAME = Json(), Time(), Name()
