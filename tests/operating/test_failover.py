"""A standby is promoted while nodes run."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Literal

import asyncpg
import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent
from eventstore.errors import CheckpointAheadOfLog
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.racing import times
from tests.operating.clusters import Pair, pair, template
from tests.operating.pgbouncer import pgbouncer

SETTINGS = replace(QUICK, append_timeout=60.0, connect_timeout=10.0)


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def servers(data: Path) -> Iterator[Pair]:
    """A primary with a migrated schema, and its standby."""
    with pair(data) as made:
        made.primary.execute("create table seen (position bigint, id uuid primary key)")
        yield made


class Handled:
    """What the handlers of one store got."""

    def __init__(self, store: EventStore) -> None:
        self.ids: list[str] = []
        self.store = store

        @store.handler("handled", All(), pool_size=2)
        async def handle(event: Event, delivery: Delivery) -> None:
            self.ids.append(str(event.id))

        @store.projection("seen", All())
        async def seen(events: list[Event], tx: asyncpg.Connection) -> None:
            await tx.executemany("insert into seen values ($1, $2)", [(one.position, one.id) for one in events])

    async def all_of(self, position: int) -> None:
        for name in ("handled", "seen"):
            await self.store.subscriptions.wait_for(name, position, timeout=120)


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[Handled]:
    handled = Handled(store)
    task = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        async with asyncio.timeout(600):
            await store.started()
            yield handled
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def append(store: EventStore, count: int) -> list[str]:
    """Append so many events; return the ids of those that were acknowledged."""
    events = [NewEvent("T", number) for number in range(count)]
    await asyncio.gather(*(store.append(f"s{n % 7}", [event]) for n, event in enumerate(events)))
    return [str(event.id) for event in events]


async def stored(store: EventStore) -> list[str]:
    return [str(event.id) async for event in store.read_all()]


async def test_with_a_synchronous_standby_nothing_acknowledged_is_lost_and_nodes_go_on(servers: Pair) -> None:
    await asyncio.to_thread(servers.wait_for_each_other)
    async with EventStore(servers.dsn, settings=SETTINGS, node_name="n") as store, running(store) as handled:
        acknowledged = await append(store, 40)
        enough, appended = asyncio.Event(), asyncio.Event()
        appending = asyncio.create_task(append_on(store, acknowledged, appended, enough))
        await appended.wait()
        servers.primary.kill()
        promoted = asyncio.create_task(asyncio.to_thread(servers.standby.promote))
        appended.clear()
        await promoted
        began = monotonic()
        await appended.wait()
        took = monotonic() - began
        assert took < times(60, 10)
        enough.set()
        await appending
        await handled.all_of(await store.head())
        log = await stored(store)
        assert set(acknowledged) <= set(log)
        assert len(set(log)) == len(log)
        assert set(handled.ids) == set(log)
        assert {str(row[0]) for row in servers.standby.execute("select id from seen")} == set(log)
        assert [node.name for node in await store.nodes() if node.partitions] == ["n"]
        assert store._signals.listener is not None
        await store._signals.listener.ready(60)
        note(writing_again_s=round(took, 2), acknowledged=len(acknowledged), lost=0)


async def append_on(store: EventStore, acknowledged: list[str], appended: asyncio.Event, enough: asyncio.Event) -> None:
    """Append one by one, each repeated by the store until it is acknowledged."""
    while not enough.is_set():
        event = NewEvent("T", 0)
        await store.append("load", [event])
        acknowledged.append(str(event.id))
        appended.set()
        await asyncio.sleep(0)


@asynccontextmanager
async def placed(servers: Pair, pooled: bool) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """The DSN of a store, and what leads it to the standby."""
    if not pooled:
        yield servers.dsn, lambda: None
        return
    try:
        with pgbouncer(servers.primary.dsn) as bouncer:
            yield bouncer.dsn(servers.primary.dsn), lambda: bouncer.point_to(str(servers.standby.directory), 5432)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "behind a pooler"])
async def test_events_that_an_asynchronous_standby_lost_hide_none_that_come_after_them(
    servers: Pair, pooled: bool
) -> None:
    async with (
        placed(servers, pooled) as (dsn, lead_to_standby),
        EventStore(dsn, settings=SETTINGS) as store,
        running(store) as handled,
        store.listen(after=0) as live,
    ):
        kept = await append(store, 40)
        await handled.all_of(await store.head())
        await asyncio.to_thread(servers.part)
        lost = await append(store, 30)
        await handled.all_of(await store.head())
        heard = [str((await anext(live)).id) for _ in range(70)]
        assert set(heard) == {*kept, *lost}
        servers.primary.kill()
        await asyncio.to_thread(servers.standby.promote)
        lead_to_standby()
        new = await append(store, 50)
        await handled.all_of(await store.head())
        log = await stored(store)
        assert set(log) == {*kept, *new}
        assert set(new) <= set(handled.ids)
        assert {str(row[0]) for row in servers.standby.execute("select id from seen")} == set(log)
        with pytest.raises(CheckpointAheadOfLog, match="a standby promoted that had not got all"):
            await anext(live)


async def heard(store: EventStore, after: int | Literal["current"]) -> Event:
    async with store.listen(after=after) as live:
        return await anext(live)


async def told(store: EventStore) -> None:
    async with store.pubsub.subscription("events"):
        pass


async def run(store: EventStore) -> None:
    async with store.running():
        pass


async def append_in(store: EventStore) -> None:
    connection = await asyncpg.connect(store._dsn)
    try:
        async with connection.transaction():
            await store.append("s", [NewEvent("T")], connection=connection)
    finally:
        await connection.close()


REFUSED: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "head": EventStore.head,
    "read_all": stored,
    "wait_for": lambda store: store.wait_for(2),
    "listen to history": lambda store: heard(store, 0),
    "listen": lambda store: heard(store, "current"),
    "event topics": told,
    "append": lambda store: append(store, 1),
    "append in a transaction": append_in,
    "subscribe": lambda store: store.subscribe("new", All()),
    "run": EventStore.run,
    "running": run,
}


@pytest.mark.parametrize("used", [False, True], ids=["pubsub never used", "pubsub used"])
async def test_a_standby_serves_streams_and_refuses_the_feed_and_writes_by_name(servers: Pair, used: bool) -> None:
    async with EventStore(servers.dsn, settings=replace(SETTINGS, listen=used)) as store:
        await store.append("s", [NewEvent("T", 1), NewEvent("T", 2)])
        await asyncio.to_thread(servers.part)
    async with EventStore(servers.standby.dsn) as standby:
        assert [event.data async for event in standby.read("s")] == [1, 2]
        assert (await standby.stream_info("s")).version == 2  # type: ignore[union-attr]
        for ask in REFUSED.values():
            with pytest.raises(DatabaseUnavailable, match=r"standby.*target_session_attrs=read-write"):
                await asyncio.wait_for(ask(standby), 120)


def test_commands_on_a_standby_end_with_the_cure(servers: Pair) -> None:
    for command in (["tail", "--after", "0"], ["work"], ["append", "s", "--type", "T"]):
        arguments = [sys.executable, "-m", "eventstore.cli", "--dsn", servers.standby.dsn, *command]
        ended = subprocess.run(arguments, capture_output=True, text=True, input="", timeout=120, check=False)
        assert ended.returncode == 3
        *_, last = ended.stderr.splitlines()
        assert last.startswith("DatabaseUnavailable: ")
        assert "target_session_attrs=read-write" in last


@contextmanager
def logged(*parts: str) -> Iterator[asyncio.Event]:
    """An event that is set when something is logged that has all *parts*."""
    seen = asyncio.Event()

    def look(record: logging.LogRecord) -> None:
        if all(part in record.getMessage() for part in parts):
            seen.set()

    handler = logging.Handler()
    handler.emit = look  # type: ignore[method-assign]
    logging.getLogger("eventstore").addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger("eventstore").removeHandler(handler)


@pytest.mark.parametrize("lost", [0, 100], ids=["that has all", "that lost some"])
async def test_what_ran_waits_while_it_is_led_to_a_standby_and_goes_on_when_that_is_promoted(
    servers: Pair, lost: int
) -> None:
    dsn = servers.dsn.partition("&target_session_attrs")[0]
    async with EventStore(dsn, settings=SETTINGS) as store, running(store) as handled, store.listen(after=0) as live:
        await append(store, 40)
        await asyncio.to_thread(servers.part)
        await append(store, lost)
        await handled.all_of(await store.head())
        for _ in range(40 + lost):
            await anext(live)
        with logged("listening", "standby") as listener, logged("lease", "read-only") as lease:
            following = asyncio.create_task(anext(live))
            servers.primary.kill()
            await asyncio.gather(listener.wait(), lease.wait())
        await asyncio.to_thread(servers.standby.promote)
        # One by one, on the connections that led to the standby, and survive its promotion.
        new = [id for _ in range(50) for id in await append(store, 1)]
        await handled.all_of(await store.head())
        assert set(new) <= set(handled.ids)
        assert {str(row[0]) for row in servers.standby.execute("select id from seen")} == set(await stored(store))
        if lost:
            with pytest.raises(CheckpointAheadOfLog, match="a standby promoted that had not got all"):
                await following
        else:
            assert str((await following).id) in new


async def test_the_promotion_of_a_standby_is_noticed_on_a_connection_that_survives_it(servers: Pair) -> None:
    dsn = servers.dsn.partition("&target_session_attrs")[0]
    async with EventStore(dsn, settings=replace(SETTINGS, connections=1, listen=False)) as store:
        await append(store, 1)
        await asyncio.to_thread(servers.part)
        servers.primary.kill()
        refused = ""
        while "standby" not in refused:
            with pytest.raises(DatabaseUnavailable) as raised:
                await store.head()
            refused = str(raised.value)
        await asyncio.to_thread(servers.standby.promote)
        await store.head()
        assert store._feed.put_back == 1
