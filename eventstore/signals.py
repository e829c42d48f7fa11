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

from eventstore.counting import Counts
from eventstore.database import check_dsn, connect, mapped_errors
from eventstore.errors import DatabaseUnavailable
from eventstore.listening import Listener, State, end
from eventstore.poolers import DEAF, Way
from eventstore.schema import signal_channel
from eventstore.service import Moments, Tasks
from eventstore.settings import Settings

__all__ = ["Signals"]

log = logging.getLogger(__name__)

SPACING, SPACING_BUSY = 0.005, 0.02
"""Seconds between two signals of a node. The first after a pause is sent at once. A stream of appends does not pay for
a NOTIFY each, for which every listening session has to be woken; the longer spacing is for `BUSY` appends and more
within one."""

BUSY = 10

CONTROL = "control"
"""The payload that says: not the log, but subscriptions or nodes changed."""

SENT_WITHIN = 5.0
"""Seconds that one NOTIFY may take before its connection is taken for dead."""


class Signals:
    """The node's listener, on the channel of one schema, and its one notifier, which connects at the first signal.

    Attributes:
        listener: the LISTEN connection, for others to share; None where `Settings.listen` is False, or a pooler is in
            the way.
        moments: ``listening``, ``lost``, ``heard`` (the listener itself), ``notified``.
    """

    def __init__(
        self,
        node: UUID,
        settings: Settings,
        rng: Callable[[], float] = random.random,
        counts: Counts | None = None,
        way: Callable[[], Way] = Way,
    ) -> None:
        self._settings, self._rng, self._counts, self._way = settings, rng, counts or Counts(), way
        self._dsn, self._channel, self._node = "", "", str(node)
        self._wakers: set[Callable[[], None]] = set()
        self._changes: set[Callable[[], None]] = set()
        self._appends = 0
        self._tasks = Tasks()
        self._pending = asyncio.Event()
        self._notifier: Any = None
        self._made = self.listener = self._new_listener() if settings.listen else None
        self.moments = self.listener.moments if self.listener else Moments()

    def _new_listener(self) -> Listener:
        listener = Listener(
            lambda: self._connect(self._settings.listen_dsn or self._dsn, "listener"),
            # Two DSNs may lead to two databases.
            notifier=(lambda: self._connect(self._dsn, "notifier")) if self._settings.listen_dsn else None,
            heartbeat_interval=self._settings.heartbeat_interval,
            connect_timeout=self._settings.connect_timeout,
            rng=self._rng,
        )
        listener.on_state(self._listener_is)
        return listener

    @property
    def listening(self) -> bool:
        """The LISTEN connection is up; otherwise the node lives on polling."""
        return self.listener is not None and self.listener.listening

    async def start(self, dsn: str, schema: str) -> None:
        """Begin to listen (in the background: a node works without) and to notify.

        Raises:
            ConfigurationError: the DSN to listen by is malformed, which waiting does not mend.
        """
        if self._made is not None and self._settings.listen_dsn:
            check_dsn(self._settings.listen_dsn, "listen_dsn")
        self._dsn, self._channel = dsn, signal_channel(schema)
        self._pending = asyncio.Event()  # of this event loop: a store may be opened in one after another
        self.listener = self._made
        if self._made is not None and self._way().moves and not self._settings.listen_dsn:
            log.warning("%s; until then the log is looked at every %g s", DEAF, self._settings.poll_interval)
            self.listener = None
        if self.listener is not None:
            await self.listener.listen(self._channel, self._hear)
            await self.listener.start()
        self._tasks.supervise("notifier", self._notify)

    async def stop(self) -> None:
        """Close both connections; a signal not yet sent is sent first, if that takes no longer than a second."""
        if self.listener is not None:
            await self.listener.stop()
            await self.listener.unlisten(self._channel, self._hear)
        await self._tasks.stop()
        if self._pending.is_set():
            try:
                async with asyncio.timeout(1):
                    await self._send()
            except (TimeoutError, DatabaseUnavailable):
                log.debug("the last signal was not sent")
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            await end(notifier)

    def on_wake(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Call *waker* at every signal from anywhere; returns a function that ends it."""
        self._wakers.add(waker)
        return lambda: self._wakers.discard(waker)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when subscriptions or nodes may have changed; returns a function that ends it."""
        self._changes.add(callback)
        return lambda: self._changes.discard(callback)

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
                async with asyncio.timeout(SENT_WITHIN):
                    await self._notifier.execute("select pg_notify($1, $2)", self._channel, self._node)
        except BaseException as error:
            self._pending.set()
            if isinstance(error, DatabaseUnavailable):  # which a time-out is as well, by mapped_errors
                self._notifier.terminate()
            raise
        self._counts.signals_sent += 1

    def _hear(self, payload: str) -> None:
        if payload == CONTROL:
            self._changed()
        elif payload != self._node:  # who was woken when it appended
            self._counts.signals_heard += 1
            self._wake()

    def _changed(self) -> None:
        for callback in tuple(self._changes):
            callback()

    def _listener_is(self, state: State) -> None:
        self._counts.listen_losses += state == "lost"
        self._counts.listen_reconnects += state == "reconnected"
        if state != "lost":  # whatever was signalled while nobody listened is found by reading
            self._wake()
            self._changed()

    async def _connect(self, dsn: str, role: str) -> Any:
        timeout = self._settings.connect_timeout
        return await connect(dsn, timeout=timeout, cache=self._way().cache, name=f"eventstore {role}")
