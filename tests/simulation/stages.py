"""One ledger, twice: over the fake and over Postgres; with what tests need besides: events, leases that run out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from eventstore.database import Database
from eventstore.settings import Settings
from eventstore.subscriptions.ledger import Ledger
from tests.simulation.log import Log
from tests.simulation.operating import FakeLedger

__all__ = ["Fake", "Real", "Stage", "opened"]

SETTINGS = Settings()


class Stage(Protocol):
    """A ledger to play on."""

    ledger: Ledger

    async def append(self, stream: str) -> int:
        """Append an event; returns its position."""

    async def expire(self, node: UUID) -> None:
        """Let the lease of a node run out."""

    async def clear(self) -> None:
        """Begin anew."""


class Direct(Database):
    """Calls the fake at once."""

    def __init__(self, fake: FakeLedger) -> None:
        super().__init__(SETTINGS, 1)
        self.fake = fake

    async def rows(self, function: str, *args: Any, **_: Any) -> list[Any]:
        found: list[Any] = getattr(self.fake, function)(*args)
        return found


class Fake:
    """The fake, whose clock stands still."""

    def __init__(self) -> None:
        self._kind = FakeLedger
        self._begin()

    def _begin(self) -> None:
        self.log = Log()
        self.fake = self._kind(self.log, lambda: 946_684_800_000_000)
        self.ledger = Ledger(Direct(self.fake))

    async def append(self, stream: str) -> int:
        append = self.log.begin(stream, 1)
        assert append is not None
        self.log.commit(append)
        return append.first

    async def expire(self, node: UUID) -> None:
        if node in self.fake.nodes:
            self.fake.nodes[node].lease_until = self.fake.clock() - 1

    async def clear(self) -> None:
        self._begin()


class Real:
    """Postgres."""

    def __init__(self, database: Database, sql: asyncpg.Connection) -> None:
        self.ledger, self._sql = Ledger(database), sql

    async def append(self, stream: str) -> int:
        await self._sql.execute('select eventstore.append_events($1, \'[{"type": "Happened"}]\')', stream)
        return int(await self._sql.fetchval("select last_value from eventstore.event_positions"))

    async def expire(self, node: UUID) -> None:
        await self._sql.execute(
            "update eventstore.nodes set lease_until = clock_timestamp() - interval '1 second' where incarnation = $1",
            node,
        )

    async def clear(self) -> None:
        # As it refuses otherwise: the log is append-only. Many small tables are emptied sooner by deleting.
        await self._sql.execute(
            """
            set session_replication_role = replica;
            delete from eventstore.parked; delete from eventstore.node_subscriptions;
            delete from eventstore.checkpoints; delete from eventstore.subscriptions; delete from eventstore.nodes;
            delete from eventstore.events; delete from eventstore.streams;
            select setval('eventstore.event_positions', 0), setval('eventstore.subscriptions_id_seq', 1, false);
            update eventstore.control set generation = 0;
            set session_replication_role = default;
            """
        )


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Real]:
    """Open the real one."""
    database = Database(SETTINGS, 2)
    await database.start(dsn, "eventstore")
    sql = await asyncpg.connect(dsn)
    try:
        yield Real(database, sql)
    finally:
        await sql.close()
        await database.stop()
