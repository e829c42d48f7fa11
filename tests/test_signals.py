from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventstore import All, DatabaseUnavailable, EventStore, EventType, NewEvent, Settings
from eventstore.database import check_dsn
from eventstore.errors import ConfigurationError
from eventstore.log.read import Page, read_page
from eventstore.schema import signal_channel
from eventstore.service import Moments
from eventstore.signals import SPACING, Signals
from tests.conftest import QUICK
from tests.hunt.racing import until

LISTENERS = "select pid from pg_stat_activity where application_name = 'eventstore listener'"


async def collect(events, count: int) -> list[int]:  # type: ignore[no-untyped-def]
    found = []
    async with asyncio.timeout(60):
        async for event in events:
            found.append(event.position)
            if len(found) == count:
                return found
    return found


async def test_listening_goes_from_history_to_live_without_a_seam(store: EventStore) -> None:
    for n in range(20):
        await store.append("s", [NewEvent(type="AB"[n % 2])])
    async with store.listen(EventType("A"), after=0) as events:
        history = await collect(events, 10)
        for n in range(20):
            await store.append("s", [NewEvent(type="AB"[n % 2])])
        live = await collect(events, 10)
    assert history + live == list(range(1, 41, 2))


async def test_current_is_fixed_on_entering(store: EventStore) -> None:
    await store.append("s", [NewEvent(type="Before")])
    async with store.listen() as events:
        await store.append("s", [NewEvent(type="After")])
        assert await collect(events, 1) == [2]


async def test_an_append_of_another_node_wakes_this_one(store: EventStore, db: str) -> None:
    async with EventStore(db, settings=QUICK) as other, store.listen() as events:
        for _ in range(5):
            result = await other.append("s", [NewEvent(type="A")])
            assert await collect(events, 1) == [result.position]


async def test_polling_alone_finds_everything(db: str) -> None:
    settings = Settings(listen=False, poll_interval=0.05)
    async with EventStore(db, settings=settings) as node, EventStore(db, settings=settings) as other:
        async with node.listen() as events:
            result = await other.append("s", [NewEvent(type="A")])
            assert await collect(events, 1) == [result.position]


async def test_a_transaction_held_open_delivers_once_it_commits(store: EventStore, sql: asyncpg.Connection) -> None:
    async with store.listen() as events:
        async with sql.transaction():
            await store.append("slow", [NewEvent(type="A")], connection=sql)
            await store.append("quick", [NewEvent(type="B")])
        assert await collect(events, 2) == [1, 2]


