"""A campaign: processes that append, deliver and read, on a server of their own, and all their journals."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from eventstore import DatabaseUnavailable, EventStore
from tests.faults.server import Server
from tests.faults.workers import Worker, started
from tests.hunt.checker import check_all, merged
from tests.hunt.delivering import WATCH, moves, parkings
from tests.hunt.journal import Entry, Journal, entries
from tests.hunt.proxy import Proxy, proxied
from tests.hunt.subscription_node import Plan

__all__ = ["Campaign", "Scale", "beside", "campaign"]

SUBSCRIPTIONS = ("plain", "batch", "fold", "picky")

SET_UP = """
create table folded (stream text primary key, count bigint, sum bigint, last bigint);
create table public.anything (n int);
"""

LOST = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, OSError,
        asyncpg.InternalClientError)  # fmt: skip

BEHIND = """
select s.name, c.partition, c.position, c.epoch, c.owner::text, c.halted::text from eventstore.subscriptions s
  join eventstore.checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
 where exists (select from eventstore.events e
                where e.bucket % s.pool_size = c.partition and e.position > c.position and e.position <= $1)
"""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        rate: appends a second, of all writers; a machine with two cores has to follow beside the faults.
        run: what nodes run, of `tests.hunt.subscription_node`.
    """

    nodes: int = 4
    writers: int = 3
    readers: int = 2
    rate: float = 24.0
    lease_ttl: float = 3.0
    window: int = 200
    run: Sequence[str] = SUBSCRIPTIONS
    kinds: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", {"node": self.nodes, "writer": self.writers, "reader": self.readers})


