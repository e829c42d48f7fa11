"""Data of the pages as JSON: what a program gets, and what event data looks like on a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

__all__ = ["beginning", "iso", "plain", "to_json"]


def iso(time: datetime) -> str:
    """Return *time* in UTC, to the microsecond."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """Return *value* made of what JSON knows. Dataclasses become objects, times and ids text."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not for a page")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return *value* as text. The standard library's encoder: others round or refuse large integers."""
    separators = (",", ":") if indent is None else None
    try:
        # In C all but what JSON does not know: an event may be a megabyte, and whoever waits for it is not alone.
        return json.dumps(
            value, ensure_ascii=False, indent=indent, separators=separators, allow_nan=False, default=_known
        )
    except (TypeError, ValueError):  # a key that is no text, or no number
        return json.dumps(plain(value), ensure_ascii=False, indent=indent, separators=separators, allow_nan=False)


def _known(value: Any) -> Any:
    """Return *value*, which JSON does not know, made of what is inside of it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value) if one.repr}
    return plain(value)


def beginning(value: Any, most: int) -> str:
    """Return *value* as `to_json` does, or more than *most* characters of it, at a cost that does not grow with it."""
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            break
    return text


def _pieces(value: Any, most: int) -> Iterator[str]:
    if isinstance(value, str):
        yield to_json(value if len(value) <= most else value[: most + 1])
    elif isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}{to_json(str(key)[: most + 1])}:"
            yield from _pieces(item, most)
        yield "}" if value else "{}"
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield "," if number else "["
            yield from _pieces(item, most)
        yield "]" if value else "[]"
    else:
        yield to_json(value)
