"""What arrives from other nodes: verified, and handed over in its order, also where a body has to be fetched first."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from uuid import UUID

from eventstore.errors import DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope, Receiver
from eventstore.pubsub.frames import Frames, Rejected, Spilled
from eventstore.service import Backoff

__all__ = ["Arrivals"]

log = logging.getLogger(__name__)

MOST_BEHIND = 10_000
"""Frames that wait behind a body being fetched. Beyond that the oldest is dropped, and counted as lost."""

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
        self._backlog: deque[str | Spilled] = deque()
        self._behind = asyncio.Event()
        self._echoes: dict[str, None] = {}

    def ignore(self, text: str) -> None:
        """Pass over *text* when it arrives: this node sent it, and nothing in it is for this node."""
        self._echoes[text] = None
        if len(self._echoes) > MOST_ECHOES:
            del self._echoes[next(iter(self._echoes))]

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
        except Rejected as error:
            self._reject(error)
            return
        if isinstance(found, Spilled):
            self._queue(found)
        elif self._behind.is_set():
            # As text, which is bounded: what it unpacks to is not.
            self._queue(text)
        else:
            self._hand_over(found)

    async def run(self, healthy: Callable[[], None]) -> None:
        """Fetch bodies, and hand over what came after them, for ever."""
        while True:
            await self._behind.wait()
            while self._backlog:
                self._hand_over(await self._envelopes(self._backlog.popleft()))
            self._behind.clear()
            healthy()

    def _queue(self, item: str | Spilled) -> None:
        if len(self._backlog) >= MOST_BEHIND:
            self._backlog.popleft()
            self._counters["lost"] += 1
        self._backlog.append(item)
        self._behind.set()

    def _hand_over(self, envelopes: list[Envelope]) -> None:
        self._counters["received"] += len(envelopes)
        for envelope in envelopes:
            self._deliver(envelope)

    async def _envelopes(self, item: str | Spilled) -> list[Envelope]:
        """Return what *item* holds; nothing if it is lost or was changed, which is counted."""
        try:
            if isinstance(item, Spilled):
                return await self._unspilled(item)
            await asyncio.sleep(0)  # a long backlog is no reason to stop everything else
            found = self._frames.unpack(item)
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
