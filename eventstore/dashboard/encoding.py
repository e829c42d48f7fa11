"""Data of the pages as JSON: what a program gets, and what event data looks like on a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

__all__ = ["iso", "plain", "to_json"]


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
    return json.dumps(plain(value), ensure_ascii=False, indent=indent, separators=separators, allow_nan=False)
