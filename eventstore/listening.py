"""One connection that listens on any number of channels, and comes back when it is lost.

What is notified while it is away is missed: whoever listens is told by `Listener.on_state`.

A connection that is dead without having ended, and a pooler that hands it on after each statement, look alike: nothing
is heard. So the listener notifies itself on that very connection from time to time. Such a pooler may let just this
one through, the connection being in its hands at that moment; so a signal of another session has to be heard as well
wherever there is a pooler, and nothing is listened to, which a backend would keep, where it is in that mode.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import uuid4

from eventstore.database import mapped_errors
from eventstore.errors import DatabaseUnavailable
from eventstore.poolers import DEAF, is_pooled, moves
from eventstore.service import Moments, Tasks, set_within, to_its_end

__all__ = ["HEARD_WITHIN", "Connect", "Listener", "State", "end"]

log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[Any]]
"""Opens an asyncpg connection."""

State = Literal["listening", "lost", "reconnected"]

HEARD_WITHIN = 4.0
"""Seconds in which a listener must hear itself before it takes its connection for dead."""

UNHEARD = (
    "this node does not hear its own signal; nothing reaches it until it does. Behind a pooler in transaction mode "
    "set listen_dsn to a direct DSN, or listen=False"
)


async def end(connection: Any) -> None:
    """Close *connection*; one that cannot say goodbye within a second is cut."""
    try:
        async with asyncio.timeout(1):
            await connection.close()
    except Exception:
        log.debug("a connection was cut", exc_info=True)
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise


class Listener:
    """One LISTEN connection for a whole process.

    Args:
        connect: opens the connection, at the start and after every loss.
        close: ends a connection that *connect* opened.
        notifier: how those connect that notify, where it is another way than *connect*; that they are heard is then
            checked whenever the connection is opened.
        heartbeat_interval: seconds between two checks that it hears itself, up to a fifth less by chance.
        connect_timeout: seconds that a LISTEN may take.
        rng: source of the jitter.

    Attributes:
        listening: the connection is up, and listens on every channel asked for.
        moments: ``listening``, ``lost``, ``heard`` (itself).
    """

    def __init__(
        self,
        connect: Connect,
        *,
        close: Callable[[Any], Awaitable[None]] = end,
        notifier: Connect | None = None,
        heartbeat_interval: float = 10.0,
        connect_timeout: float = 10.0,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._connect, self._close, self._notifier = connect, close, notifier
        self._heartbeat_interval, self._connect_timeout, self._rng = heartbeat_interval, connect_timeout, rng
        self._callbacks: dict[str, list[Callable[[str], None]]] = {}
        self._states: dict[Callable[[State], None], None] = {}
        self._tasks = Tasks()
        self._live: _Live | None = None
        self._own = f"es_{uuid4().hex}"
        self._token, self._heard = "", asyncio.Event()
        self._up, self._known, self._started = asyncio.Event(), False, False
        self._reason = "its listener was not started"
        self.listening = False
        self.moments = Moments()

    async def start(self) -> None:
        """Begin to listen, in the background; `ready` waits for it."""
        # Of this event loop: a listener may be started in one after another.
        self._up, self._known, self._started = asyncio.Event(), False, True
        self._reason = "it is still being connected to"
        self._tasks.supervise("listener", self._listen)

    async def stop(self) -> None:
        """Close the connection. What was asked for stays, and is listened on again after the next `start`."""
        await self._tasks.stop()
        self._started, self._reason = False, "its listener was stopped"

    async def ready(self, within: float) -> None:
        """Wait until it listens, at most *within* seconds.

        Raises:
            DatabaseUnavailable: it does not; the message says why.
        """
        if self._started:
            await set_within(self._up, within)
        if not self.listening:
            raise DatabaseUnavailable(f"nothing can be heard from the database: {self._reason}")

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], object]:
        """Call *callback* when it listens for the first time, when that is lost, and when it listens again.

        Returns a function that ends that.
        """
        self._states[callback] = None
        return lambda: self._states.pop(callback, None)

    # -- channels

    async def listen(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call *callback* with the payload of each notification on *channel*, in their order.

        Returns once the LISTEN was issued; at once without a connection, whose LISTENs come first when it is back.
        """
        self._callbacks.setdefault(channel, []).append(callback)
        try:
            if self._live is not None:
                await to_its_end(self._live.listen(channel))
        except DatabaseUnavailable:
            log.debug("the connection was lost during a LISTEN; it is issued on the next one")
        except BaseException:
            self._forget(channel, callback)
            raise

    async def unlisten(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call *callback* no more; the last one of a channel takes its LISTEN along."""
        self._forget(channel, callback)
        if self._live is not None and channel not in self._callbacks:
            try:
                await to_its_end(self._live.unlisten(channel))
            except DatabaseUnavailable:
                log.debug("the connection was lost during an UNLISTEN")

    def _forget(self, channel: str, callback: Callable[[str], None]) -> None:
        callbacks = self._callbacks.get(channel, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            self._callbacks.pop(channel, None)

    # -- the connection

    async def _listen(self, healthy: Callable[[], None]) -> None:
        try:
            await self._listen_once(healthy)
        except Exception as error:
            self._reason = str(error)
            if self._reason == DEAF:
                self._up.set()  # for who waits to be `ready`: it will not become so by itself
            raise

    async def _listen_once(self, healthy: Callable[[], None]) -> None:
        connection = await self._connect()
        try:
            live = _Live(connection, self._hear, self._connect_timeout)
            await self._prove(live, connection)
            while missing := self._callbacks.keys() - live.channels:
                for channel in missing:
                    await live.listen(channel)
            healthy()
            self._begin(live)
            await self._watch(live)
        finally:
            self._lose()
            await self._close(connection)

    def _begin(self, live: _Live) -> None:
        self._live, self.listening = live, True
        self._up.set()
        self._announce("reconnected" if self._known else "listening")
        self._known = True
        self.moments.reach("listening")

    def _lose(self) -> None:
        self._live = None
        self._up.clear()
        if self.listening:
            self.listening = False
            self._announce("lost")
            self.moments.reach("lost")

    async def _prove(self, live: _Live, connection: Any) -> None:
        """Hear itself, and another session where that proves nothing."""
        with mapped_errors():
            pooled = await is_pooled(connection)
            if pooled and await moves(self._connect, self._close):
                raise DatabaseUnavailable(DEAF)
        await live.listen(self._own)
        await self._beat(live.execute)
        if self._notifier is None and not pooled:
            return
        other = await (self._notifier or self._connect)()
        try:
            await self._beat(other.execute)
        finally:
            await self._close(other)

    async def _watch(self, live: _Live) -> None:
        """Return never; raise when the connection ended, or no longer brings this node's own signal."""
        while not await set_within(live.ended, self._heartbeat_interval * (0.8 + 0.2 * self._rng())):
            await self._beat(live.execute)
            self.moments.reach("heard")
        raise DatabaseUnavailable("the listening connection was lost")

    async def _beat(self, execute: Callable[[str], Awaitable[object]]) -> None:
        self._token, self._heard = uuid4().hex, asyncio.Event()
        # No arguments, so that nothing is prepared; and a notification is worth no fsync.
        statement = f"select set_config('synchronous_commit', 'off', true), pg_notify('{self._own}', '{self._token}')"
        try:
            with mapped_errors():
                async with asyncio.timeout(HEARD_WITHIN) as limit:
                    await execute(statement)
                    await self._heard.wait()
        except DatabaseUnavailable:
            if limit.expired():
                raise DatabaseUnavailable(UNHEARD) from None
            raise

    # -- what is heard

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        if channel == self._own:
            if payload == self._token:
                self._heard.set()
            return
        for callback in tuple(self._callbacks.get(channel, ())):
            try:
                callback(str(payload))
            except Exception:
                log.exception("what listens on channel %s failed", channel)

    def _announce(self, state: State) -> None:
        for callback in tuple(self._states):
            try:
                callback(state)
            except Exception:
                log.exception("what follows the listener's state failed")


class _Live:
    """A connection that listens; it runs one statement at a time, and is cut when one fails."""

    def __init__(self, connection: Any, hear: Callable[..., None], within: float) -> None:
        self._connection, self._hear, self._within = connection, hear, within
        self._turn = asyncio.Lock()
        self.channels: set[str] = set()
        self.ended = asyncio.Event()
        connection.add_termination_listener(lambda _: self.ended.set())

    async def execute(self, statement: str) -> None:
        await self._run(lambda: self._connection.execute(statement))

    async def listen(self, channel: str) -> None:
        await self._run(lambda: self._connection.add_listener(channel, self._hear))
        self.channels.add(channel)

    async def unlisten(self, channel: str) -> None:
        self.channels.discard(channel)
        await self._run(lambda: self._connection.remove_listener(channel, self._hear))

    async def _run(self, statement: Callable[[], Awaitable[object]]) -> None:
        async with self._turn:
            try:
                with mapped_errors():
                    async with asyncio.timeout(self._within):
                        await statement()
            except BaseException:
                self._connection.terminate()
                raise
