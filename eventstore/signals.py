"""Signals: hints that the horizon may have moved.

One connection listens, one notifies, per node. A signal carries no data and may be lost, repeated or forged: whoever is
woken reads the log, and looks at it every `poll_interval` seconds anyway.

NOTIFY takes a lock of the whole server at commit, so a node never notifies inside an append's transaction: it wakes
itself at once and tells the others afterwards, with one NOTIFY in flight at a time. While that one is under way
further appends set a flag, which coalesces them by itself under load and adds no timer when there is none.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

from eventstore.database import connect, mapped_errors
from eventstore.errors import DatabaseUnavailable
from eventstore.schema import signal_channel
from eventstore.service import Moments, Tasks, set_within
from eventstore.settings import Settings

__all__ = ["Signals"]

log = logging.getLogger(__name__)

SPACING, SPACING_BUSY = 0.005, 0.02
"""Seconds between two signals of a node. The first after a pause is sent at once. A stream of appends does not pay for
a NOTIFY each, for which every listening session has to be woken; the longer spacing is for `BUSY` appends and more
within one."""

BUSY = 10

HEARD_WITHIN = 5.0
"""Seconds in which a node must hear its own signal before it takes its listening connection for dead."""


class Signals:
    """The node's one LISTEN connection and its one notifier.

    Attributes:
        listening: the LISTEN connection is up; otherwise the node lives on polling.
        moments: ``listening``, ``lost``, ``heard`` (own signal), ``notified``.
    """

    def __init__(self, node: UUID, settings: Settings, rng: Callable[[], float] = random.random) -> None:
        self._settings, self._rng = settings, rng
        self._dsn, self._channel, self._node = "", "", str(node)
        self._wakers: set[Callable[[], None]] = set()
        self._appends = 0
        self._tasks = Tasks()
        self._pending = asyncio.Event()
        self._notifier: Any = None
        self.listening = False
        self.moments = Moments()

    async def start(self, dsn: str, schema: str) -> None:
        """Begin to listen (in the background: a node works without) and to notify."""
        self._dsn, self._channel = dsn, signal_channel(schema)
        self._pending = asyncio.Event()  # of this event loop: a store may be opened in one after another
        if self._settings.listen:
            self._tasks.supervise("listener", self._listen)
        self._tasks.supervise("notifier", self._notify)

    async def stop(self) -> None:
        """Close both connections; a signal not yet sent is sent first, if that takes no longer than a second."""
        await self._tasks.stop()
        if self._pending.is_set():
            try:
                async with asyncio.timeout(1):
                    await self._send()
            except (TimeoutError, DatabaseUnavailable):
                log.debug("the last signal was not sent")
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            await _closed(notifier)

    def on_wake(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Call *waker* at every signal from anywhere; returns a function that ends it."""
        self._wakers.add(waker)
        return lambda: self._wakers.discard(waker)

    def appended(self) -> None:
        """Wake this node at once and the others soon: an append of this node has committed."""
        self._appends += 1
        self._wake()
        self._pending.set()

    def jittered(self, period: float) -> float:
        """Return *period* with ±20 % of jitter, so that nodes do not move in step."""
        return period * (0.8 + 0.4 * self._rng())

    def _wake(self) -> None:
        for waker in tuple(self._wakers):
            waker()

    async def _notify(self, healthy: Callable[[], None]) -> None:
        while True:
            await self._pending.wait()
            await self._send()
            healthy()
            self.moments.reach("notified")
            busy, self._appends = self._appends >= BUSY, 0
            await asyncio.sleep(SPACING_BUSY if busy else SPACING)

    async def _send(self) -> None:
        if self._notifier is None or self._notifier.is_closed():
            self._notifier = await self._connect(self._dsn, "notifier")
        self._pending.clear()
        try:
            with mapped_errors():
                async with asyncio.timeout(HEARD_WITHIN):
                    await self._notifier.execute("select pg_notify($1, $2)", self._channel, self._node)
        except BaseException as error:
            self._pending.set()
            if isinstance(error, DatabaseUnavailable):  # which a time-out is as well, by mapped_errors
                self._notifier.terminate()
            raise

    async def _listen(self, healthy: Callable[[], None]) -> None:
        connection = await self._connect(self._settings.listen_dsn or self._dsn, "listener")
        ended, heard = asyncio.Event(), asyncio.Event()

        def hear(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
            if payload == self._node:
                heard.set()
                self.moments.reach("heard")
            else:
                self._wake()

        try:
            connection.add_termination_listener(lambda _: ended.set())
            with mapped_errors():
                async with asyncio.timeout(self._settings.connect_timeout):
                    await connection.add_listener(self._channel, hear)
            self.listening = True
            healthy()
            # Whatever was signalled while nobody listened is found by reading.
            self._wake()
            self.moments.reach("listening")
            await self._watch(ended, heard)
        finally:
            self.listening = False
            self.moments.reach("lost")
            await _closed(connection)

    async def _watch(self, ended: asyncio.Event, heard: asyncio.Event) -> None:
        """Return never; raise when the connection ended, or no longer brings this node's own signal."""
        while True:
            if await set_within(ended, self.jittered(self._settings.heartbeat_interval)):
                raise DatabaseUnavailable("the listening connection was lost")
            heard.clear()
            self._pending.set()
            if not await set_within(heard, HEARD_WITHIN + 1):
                if self._notifier is not None:
                    self._notifier.terminate()  # either end may be the deaf one
                raise DatabaseUnavailable(
                    "this node does not hear its own signal; it lives on polling. Behind a pooler in transaction "
                    "mode set listen_dsn to a direct DSN, or listen=False"
                )

    async def _connect(self, dsn: str, role: str) -> Any:
        timeout, cache = self._settings.connect_timeout, self._settings.statement_cache_size
        return await connect(dsn, timeout=timeout, cache=cache, name=f"eventstore {role}")


async def _closed(connection: Any) -> None:
    try:
        async with asyncio.timeout(1):
            await connection.close()
    except Exception:  # noqa: BLE001 - a connection that cannot say goodbye is cut
        connection.terminate()
