"""The server: runs calls of the ledger's functions at instants of virtual time; or late, or not, or without an answer.

A node sees it through `Connections`, which is what the engine takes for a `Database`. Nothing of the server belongs to
a node: what was sent before a node crashed or froze is run nevertheless.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from eventstore.database import Database
from eventstore.errors import DatabaseUnavailable, EventStoreError
from eventstore.settings import Settings
from tests.simulation.operating import FakeLedger
from tests.simulation.tables import Key, Locked
from tests.simulation.timeline import Loop, Timeline

__all__ = ["Connection", "Connections", "Faults", "Server"]

LOST = "the connection ended"
SETTINGS = Settings()


@dataclass
class Faults:
    """What goes wrong with calls.

    Attributes:
        refused: share of calls that fail before anything happened.
        unknown: share of calls that are run, and whose answer is lost.
        slow: share of calls that take up to `slowest` seconds on the way there, and as many on the way back.
        wait: seconds that a connection may have to be waited for, which one in five has to.
    """

    chance: Random
    refused: float = 0.0
    unknown: float = 0.0
    slow: float = 0.0
    slowest: float = 0.0
    wait: float = 0.0

    def delay(self) -> float:
        """Seconds that one way takes."""
        if self.slow and self.chance.random() < self.slow:
            return self.chance.random() * self.slowest
        return 0.001 + 0.002 * self.chance.random()

    def fate(self) -> str:
        """What becomes of a call: ``ok``, ``refused`` or ``unknown``."""
        if not self.refused:
            return "ok"
        dice = self.chance.random()
        return "refused" if dice < self.refused else "unknown" if dice < self.refused + self.unknown else "ok"


class Server:
    """One database.

    Attributes:
        ran: told, before and after, of each call that is run: function, arguments.
        generation: raised by each crash; connections of an earlier one are dead.
    """

    def __init__(self, timeline: Timeline, ledger: FakeLedger, faults: Faults, idle: float) -> None:
        self.timeline, self.ledger, self.faults, self.idle = timeline, ledger, faults, idle
        self.generation = 0
        self.before: Callable[[str, tuple[Any, ...]], None] = lambda *_: None
        self.after: Callable[[str, tuple[Any, ...], Any], None] = lambda *_: None
        self.folded: Callable[[list[tuple[str, str, int]]], None] = lambda _: None
        self._waiting: list[Callable[[], None]] = []
        self._open: list[Connection] = []

    def call(self, function: str, args: tuple[Any, ...], asking: int = 0) -> list[Any]:
        """Run one function now."""
        self.ledger.asking = asking
        self.before(function, args)
        try:
            result: list[Any] = getattr(self.ledger, function)(*args)
        except EventStoreError as error:
            self.after(function, args, error)
            raise
        self.after(function, args, result)
        return result

    def crash(self) -> None:
        """Lose what is not committed, and all connections."""
        self.generation += 1
        for connection in self._open[:]:
            self.abort(connection)
        self.ledger.log.crash()

    # -- transactions: what they settle is locked at once and written at the commit

    def settle(self, connection: Connection, args: tuple[Any, ...]) -> list[Any]:
        """Run a settlement inside a transaction."""
        node, subscription, partition, epoch = args[:4]
        key = subscription, partition
        if not connection.begun or not self.ledger.holds(node, key, epoch):
            return [(False,)]  # the transaction may have been given up meanwhile
        if key in self.ledger.locked and key not in connection.settled:
            raise Locked
        self.ledger.locked.add(key)
        connection.settled[key] = args
        self.watch(connection)
        return [(True,)]

    def watch(self, connection: Connection) -> None:
        """End a session that stays idle in its transaction."""
        connection.spoken += 1
        spoken = connection.spoken
        if connection not in self._open:
            self._open.append(connection)

        def look() -> None:
            if connection.begun and connection.spoken == spoken and connection in self._open:
                self.abort(connection)
                connection.end()

        self.timeline.after(self.idle, look)

    def commit(self, connection: Connection) -> list[Any]:
        for args in connection.settled.values():
            self.ledger.locked.discard((args[1], args[2]))
        for args in connection.settled.values():
            self.call("settle_partition_v1", args)
        self.folded(connection.folded)
        self.abort(connection)
        return []

    def abort(self, connection: Connection) -> None:
        """Undo what is left of a transaction, and let those go on who wait for its locks."""
        if connection in self._open:
            self._open.remove(connection)
        for key in connection.settled:
            self.ledger.locked.discard(key)
        connection.settled, connection.folded, connection.begun = {}, [], False
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            self.timeline.after(0.0, run)

    def wait(self, run: Callable[[], None]) -> None:
        """Run again once a lock was given back."""
        self._waiting.append(run)


class Connections(Database):
    """The connections of one node, to this server instead of Postgres."""

    def __init__(self, server: Server, loop: Loop) -> None:
        super().__init__(SETTINGS, 1)
        self.server, self.loop = server, loop
        self._told: dict[Callable[[], None], None] = {}
        self.wall: Callable[[], int] = lambda: 0

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._told[callback] = None
        return lambda: self._told.pop(callback, None)  # type: ignore[return-value]

    def lost(self) -> None:
        """Tell that connections ended."""
        for callback in tuple(self._told):
            self.loop.call_soon(callback)

    async def _free(self) -> None:
        """Wait for a connection: others have them all, or it is made only now."""
        faults, loop = self.server.faults, self.loop
        if not faults.wait or faults.chance.random() > 0.2:
            return
        free = loop.create_future()

        def hand_over() -> None:
            if not (free.done() or loop.dropped):
                free.set_result(None)

        self.server.timeline.after(faults.chance.random() * faults.wait, hand_over)
        await free

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        await self._free()
        connection = Connection(self)
        try:
            yield connection
        finally:
            if connection.begun:
                self.server.abort(connection)

    async def rows(self, function: str, *args: Any, on: Any = None, **_named: Any) -> list[Any]:
        connection = on or Connection(self)
        result: list[Any] = await connection.call(function, args)
        return result

    async def value(self, function: str, *args: Any, on: Any = None) -> Any:
        found = await self.rows(function, *args, on=on)
        return found[0][0] if found else None


@dataclass(eq=False)
class Connection:
    """One connection; also what a projection is handed."""

    pool: Connections
    begun: bool = False
    spoken: int = 0
    settled: dict[Key, tuple[Any, ...]] = field(default_factory=dict)
    folded: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = self.pool.server
        self.generation = self.server.generation
        self._dead = False

    async def call(self, function: str, args: tuple[Any, ...]) -> list[Any]:
        """Call one function of the schema."""
        if self.begun and function == "settle_partition_v1":
            return await self.run(lambda: self.server.settle(self, args))
        wall = self.pool.wall()
        return await self.run(lambda: self.server.call(function, args, wall))

    async def run(self, what: Callable[[], list[Any]]) -> list[Any]:
        """Send something, and wait for the answer."""
        server, loop, faults = self.server, self.pool.loop, self.server.faults
        after, answered, fate = server.timeline.after, loop.create_future(), faults.fate()

        def execute() -> None:
            if answered.cancelled() and faults.chance.random() < 0.5:
                return None  # the cancellation came first, and the connection goes on
            if self.is_closed() or fate == "refused":
                return answer(None)
            try:
                result: Any = what()
            except Locked:
                return server.wait(execute)
            except EventStoreError as error:
                result = error
            if fate == "unknown":
                return answer(None)
            return after(faults.delay(), lambda: answer(result))

        def answer(result: Any) -> None:
            if loop.dropped:
                return
            if result is None or self.is_closed():
                self.end()
            if answered.done():
                return
            if result is None or self.is_closed():
                answered.set_exception(DatabaseUnavailable(LOST))
            elif isinstance(result, EventStoreError):
                answered.set_exception(result)
            else:
                answered.set_result(result)

        after(faults.delay(), execute)
        rows: list[Any] = await answered
        return rows

    def end(self) -> None:
        """It is gone."""
        if not self._dead:
            self._dead = True
            self.server.abort(self)
            self.pool.lost()

    def is_closed(self) -> bool:
        return self._dead or self.generation != self.server.generation

    def is_in_transaction(self) -> bool:
        return self.begun

    def terminate(self) -> None:
        self.end()

    async def fetchval(self, _sql: str) -> float:
        """Tell the time, which is what the feed asks for."""
        seconds: float = (await self.run(lambda: [self.server.ledger.clock() / 1e6]))[0]
        return seconds

    # -- a transaction

    def transaction(self, isolation: str = "") -> Connection:
        return self

    async def execute(self, _sql: str) -> None:
        await self.run(lambda: self.server.watch(self) or [])  # type: ignore[func-returns-value]

    async def start(self) -> None:
        await self.run(self._begin)

    def _begin(self) -> list[Any]:
        self.begun = True
        self.server.watch(self)
        return []

    async def write(self, folded: list[tuple[str, str, int]]) -> None:
        """Write rows of a projection."""

        def write() -> list[Any]:
            self.server.watch(self)
            self.folded.extend(folded)
            return []

        await self.run(write)

    async def commit(self) -> None:
        await self.run(lambda: self.server.commit(self))

    async def rollback(self) -> None:
        await self.run(lambda: self.server.abort(self) or [])  # type: ignore[func-returns-value]
