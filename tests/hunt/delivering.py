"""What hunts among nodes that deliver share: processes, load, and the history of checkpoints, noted by the database."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from eventstore import EventStore, NewEvent
from tests.conftest import QUICK
from tests.forking import instead_of_an_interpreter
from tests.hunt.checker import check_deliveries
from tests.hunt.journal import Entry, Journal, entries
from tests.hunt.racing import times
from tests.hunt.subscription_node import Plan

ROOT = Path(__file__).parents[2]

WATCH = """
create table public.moves (
    id bigserial, at timestamptz default clock_timestamp(), subscription_id bigint, partition int, position bigint,
    epoch bigint);
create function public.note_move() returns trigger language plpgsql as $$
begin
    insert into public.moves (subscription_id, partition, position, epoch)
    values (new.subscription_id, new.partition, new.position, new.epoch);
    return null;
end $$;
create trigger note_moves after insert or update on eventstore.checkpoints
    for each row execute function public.note_move();
create table public.parkings (
    id bigserial, at timestamptz default clock_timestamp(), subscription_id bigint, position bigint);
create function public.note_parking() returns trigger language plpgsql as $$
begin
    insert into public.parkings (subscription_id, position) values (new.subscription_id, new.position);
    return null;
end $$;
create trigger note_parkings after insert on eventstore.parked for each row execute function public.note_parking();
"""
"""Every state that a checkpoint is ever in, also those that a look now and then would miss, and what was parked."""

MOVED = """
select s.name, m.partition, m.position, m.epoch, s.pool_size, extract(epoch from m.at)::float8 at
  from public.moves m join eventstore.subscriptions s on s.id = m.subscription_id order by m.id
"""

PARKED = """
select s.name, p.position, extract(epoch from p.at)::float8 at
  from public.parkings p join eventstore.subscriptions s on s.id = p.subscription_id
"""


class Node:
    """A process that delivers."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hunt: Hunt) -> None:
        self.name, self.process, self._hunt = name, process, hunt
        self._ready = self._may_end = False

    async def kill(self) -> None:
        """End it without a word."""
        self._may_end = True
        self.process.kill()
        await self.process.wait()

    def stop(self) -> None:
        """Halt it by a signal, in the middle of whatever it does."""
        self._hunt.note(Entry("stop", self.name, at=time.time()))
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def gone(self) -> bool:
        """It ended and should not have."""
        return self.process.returncode is not None and not self._may_end

    async def says(self, word: str) -> None:
        """Wait until it says *word*."""
        assert self.process.stdout is not None
        while (line := (await self.process.stdout.readline()).decode()) != f"{word}\n":
            assert line, f"{self.name} ended"
        self._ready = True

    async def ends(self, within: float = 60.0) -> int:
        """Ask it to stop, which it hears from its first word on; return its exit code."""
        self._may_end = True
        if not self._ready:
            await self.says("ready")
        self.process.terminate()
        _, _ = await asyncio.wait_for(self.process.communicate(), within)
        assert self.process.returncode is not None
        return self.process.returncode