async def test_a_rollback_ahead_of_committed_events_releases_them_without_a_signal(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    async with store.listen() as events:
        transaction = sql.transaction()
        await transaction.start()
        await store.append("slow", [NewEvent(type="A")], connection=sql)
        result = await store.append("quick", [NewEvent(type="B")])
        await transaction.rollback()
        assert await collect(events, 1) == [result.position]


async def test_a_mailbox_that_overflows_sends_the_listener_back_to_pages(db: str) -> None:
    settings = Settings(mailbox_size=4, page_size=3)
    async with EventStore(db, settings=settings) as store, store.listen() as events:
        await store.append("s", [NewEvent(type="A")])
        assert await collect(events, 1) == [1]
        for _ in range(40):
            await store.append("s", [NewEvent(type="A")])
        assert await collect(events, 40) == list(range(2, 42))


async def test_the_tail_is_read_once_however_many_listen(store: EventStore) -> None:
    async with store.listen() as one, store.listen() as two, store.listen(EventType("A")) as three:
        waiting = [asyncio.ensure_future(collect(each, 1)) for each in (one, two, three)]
        while len(store._feed._taps) < 3:
            await asyncio.sleep(0)
        taps, read = list(store._feed._taps), store._feed.moments.next("read")
        await store.append("s", [NewEvent(type="A")])
        assert await asyncio.gather(*waiting) == [[1], [1], [1]]
        assert (await read).events is not None
        assert {tap.scanned for tap in taps} == {1}


async def test_a_node_checks_that_it_hears_itself(db: str) -> None:
    signals = Signals(uuid4(), Settings(heartbeat_interval=0.05))
    heard = signals.moments.next("heard")
    await signals.start(db, "eventstore")
    await asyncio.wait_for(heard, 60)
    assert signals.listening
    await signals.stop()


async def test_a_listener_that_hears_nothing_is_replaced(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)
    signals = Signals(uuid4(), Settings(heartbeat_interval=0.05))
    assert signals.listener is not None
    listening = signals.moments.next("listening")
    await signals.start(db, "eventstore")
    await asyncio.wait_for(listening, 60)
    lost, signals.listener._own = signals.moments.next("lost"), "somewhere_else"
    await asyncio.wait_for(lost, 60)
    again = signals.moments.next("heard")
    await asyncio.wait_for(again, 60)
    await signals.stop()


async def test_a_listener_on_another_database_than_the_log_is_noticed(
    db: str, pg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)
    elsewhere = f"postgresql://{pg.user}@/postgres?host={pg.host}&port={pg.port}"
    signals = Signals(uuid4(), Settings(listen_dsn=elsewhere))
    await signals.start(db, "eventstore")
    assert signals.listener is not None
    listener = signals.listener
    await until(lambda: "does not hear its own signal" in listener._reason)
    with pytest.raises(DatabaseUnavailable, match="does not hear its own signal"):
        await listener.ready(0.01)
    await signals.stop()


@pytest.mark.parametrize(
    "wrong",
    ["nonsense", "postgresql://h:port/db", "postgresql://h:1,i:x/db", "postgresql://h/db?sslmode", "postgresql://[h"],
)
async def test_a_malformed_dsn_to_listen_by_is_refused_at_once(db: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^listen_dsn: "):
        await EventStore(db, settings=Settings(listen_dsn=wrong)).__aenter__()


@pytest.mark.parametrize(
    "usable",
    ["postgresql://u@[::1]:5,h:6/db", "postgresql://u:a%2Fb@/db?host=/tmp", "postgresql://%2Ftmp:5", "postgresql://"],
)
def test_a_dsn_that_may_lead_somewhere_is_not_refused(usable: str) -> None:
    check_dsn(usable, "listen_dsn")


async def test_a_node_that_does_not_listen_has_no_listener(db: str) -> None:
    signals = Signals(uuid4(), Settings(listen=False))
    assert signals.listener is None
    assert not signals.listening


async def test_killing_the_listening_connection_again_and_again_loses_nothing(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    rounds = 10
    async with store.listen() as events:
        for n in range(rounds):
            listening = store._signals.moments.next("listening")
            if store._signals.listening:
                await sql.execute(f"select pg_terminate_backend(pid) from ({LISTENERS}) l")
            results = [await store.append(f"s{n}", [NewEvent(type="A")]) for _ in range(3)]
            await asyncio.wait_for(listening, 60)
            assert await collect(events, 3) == [result.position for result in results]


async def test_a_node_uses_one_listening_connection_and_opens_the_notifier_on_first_use(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    query = (
        "select application_name from pg_stat_activity"
        " where application_name ~ 'listener|notifier' and datname = current_database() order by 1"
    )
    if not store._signals.listening:
        await store._signals.moments.next("listening")
    assert [row[0] for row in await sql.fetch(query)] == ["eventstore listener"]
    notified = store._signals.moments.next("notified")
    await store.append("s", [NewEvent(type="A")])
    await notified
    assert [row[0] for row in await sql.fetch(query)] == ["eventstore listener", "eventstore notifier"]


async def test_forged_signals_change_nothing(store: EventStore, sql: asyncpg.Connection) -> None:
    async with store.listen() as events:
        for payload in ("", "x" * 7000, "{}", "'; drop table events"):
            await sql.execute("select pg_notify($1, $2)", signal_channel("eventstore"), payload)
        result = await store.append("s", [NewEvent(type="A")])
        assert await collect(events, 1) == [result.position]


async def test_moments_cost_nothing_unobserved_and_wake_everybody_who_waits() -> None:
    moments = Moments()
    moments.reach("never asked for")
    one, two = moments.next("here"), moments.next("here")
    moments.reach("here", 7)
    assert (await one, await two) == (7, 7)
    assert not moments._waiting


async def test_nothing_is_left_behind_when_a_store_closes(db: str, sql: asyncpg.Connection) -> None:
    before = len(asyncio.all_tasks())
    async with EventStore(db, settings=QUICK) as store, store.listen(All()) as events:
        await store.append("s", [NewEvent(type="A")])
        await collect(events, 1)
    assert len(asyncio.all_tasks()) == before
    query = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and application_name <> 'emptying'"
    )
    while await sql.fetchval(query):
        await asyncio.sleep(0.005)


async def test_a_burst_of_appends_is_signalled_a_few_times(store: EventStore, sql: asyncpg.Connection) -> None:
    heard: list[object] = []
    await sql.add_listener(signal_channel("eventstore"), lambda *heard_now: heard.append(heard_now))
    began = monotonic()
    for _ in range(300):
        await store.append("s", [NewEvent(type="A")])
    last = store._signals.moments.next("notified")
    await store.append("s", [NewEvent(type="A")])
    await last
    await sql.fetchval("select 1")
    assert 0 < len(heard) <= (monotonic() - began) / SPACING + 2


async def test_a_node_that_follows_nothing_reads_nothing(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[int] = []

    async def counted(*arguments: Any, **named: Any) -> Page:
        pages.append(1)
        return await read_page(*arguments, **named)

    monkeypatch.setattr("eventstore.feed.read_page", counted)
    for _ in range(20):
        await store.append("s", [NewEvent(type="A")])
    assert pages == []
    async with store.listen() as events:
        await store.append("s", [NewEvent(type="A")])
        assert await collect(events, 1) == [21]
    assert pages
