"""What arrives from other nodes: verified, and handed over in its order, also where a body has to be fetched first."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from eventstore.errors import DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope, Receiver
from eventstore.pubsub.frames import Frames, Rejected, Spilled
from eventstore.service import Backoff

__all__ = ["Arrivals"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_BEHIND = 10_000
"""Frames that wait behind a body being fetched. Beyond that the oldest is dropped, and counted as lost."""

MOST_BYTES_BEHIND = 32 * 1024 * 1024
"""Bytes of these frames, by the same rule."""

MOST_SPILLS = 10_000
"""Stored bodies that are remembered, so that none is fetched again because somebody repeats its frame."""

MOST_ECHOES = 1_000

FETCHES = 4
"""How often a body is asked for before it counts as lost."""


class Arrivals:
    """Takes texts, hands over envelopes.

    Args:
        frames: unpacks them.
        deliver: what they are handed to.
        fetch: returns a stored body, None if it is gone.
        counters: ``received``, ``frames_received``, ``rejected`` and ``lost`` are counted here.
    """

    def __init__(
        self,
        frames: Frames,
        deliver: Receiver,
        fetch: Callable[[UUID], Awaitable[bytes | None]],
        counters: dict[str, int],
    ) -> None:
        self._frames, self._deliver, self._fetch = frames, deliver, fetch
        self._counters = counters
        self._backlog: deque[bytes | Spilled] = deque()
        self._bytes_behind = 0
        self._behind = asyncio.Event()
        self._echoes: dict[str, None] = {}
        self._spills: dict[UUID, None] = {}

    def use(self, frames: Frames) -> None:
        """Unpack with *frames* from now on: the key is another one."""
        self._frames = frames

    def ignore(self, text: str) -> None:
        """Pass over *text* when it arrives: this node sent it, and nothing in it is for this node."""
        _remember(self._echoes, text, MOST_ECHOES)

    def missed(self) -> None:
        """Expect nothing any more of what was to be ignored: it may have passed unheard."""
        self._echoes.clear()

    def __call__(self, text: str) -> None:
        """Take a frame."""
        self._counters["frames_received"] += 1
        if text in self._echoes:
            del self._echoes[text]
            return
        try:
            found = self._frames.unpack(text)
            if isinstance(found, Spilled):
                self._once(found)
        except Rejected as error:
            self._reject(error)
            return
        if isinstance(found, Spilled):
            self._queue(found)
        elif self._behind.is_set():
            # Not unpacked, which may be any number of times larger; and bytes, of which a text can take four for one.
            self._queue(text.encode())
        else:
            self._hand_over(found)

    async def run(self, healthy: Callable[[], None]) -> None:
        """Fetch bodies, and hand over what came after them, for ever."""
        while True:
            await self._behind.wait()
            while self._backlog:
                self._hand_over(await self._envelopes(self._next()))
            self._behind.clear()
            healthy()

    def _once(self, spilled: Spilled) -> None:
        """Reject what is repeated: anybody may, and a small frame must not make nodes fetch a large body at will."""
        if spilled.id in self._spills:
            raise Rejected(f"the frame of the stored body {spilled.id} was repeated")
        _remember(self._spills, spilled.id, MOST_SPILLS)

    def _queue(self, item: bytes | Spilled) -> None:
        size = _size(item)
        while self._backlog and not (
            len(self._backlog) < MOST_BEHIND and self._bytes_behind + size <= MOST_BYTES_BEHIND
        ):
            self._next()
            self._counters["lost"] += 1
        self._backlog.append(item)
        self._bytes_behind += size
        self._behind.set()

    def _next(self) -> bytes | Spilled:
        item = self._backlog.popleft()
        self._bytes_behind -= _size(item)
        return item

    def _hand_over(self, envelopes: list[Envelope]) -> None:
        self._counters["received"] += len(envelopes)
        for envelope in envelopes:
            self._deliver(envelope)

    async def _envelopes(self, item: bytes | Spilled) -> list[Envelope]:
        """Return what *item* holds; nothing if it is lost or was changed, which is counted."""
        try:
            if isinstance(item, Spilled):
                return await self._unspilled(item)
            await asyncio.sleep(0)  # a long backlog is no reason to stop everything else
            found = self._frames.unpack(item.decode())
            return [] if isinstance(found, Spilled) else found
        except Rejected as error:
            self._reject(error)
        except Exception:
            log.exception("a message that was stored could not be fetched")
            self._counters["lost"] += 1
        return []

    async def _unspilled(self, spilled: Spilled) -> list[Envelope]:
        body = await self._fetched(spilled.id)
        if body is None:
            log.warning("a message that was stored is gone: its row expired, or the server crashed")
            self._counters["lost"] += 1
            return []
        return await asyncio.to_thread(self._frames.unspill, spilled, body)

    async def _fetched(self, id: UUID) -> bytes | None:
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                return await self._fetch(id)
            except DatabaseUnavailable:
                if backoff.attempts >= FETCHES - 1:
                    raise
            await asyncio.sleep(backoff.next())

    def _reject(self, error: Rejected) -> None:
        self._counters["rejected"] += 1
        self._deliver.rejected(str(error))


def _size(item: bytes | Spilled) -> int:
    return 0 if isinstance(item, Spilled) else len(item)


def _remember(known: dict[T, None], one: T, most: int) -> None:
    """Add *one* to what is *known*; of more than *most* the oldest is forgotten."""
    known[one] = None
    if len(known) > most:
        del known[next(iter(known))]
