"""The alarm for a blocked event loop: nothing on the loop itself can raise it while it is blocked."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)


class Watchdog:
    """A thread that looks four times per lease whether the event loop moves, and names what blocks it if not.

    Args:
        ttl: seconds after which a blocked node loses its partitions.
        in_hand: names the deliveries under way.

    Attributes:
        alarms: how often it was raised.
    """

    def __init__(self, ttl: float, in_hand: Callable[[], list[str]]) -> None:
        self._every, self._ttl, self._in_hand = ttl / 4, ttl, in_hand
        self._ended, self._beat = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="eventstore watchdog", daemon=True)
        self.alarms = 0

    def __enter__(self) -> Self:
        self._loop, self._watched = asyncio.get_running_loop(), threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self._beat.clear()
            try:
                self._loop.call_soon_threadsafe(self._beat.set)
            except RuntimeError:  # the loop is closed
                return
            if not self._beat.wait(self._every) and not self._ended.is_set():
                self._alarm()
                self._beat.wait()

    def _alarm(self) -> None:
        self.alarms += 1
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._watched)
        where = "".join(traceback.format_stack(frame, limit=8)) if frame is not None else "(unknown)"
        log.error(
            "the event loop is blocked for more than %.1f s by %s; after %.1f s this node loses its partitions."
            " In hand: %s\n%s",
            self._every,
            task.get_name() if task is not None else "a callback",
            self._ttl,
            ", ".join(self._in_hand()[:5]) or "nothing",
            where,
        )