class Hunt:
    """The nodes of one log and all their journals.

    Attributes:
        appended: how many events so far.
        store: of the test itself; it delivers nothing.
        sql: to look at what is stored.
    """

    def __init__(self, dsn: str, store: EventStore, sql: asyncpg.Connection, directory: Path, plan: Plan) -> None:
        self._dsn, self._directory, self.plan = dsn, directory, plan
        self.store, self.sql = store, sql
        self.nodes: list[Node] = []
        self.appended = 0
        self._numbers = count()
        self._journal = Journal(directory / "hunt.jsonl")
        self.note = self._journal.note

    async def start(self, name: str) -> Node:
        """Start a node; the journal is this incarnation's own."""
        name = f"{name}-{next(self._numbers)}"
        arguments = (self._dsn, str(self._directory / f"{name}.jsonl"), name, self.plan.json())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.hunt.subscription_node", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
            preexec_fn=instead_of_an_interpreter("tests.hunt.subscription_node", *arguments),
        )  # fmt: skip
        self.nodes.append(node := Node(name, process, self))
        return node

    async def end(self) -> None:
        """Stop every node; each must end well."""
        living = [node for node in self.nodes if node.process.returncode is None]
        assert await asyncio.gather(*(node.ends() for node in living)) == [0] * len(living)

    async def append(self, streams: Iterable[str], **fields: Any) -> None:
        """Append one event to each, with its number as data."""
        streams = list(streams)
        numbers = range(self.appended, self.appended + len(streams))
        fields = {"type": "T"} | fields
        await self.store.append_known(streams, [NewEvent(**({"data": n} | fields)) for n in numbers])
        self.appended += len(streams)

    async def fill(self, events: int, streams: int, *, pause: float = 0.0, at_once: int = 100) -> None:
        """Append so many events, evenly to so many streams."""
        for first in range(0, events, at_once):
            await self.append(f"s{n % streams}" for n in range(first, min(events, first + at_once)))
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def loaded(self, streams: int, *, at_once: int, pause: float) -> AsyncIterator[None]:
        """Append for as long as the block runs."""
        enough = asyncio.Event()

        async def load() -> None:
            while not enough.is_set():
                await self.append(f"s{n % streams}" for n in range(self.appended, self.appended + at_once))
                await asyncio.sleep(pause)

        task = asyncio.create_task(load())
        try:
            yield
        finally:
            enough.set()
            await task

    async def settled(self, *names: str, timeout: float = 60.0) -> None:
        """Wait until everything in the log is."""
        await self.stored(*names)
        head = await self.store.head()
        for name in names:
            waiting = asyncio.ensure_future(self.store.subscriptions.wait_for(name, head, timeout=timeout))
            await self.until(lambda waiting=waiting: is_done(waiting), timeout)  # type: ignore[misc]
            await waiting

    async def stored(self, *names: str) -> None:
        """Wait until a node has declared them."""
        query = "select count(*) = $2 from eventstore.subscriptions where name = any ($1)"
        await self.until(lambda: self.sql.fetchval(query, list(names), len(names)))

    async def until(self, condition: Callable[[], Awaitable[object]], timeout: float = 60.0) -> None:
        """Wait until *condition* holds."""
        async with asyncio.timeout(timeout):
            while not await condition():
                assert not (gone := [node.name for node in self.nodes if node.gone]), gone
                await asyncio.sleep(0.01)

    async def owns(self, node: Node) -> int:
        """How many partitions belong to *node*."""
        query = (
            "select count(*) from eventstore.checkpoints c join eventstore.nodes n on n.incarnation = c.owner"
            " where n.name = $1"
        )
        return int(await self.sql.fetchval(query, node.name))

    async def settles(self, moves: int) -> None:
        """Wait until checkpoints have been written so often from now on."""
        first = await self.sql.fetchval("select count(*) from public.moves")
        await self.until(lambda: self.sql.fetchval("select count(*) >= $1 from public.moves", first + moves))

    # -- afterwards

    async def journals(self) -> list[Entry]:
        """Everything that was noted, by nodes, by the database, and what the log holds."""
        self._journal.close()
        noted = [entry for path in sorted(self._directory.glob("*.jsonl")) for entry in entries(path)]
        return noted + await self._log() + await moves(self.sql) + await parkings(self.sql)

    async def _log(self) -> list[Entry]:
        log = [
            Entry("stored", "log", "ok", str(one.id), one.position, one.stream or "", one.version or 0,
                  bucket=one.bucket)
            async for one in self.store.read_all()
        ]  # fmt: skip
        assert len(log) == self.appended
        return log

    async def anomalies(self, *names: str) -> dict[str, list[str]]:
        """What the checker finds; nobody may be running any more."""
        return self.checked(await self.journals(), *names)

    def checked(self, journals: Iterable[Entry], *names: str) -> dict[str, list[str]]:
        """The first anomalies of each kind in *journals*."""
        found = check_deliveries(journals, names, self.plan.window)
        return {kind: some[:3] for kind, some in found.items()}


async def moves(sql: asyncpg.Connection) -> list[Entry]:
    """Every state of every checkpoint, in order."""
    return [
        Entry("moved", "database", position=row["position"], subscription=row["name"], partition=row["partition"],
              epoch=row["epoch"], pool_size=row["pool_size"], at=row["at"])
        for row in await sql.fetch(MOVED)
    ]  # fmt: skip


async def parkings(sql: asyncpg.Connection) -> list[Entry]:
    """Every event that was ever parked."""
    return [
        Entry("parked", "database", position=row["position"], subscription=row["name"], at=row["at"])
        for row in await sql.fetch(PARKED)
    ]


async def is_done(task: asyncio.Future[None]) -> bool:
    return task.done()


@asynccontextmanager
async def hunting(
    dsn: str, directory: Path, plan: Plan, seconds: tuple[float, float] = (400, 400)
) -> AsyncIterator[Hunt]:
    """Make the hunt of one test, on an empty log; nobody outlives it."""
    async with EventStore(dsn, settings=QUICK, node_name="test") as store, asyncio.timeout(times(*seconds)):
        sql = await asyncpg.connect(dsn)
        await sql.execute(WATCH)
        hunt = Hunt(dsn, store, sql, directory, plan)
        try:
            yield hunt
        finally:
            for node in hunt.nodes:
                if node.process.returncode is None:
                    node.process.kill()
                    await node.process.wait()
            await sql.close()
