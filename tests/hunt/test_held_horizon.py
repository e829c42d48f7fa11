"""Transactions that are left open: who holds up readers is named, nothing is missed, all is read afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from eventstore import EventStore, NewEvent, StreamAppend
from eventstore.log.append import Request
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.faults.figures import note
from tests.hunt.checker import check
from tests.hunt.journal import Entry
from tests.hunt.racing import connection, some, times, until

pytestmark = pytest.mark.hunt

HELD = times(0.3, 60.0)
"""Seconds."""

Holder = Callable[[EventStore, str], AbstractAsyncContextManager[str]]
"""Holds a transaction open for the length of a block, which is given what `doctor` has to say about it."""


@asynccontextmanager
async def idle(store: EventStore, db: str) -> AsyncIterator[str]:
    """A transaction that appended, and does nothing more."""
    async with connection(db) as open_:
        await open_.execute("begin")
        await store.append("slow", some(), connection=open_)
        yield f"pid {open_.get_server_pid()},"
        await open_.execute("commit")


@asynccontextmanager
async def prepared(store: EventStore, db: str) -> AsyncIterator[str]:
    """A transaction that appended from SQL and was prepared, which one that signals cannot be; its session is gone."""
    arguments = Request((StreamAppend("slow", some()),)).arguments(signal=False)
    async with connection(db) as open_:
        await open_.execute("begin")
        await store.database.rows("append_events_v1", *arguments, on=open_)
        await open_.execute("prepare transaction 'left open'")
    yield "the prepared transaction 'left open'"
    async with connection(db) as open_:
        await open_.execute("commit prepared 'left open'")


@asynccontextmanager
async def elsewhere(store: EventStore, db: str) -> AsyncIterator[str]:
    """A writer in another database of the same server, which holds up nobody."""
    name = db.split("/")[3].split("?")[0]
    async with connection(db.replace(f"/{name}", "/postgres", 1)) as open_:
        await open_.execute("begin")
        await open_.execute(f'create table "written by {name}" (n int)')
        yield "nothing holds it"
        await open_.execute("rollback")


@dataclass
class Read:
    """What a listener read so far."""

    entries: list[Entry]

    async def everything(self, written: list[Entry]) -> None:
        """Wait until it has all of *written*."""
        wanted = {entry.id for entry in written}
        async with asyncio.timeout(60):
            while not wanted <= {entry.id for entry in self.entries}:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def reading(store: EventStore) -> AsyncIterator[Read]:
    read = Read([])

    async def listen() -> None:
        async with store.listen(after=0) as events:
            async for one in events:
                where = (one.position, one.stream or "", one.version or 0)
                read.entries.append(Entry("read", "reader", "ok", str(one.id), *where))

    task = asyncio.create_task(listen())
    try:
        yield read
    finally:
        task.cancel()
        await asyncio.wait([task])


async def write(store: EventStore, written: list[Entry], name: str, enough: asyncio.Event) -> None:
    while not enough.is_set():
        event = NewEvent("T")
        result = await store.append(name, [event])
        written.append(Entry("append", name, "ok", str(event.id), result.position, name, result.version or 0))
        await asyncio.sleep(0.02)


async def named(doctor: Callable[[], str], told: str) -> float:
    """Return after how many seconds `doctor` names the holder."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while told not in await asyncio.to_thread(doctor):
            pass
    return time.monotonic() - began


@pytest.mark.parametrize("holder", [idle, prepared, elsewhere], ids=lambda holder: holder.__name__)
async def test_who_holds_a_transaction_open_is_named_and_makes_nobody_miss_anything(
    db: str, store: EventStore, plain: Run, holder: Holder
) -> None:
    def doctor() -> str:
        return plain("--dsn", db, "doctor", "--only", "horizon", "--json").stdout

    written: list[Entry] = []
    enough = asyncio.Event()
    async with reading(store) as read, asyncio.TaskGroup() as group:
        writers = [group.create_task(write(store, written, f"s{n}", enough)) for n in range(4)]
        async with holder(store, db) as told:
            before = len(written)
            took = await named(doctor, told)
            await asyncio.sleep(HELD)
            await until(lambda: len(written) > before + len(writers))  # one at least began meanwhile
            unread = len(written) - len(read.entries)
            if holder is elsewhere:
                await read.everything(list(written))
            else:
                assert unread > 0
        released, due = time.monotonic(), list(written)
        await read.everything(due)
        drained = time.monotonic() - released
        enough.set()
        await asyncio.wait(writers)
        await read.everything(written)
    assert check([*written, *read.entries]) == {}
    assert took <= times(30, 5)
    assert drained <= times(30, 2)
    note(
        holder=holder.__name__, held_s=HELD, events=len(written), unread_meanwhile=unread,
        named_after_s=round(took, 2), drained_after_s=round(drained, 2), anomalies=0,
    )  # fmt: skip


async def test_a_reader_that_goes_on_without_what_is_held_is_caught(db: str, sql: asyncpg.Connection) -> None:
    """The planted bug: somebody reads past the open transaction."""
    async with EventStore(db) as store:
        written: list[Entry] = []
        async with idle(store, db):
            await store.append("s", some())
            naive = [tuple(row) for row in await sql.fetch("select id, position, version from eventstore.events")]
        async for one in store.read_all():
            where = (one.position, one.stream or "", one.version or 0)
            written.append(Entry("append", "writer", "ok", str(one.id), *where))
    reads = [Entry("read", "naive", "ok", str(id), position, "s", version) for id, position, version in naive]
    assert "unseen" in check([*written, *reads])
