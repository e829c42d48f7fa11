"""A standby is promoted while nodes run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent
from eventstore.errors import CheckpointAheadOfLog
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.operating.clusters import Pair, pair, template
from tests.operating.pgbouncer import pgbouncer

SETTINGS = replace(QUICK, append_timeout=30.0, connect_timeout=2.0)


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
            await self.store.subscriptions.wait_for(name, position, timeout=30)


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[Handled]:
    handled = Handled(store)
    task = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        async with asyncio.timeout(120):
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
        assert took < 10
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
        await store._signals.listener.ready(20)
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


async def test_a_standby_serves_streams_and_refuses_the_feed_and_appends_by_name(servers: Pair) -> None:
    async with EventStore(servers.dsn, settings=SETTINGS) as store:
        await store.append("s", [NewEvent("T", 1), NewEvent("T", 2)])
        await asyncio.to_thread(servers.part)
    async with EventStore(servers.standby.dsn, settings=replace(SETTINGS, append_timeout=0.2)) as standby:
        assert [event.data async for event in standby.read("s")] == [1, 2]
        assert (await standby.stream_info("s")).version == 2  # type: ignore[union-attr]
        for refused in (standby.head(), stored(standby), standby.wait_for(2, timeout=5), append(standby, 1)):
            with pytest.raises(DatabaseUnavailable, match=r"standby|read-only|recovery"):
                await refused
