"""A wall clock that is wrong, for one process: what it calls the time is moved, or runs backwards.

Leases are counted by the monotonic clock of the event loop and by the database's, neither of which is touched. What is
left: the time in ids, `created_at`, and what measures and lists show.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, tzinfo
from typing import Any

__all__ = ["CLOCKS", "mend_datetimes", "set_clock"]

CLOCKS = {
    "": (0.0, 1.0),
    "ahead": (3600.0, 1.0),
    "behind": (-3600.0, 1.0),
    "frozen": (0.0, 0.0),
    "backwards": (0.0, -1.0),
}
"""Seconds that a clock is off from its start on, and how fast it runs."""

_real, _real_ns = time.time, time.time_ns


def set_clock(name: str) -> None:
    """Make this process's wall clock one of `CLOCKS`; to be called before anything of the store is imported."""
    offset, speed = CLOCKS[name]
    if not name:
        return
    began = _real()
    time.time = lambda: began + offset + speed * (_real() - began)  # type: ignore[assignment]
    time.time_ns = lambda: int(time.time() * 1e9)  # type: ignore[assignment]


class _Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


class _Moved(datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.fromtimestamp(time.time(), tz)


def mend_datetimes() -> None:
    """Give what is imported of the store a `datetime` that goes by this process's clock."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("eventstore") and getattr(module, "datetime", None) is datetime:
            module.datetime = _Moved  # type: ignore[attr-defined]
