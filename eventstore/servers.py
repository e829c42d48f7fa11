"""Which server answers, and what of a node's memory counts when it is another one.

A position is safe to go on from if it was stored, or if an event was read at it; others may be handed out again after a
crash, whoever remembers them (see `eventstore.feed`). Whoever is connected directly learns of a crash by losing the
connection. Behind a pooler connections stay, so that the server is asked who it is with every page, and again before
anything is settled.

Not even an event that was read is safe when a standby takes over that had not received it: its position is given to
another event. Postgres then begins a new timeline, and every new connection is asked for its own. One that led to a
standby survives its promotion, so that it is asked again whenever it is used. On another timeline nothing that a node
remembers counts, but only what the database says: partitions are claimed anew, from their stored checkpoints, and a
listener has to find the event that it returned last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import asyncpg

from eventstore.errors import DatabaseUnavailable

__all__ = ["SERVED_BY", "TIMELINE", "Server", "introduced"]

TIMELINE = "case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end"
"""Empty on a standby, which follows whatever timeline there is."""

SERVED_BY = (
    "pg_postmaster_start_time()::text || ' ' || pg_stat_get_bgwriter_stat_reset_time()::text || ' ' || " + TIMELINE
)
"""What differs between two servers, and between a server before and after a crash.

A postmaster that survives the crash of a backend keeps its start, but throws the statistics away. Somebody may reset
them by hand: then a little is read twice."""


class Server:
    """Who answers, for all pools of a store.

    Attributes:
        served_by: by `SERVED_BY`, asked for behind a pooler only; empty as long as nothing was read that is remembered.
        timeline: of the last connection that was opened.
    """

    def __init__(self) -> None:
        self.served_by = self.timeline = ""
        self._changed: set[Callable[[], None]] = set()
        self._put_back: set[Callable[[], None]] = set()

    def forget(self) -> None:
        """Begin with whatever server comes next."""
        self.served_by = self.timeline = ""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when another one answers behind a pooler; returns a function that ends that."""
        self._changed.add(callback)
        return lambda: self._changed.discard(callback)

    def on_put_back(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when events that were read may be gone; returns a function that ends that."""
        self._put_back.add(callback)
        return lambda: self._put_back.discard(callback)

    def follows(self, timeline: str | None) -> None:
        """Take note of the timeline of who answers; empty or None: nobody knows."""
        if not timeline:
            return
        before, self.timeline = self.timeline, timeline
        if before not in ("", timeline):
            for callback in tuple(self._put_back):
                callback()

    def met(self, served_by: str) -> None:
        """Take note of who has answered behind a pooler.

        Raises:
            DatabaseUnavailable: it is not who answered before, and no position that was not stored counts any more.
        """
        before, self.served_by = self.served_by, served_by
        if before in ("", served_by):
            return
        self.follows(served_by.rpartition(" ")[2])
        for callback in tuple(self._changed):
            callback()
        raise DatabaseUnavailable("the server behind the pooler was restarted, or is another one now")


async def introduced(connection: Any) -> Mapping[str, Any]:
    """Ask who serves *connection*, which leaves nothing behind on the backend.

    Returns:
        backend: its process.
        timeline: empty on a standby; None where the server does not tell.
        isolation: of a transaction that names none.
    """
    try:
        return await _asked(connection, TIMELINE)
    except asyncpg.PostgresError:
        return await _asked(connection, "null::text")


async def _asked(connection: Any, timeline: str) -> Mapping[str, Any]:
    # Unnamed, so that behind a pooler both of its messages reach the same backend, and none keeps it.
    statement = await connection.prepare(
        f"select pg_backend_pid() as backend, {timeline} as timeline,"
        " current_setting('default_transaction_isolation') as isolation",
        name="",
    )
    return dict(await statement.fetchrow())
