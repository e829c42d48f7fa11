"""Connections that are dead without having ended: the question never arrived, or the answer is lost; nobody tells.

Whoever waits for an answer would wait for ever; and how long is too long nobody knows, for an append may wait for
locks and a query may be large. But the server knows whether it still works on it. So for whoever has waited a while
it is asked, on a new connection, and a connection whose backend is gone, has nothing to do or waits for more to come,
is cut. Who waited finds a lost connection, as ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

__all__ = ["WAITED", "Answers"]

log = logging.getLogger(__name__)

WAITED = 5.0
"""Seconds that a call waits, and its backend has nothing to do, until its connection is taken for dead."""

DEAD = """
select p.pid from unnest($1::int[], $2::bool[]) p(pid, lent)
 where not exists (
       select from pg_stat_activity a
        where a.pid = p.pid
          and (a.state is null or a.state = 'disabled'
               or clock_timestamp() - a.state_change < make_interval(secs => $3)
               or a.state = 'active' and a.wait_event is distinct from 'ClientRead'
               or p.lent and a.state like 'idle in transaction%'))
"""
"""A transaction of somebody else's may be idle. Postgres ends it if it is for too long; then its backend is gone."""


class Answers:
    """Looks after the calls of a store's pools.

    Args:
        connect: opens the connection that the server is asked on, and names its errors.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._connect = connect
        self._waiting: dict[Any, tuple[float, bool]] = {}
        self._told: list[Callable[[], None]] = []

    def __contains__(self, connection: object) -> bool:
        return connection in self._waiting

    def on_dead(self, callback: Callable[[], None]) -> None:
        """Call *callback* when a connection was cut: others may have gone the same way."""
        self._told.append(callback)

    @contextmanager
    def awaited(self, connection: Any, *, lent: bool = False) -> Iterator[None]:
        """Something is asked on *connection* as long as the block runs; or, if it is *lent*, somebody else asks."""
        self._waiting[connection] = asyncio.get_running_loop().time(), lent
        try:
            yield
        finally:
            self._waiting.pop(connection, None)

    async def look_again_and_again(self, healthy: Callable[[], None]) -> None:
        """Cut what is dead, for as long as this runs."""
        while True:
            await asyncio.sleep(WAITED / 2)
            await self.look()
            healthy()

    async def look(self) -> None:
        """Cut what is dead.

        Raises:
            DatabaseUnavailable: the server cannot be asked.
        """
        now = asyncio.get_running_loop().time()
        late = {one: began for one, began in self._waiting.items() if now - began[0] >= WAITED}
        if not late:
            return
        dead = await self._dead([(one.get_server_pid(), lent) for one, (_, lent) in late.items()])
        cut = [one for one, began in late.items() if self._waiting.get(one) == began and one.get_server_pid() in dead]
        for connection in cut:
            log.warning("a connection was dead without having ended: the server has nothing to do for it; cut")
            connection.terminate()
        for callback in self._told if cut else ():
            callback()

    async def _dead(self, backends: list[tuple[int, bool]]) -> set[int]:
        pids, lent = zip(*backends, strict=True)
        async with self._connect() as connection, asyncio.timeout(WAITED):
            return {row["pid"] for row in await connection.fetch(DEAD, list(pids), list(lent), WAITED)}