class Campaign:
    """What faults happen to.

    Attributes:
        rng: chooses everything that is chosen here.
        proxies: one before the server for each kind of process.
        workers: all there ever were.
        stuck: what did not go on, and processes that ended and should not have.
    """

    def __init__(self, server: Server, proxies: dict[str, Proxy], directory: Path, seed: int, scale: Scale) -> None:
        self.server, self.proxies, self.directory, self.scale = server, proxies, directory, scale
        self.rng = random.Random(seed)
        self.workers: list[Worker] = []
        self.stuck: list[str] = []
        self._numbers, self._end, self._mended = count(), directory / "end", directory / "mended"
        self._journal = Journal(directory / "campaign.jsonl")
        self.note = self._journal.note
        self.plan = Plan(
            run=tuple(scale.run), pool_size=4, lease_ttl=scale.lease_ttl, window=scale.window, pause=0.001,
            failing=("s0", "s1", "s2"), mended=str(self._mended),
            policy={"attempts": 2, "delay": 0.05, "delay_max": 0.1},
        )  # fmt: skip

    # -- processes

    async def start(self, kind: str, clock: str = "", *, steady: bool = False) -> Worker:
        """Start one more of a kind."""
        name = f"{kind}-{next(self._numbers)}"
        arguments = [self.proxies[kind].dsn, str(self.directory / f"{name}.jsonl"), name]
        if kind == "node":
            arguments += [self.plan.json(), clock]
        elif kind == "writer":
            arguments += [str(self.scale.rate / self.scale.writers), str(self.rng.randrange(1 << 30))]
        else:
            arguments += [str(self._end)]
        worker = await started(kind, name, arguments, self.directory, self.note, steady=steady)
        self.workers.append(worker)
        return worker

    async def start_all(self) -> None:
        """Start everybody, the first of each kind to stay; returns when all work."""
        for kind, many in self.scale.kinds.items():
            for number in range(many):
                await self.start(kind, steady=number == 0)
        async with asyncio.timeout(180):
            while not all(worker.ready.is_set() for worker in self.workers):
                self.look_for_the_dead()
                assert not self.stuck, self.stuck
                await asyncio.sleep(0.05)

    def living(self, kind: str = "") -> list[Worker]:
        return [one for one in self.workers if one.alive and kind in ("", one.kind)]

    def mortal(self, kind: str) -> list[Worker]:
        """Those that may be killed or halted now."""
        return [one for one in self.living(kind) if not one.steady and not one.frozen]

    def look_for_the_dead(self) -> None:
        """Take note of processes that ended by themselves."""
        for worker in self.workers:
            if gone := worker.gone:
                self.stuck.append(gone)
                worker._may_end = True

    # -- the server, directly

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        return await asyncpg.connect(self.server.dsn, database=database, timeout=30, command_timeout=60)

    async def ask(self, query: str, *arguments: object) -> Any:
        """One value, over a connection of its own."""
        rows = await self.rows(query, *arguments)
        return rows[0][0] if rows else None

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await self.connect()
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            connection.terminate()

    async def until_asked(self, query: str, done: type[Exception]) -> None:
        """Ask until there is an answer; *done* says that an earlier attempt has had its effect."""
        async with asyncio.timeout(60):
            while True:
                try:
                    await self.ask(query)
                    return
                except done:
                    return
                except LOST:
                    await asyncio.sleep(0.2)

    # -- while it goes on

    async def mend_again_and_again(self) -> None:
        """Let "picky" refuse some streams, then mend it and replay them."""
        while True:
            await asyncio.sleep(6)
            self._mended.touch()
            with suppress(*LOST, DatabaseUnavailable, TimeoutError):
                await self._replay()
            await asyncio.sleep(4)
            self._mended.unlink()

    async def _replay(self) -> None:
        if "picky" in self.scale.run:
            async with asyncio.timeout(20), EventStore(self.server.dsn, node_name="operator") as store:
                await store.subscriptions.replay_parked("picky")

    async def last_position(self) -> int:
        return int(await self.ask("select coalesce(max(position), 0) from eventstore.events"))

    async def goes_on(self, within: float = 120.0) -> tuple[float, float]:
        """Wait until something is appended, and delivered, again; returns the seconds that each took."""
        began, position, wrote = time.monotonic(), None, None
        last = ""
        while time.monotonic() < began + within:
            with suppress(*LOST, TimeoutError):
                position = await self.last_position() if position is None else position
                if wrote is None and await self.last_position() > position:
                    wrote = time.monotonic() - began
                behind = await self.rows(BEHIND, position)
                last = ", ".join(map(str, map(tuple, behind)))
                if wrote is not None and not behind:
                    return wrote, time.monotonic() - began
            await asyncio.sleep(0.05)
        self.stuck.append(f"after {within:g} s: written again: {wrote is not None}; not delivered: {last}")
        return within if wrote is None else wrote, within

    # -- the end

    async def come_to_rest(self, within: float = 120.0) -> None:
        """Nothing goes wrong any more: end all writers, and let everybody else finish."""
        for worker in self.living():
            worker.thaw()
        await self._give_up_prepared()
        self.stuck += filter(None, await asyncio.gather(*(one.ends(60) for one in self.living("writer"))))
        self._mended.touch()
        await self._drain(within)
        await self._tell_readers_the_end()
        readers = (one.ends(within, asked=False) for one in self.living("reader"))
        self.stuck += filter(None, await asyncio.gather(*readers))
        self.stuck += filter(None, await asyncio.gather(*(one.ends(60) for one in self.living("node"))))
        self.look_for_the_dead()

    async def _tell_readers_the_end(self) -> None:
        """At once: who finds the file finds the position in it."""
        written = self._end.with_suffix(".new")
        written.write_text(str(await self.last_position()))
        written.replace(self._end)

    async def _give_up_prepared(self) -> None:
        for row in await self.rows("select gid from pg_prepared_xacts where gid like 'faults-%'"):
            await self.ask(f"rollback prepared '{row[0]}'")

    async def _drain(self, within: float) -> None:
        if not self.living("node"):
            return
        deadline, position = time.monotonic() + within, await self.last_position()
        parked = [tuple(row) for row in await self.rows(BEHIND, position)]
        while behind := [tuple(row) for row in await self.rows(BEHIND, position)] or parked:
            if time.monotonic() > deadline:
                self.stuck.append(f"in the end, after {within:g} s, up to {position}: {behind}")
                return
            with suppress(*LOST, DatabaseUnavailable, TimeoutError):
                await self._replay()
            await asyncio.sleep(0.2)
            parked = [tuple(row) for row in await self.rows("select subscription_id, count(*) from eventstore.parked"
                                                            " group by 1")]  # fmt: skip

    def journals(self) -> Iterator[Entry]:
        """Everything that the processes noted until now."""
        for path in sorted(self.directory.glob("*.jsonl")):
            yield from entries(path)

    async def stored(self) -> list[Entry]:
        """What there is in the end, as the tables have it: no function of the store stands in between."""
        log = await self.rows(
            "select id::text, position, stream, version, bucket, data::text::bigint n from eventstore.events order by 2"
        )
        rows = await self.rows("select stream, count::bigint count, sum::bigint sum, last from folded")
        connection = await self.connect()
        try:
            noted = await moves(connection) + await parkings(connection)
        finally:
            await connection.close()
        return [
            *noted,
            *(Entry("stored", "log", "ok", row["id"], row["position"], row["stream"] or "", row["version"] or 0,
                    bucket=row["bucket"], value=row["n"]) for row in log),
            *(Entry("folded", "database", stream=row["stream"], version=row["last"], count=row["count"],
                    value=row["sum"]) for row in rows),
        ]  # fmt: skip

    async def checked(self) -> tuple[dict[str, list[str]], list[Entry]]:
        """The anomalies by name, and the history that has them."""
        history = [*self.journals(), *await self.stored()]
        named = self.scale.run if self.scale.nodes else ()
        found = await asyncio.to_thread(check_all, history, named, self.scale.window)
        return merged(found, {"stuck": self.stuck} if self.stuck else {}), history


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do *work*, which has no end of its own, while the block runs; what it failed with is raised."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


@asynccontextmanager
async def campaign(server: Server, directory: Path, seed: int, scale: Scale | None = None) -> AsyncIterator[Campaign]:
    """Make one on an empty, migrated server; nobody outlives it."""
    scale = scale or Scale()
    await _set_up(server)
    async with AsyncExitStack() as stack:
        proxies = {kind: await stack.enter_async_context(proxied(server.dsn, tcp=True)) for kind in scale.kinds}
        made = Campaign(server, proxies, directory, seed, scale)
        (directory / "scale.json").write_text(json.dumps({"seed": seed, "rate": scale.rate}))
        try:
            yield made
        finally:
            await asyncio.gather(*(worker.kill() for worker in made.workers))
            made._journal.close()


async def _set_up(server: Server) -> None:
    for database, script in (("postgres", "create database other"), ("postgres", WATCH + SET_UP), ("other", SET_UP)):
        connection = await asyncpg.connect(server.dsn, database=database)
        await connection.execute(script)
        await connection.close()
