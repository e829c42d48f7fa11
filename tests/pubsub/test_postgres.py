"""The Postgres adapter, on a real server."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from eventstore import DatabaseUnavailable, EventStore
from eventstore.errors import AlreadyStarted, ConfigurationError, InvalidMessage
from eventstore.listening import Listener
from eventstore.pubsub import Postgres
from eventstore.pubsub.adapter import Envelope
from eventstore.pubsub.frames import Frames
from eventstore.pubsub.postgres_connections import Line, source_of
from eventstore.pubsub.postgres_tables import BATCH
from eventstore.service import Moments
from tests.hunt.racing import times

ACTIVITY = "from pg_stat_activity where datname = current_database() and application_name"
CONNECTIONS = f"select count(*) {ACTIVITY} ~ 'pubsub'"


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements and signals may take as long as the machine is busy, where a test does not say otherwise."""
    monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 60.0)
    monkeypatch.setattr("eventstore.pubsub.postgres_connections.STATEMENT_WITHIN", 60.0)
    monkeypatch.setattr("eventstore.pubsub.postgres.PURGE_WITHIN", 60.0)


class Inbox:
    """A receiver that keeps what it gets, and lets tests wait for it."""

    def __init__(self, name: str = "chat", pool_size: int = 1) -> None:
        self.name, self.origin, self.pool_size = name, str(uuid4()), pool_size
        self.envelopes: list[Envelope] = []
        self.rejections: list[str] = []
        self.states: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)
        self._changed.set()

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)
        self._changed.set()

    def connection(self, state: str) -> None:
        self.states.append(state)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def messages(self, count: int) -> list[Any]:
        await self.until(lambda: len(self.envelopes) >= count)
        return [json.loads(envelope.message) for envelope in self.envelopes]


@asynccontextmanager
async def node(dsn: Any, name: str = "b", **options: Any) -> AsyncIterator[tuple[Postgres, Inbox]]:
    inbox = Inbox(pool_size=options.pop("pool_size", 1))
    adapter = Postgres(dsn, node_name=name, **options)
    await adapter.start(inbox)
    try:
        yield adapter, inbox
    finally:
        await adapter.close()


@pytest.fixture
async def a(db: str) -> AsyncIterator[tuple[Postgres, Inbox]]:
    async with node(db, "a") as opened:
        yield opened


@pytest.fixture
async def b(db: str) -> AsyncIterator[tuple[Postgres, Inbox]]:
    async with node(db, "b") as opened:
        yield opened


Node = tuple[Postgres, Inbox]


def envelope(of: Node, message: object, **fields: Any) -> Envelope:
    fields = {"mode": "except", "node": of[0].node_name, "topic": "room", **fields}
    return Envelope(origin=of[1].origin, message=json.dumps(message, ensure_ascii=False), **fields)


def noise(size: int) -> str:
    """Text that does not compress below its size."""
    return random.Random(size).randbytes(size // 2).hex()


async def channel_of(sql: asyncpg.Connection, of: Node) -> str:
    running = of[0]._running
    assert running is not None
    return running._channel(0)


# -- sizes


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
async def test_messages_of_any_size_arrive_intact(a: Node, b: Node, size: int) -> None:
    message = noise(size)
    await a[0].broadcast(envelope(a, message))
    assert await b[1].messages(1) == [message]
    assert a[0].counters["spilled"] == (size > 10)


@pytest.mark.parametrize("letter", ["x", "é", "語", "😀"])
async def test_messages_about_as_large_as_a_notification_arrive_intact(a: Node, b: Node, letter: str) -> None:
    around = 7_999 // len(letter.encode())
    messages = [letter * (around - less) for less in range(0, 200, 7)] + [letter * (around + n) for n in range(5)]
    await asyncio.gather(*(a[0].broadcast(envelope(a, message)) for message in messages))
    assert await b[1].messages(len(messages)) == messages


async def test_a_payload_of_7999_bytes_passes_and_one_more_does_not(sql: asyncpg.Connection) -> None:
    await sql.execute("select pg_notify('c', $1)", "é" * 3_999 + "x")
    with pytest.raises(asyncpg.PostgresError, match="too long"):
        await sql.execute("select pg_notify('c', $1)", "é" * 4_000)


async def test_a_message_that_is_too_large_is_refused_alone(a: Node, b: Node) -> None:
    with pytest.raises(InvalidMessage):
        await a[0].broadcast(envelope(a, "x" * (16 << 20)))
    await a[0].broadcast(envelope(a, "small"))
    assert await b[1].messages(1) == ["small"]


# -- who gets what


async def test_the_sender_does_not_unpack_what_is_for_others(a: Node, b: Node) -> None:
    await a[0].broadcast(envelope(a, 1))
    await a[0].direct_broadcast("a", envelope(a, 2, mode="only", node="a"))
    assert await a[1].messages(1) == [2]
    assert await b[1].messages(2) == [1, 2]  # its hub drops what is for another node


async def test_shards_are_channels_and_pubsubs_do_not_hear_each_other(db: str, a: Node) -> None:
    other = Postgres(db, node_name="b")
    stranger = Inbox("another")
    await other.start(stranger)
    async with node(db, "c", pool_size=2) as c:
        await a[0].broadcast(envelope(a, "beyond a's pool", shard=1))
        await a[0].broadcast(envelope(a, "first", shard=0))
        assert await c[1].messages(2) == ["beyond a's pool", "first"]
    await other.close()
    assert stranger.envelopes == []
    assert stranger.rejections == []


# -- transactions


async def test_a_broadcast_in_a_transaction_arrives_when_it_commits(a: Node, b: Node, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        for _ in range(2):
            await a[0].broadcast_in(sql, envelope(a, "the same", mode="all"))
        await a[0].broadcast_in(sql, envelope(a, noise(50_000), mode="all"))
        await a[0].broadcast(envelope(a, "outside"))
        assert await b[1].messages(1) == ["outside"]
    for inbox, before in ((a[1], 0), (b[1], 1)):
        assert (await inbox.messages(before + 3))[before:] == ["the same", "the same", noise(50_000)]


async def test_a_broadcast_that_is_rolled_back_does_not_arrive(a: Node, b: Node, sql: asyncpg.Connection) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await a[0].broadcast_in(sql, envelope(a, "never"))
    await a[0].broadcast_in(sql, envelope(a, noise(50_000)))
    await transaction.rollback()
    await a[0].broadcast(envelope(a, "after"))
    assert await b[1].messages(1) == ["after"]
    assert await sql.fetchval("select count(*) from eventstore.pubsub_spill") == 0


async def test_a_transactional_broadcast_leaves_the_durability_of_the_commit_alone(
    a: Node, sql: asyncpg.Connection
) -> None:
    await sql.execute("set synchronous_commit = on")
    async with sql.transaction():
        await a[0].broadcast_in(sql, envelope(a, 1))
        assert await sql.fetchval("show synchronous_commit") == "on"


async def test_a_broadcast_in_needs_a_transaction(a: Node, sql: asyncpg.Connection) -> None:
    with pytest.raises(ConfigurationError, match="open transaction"):
        await a[0].broadcast_in(sql, envelope(a, 1))


# -- signatures


async def test_forged_notifications_are_dropped_and_good_ones_among_them_arrive(
    a: Node, b: Node, sql: asyncpg.Connection
) -> None:
    forge = "select pg_notify($1, case n % 4 when 0 then '' when 1 then repeat('x', 7000) else '1j' || n end)"
    forge += " from generate_series(1, 500) n"
    for message in ("first", "second"):
        await sql.execute(forge, await channel_of(sql, b))
        await a[0].broadcast(envelope(a, message))
    assert await b[1].messages(2) == ["first", "second"]
    assert b[0].counters["rejected"] == len(b[1].rejections) > 500  # equal payloads of a statement are one


async def test_forged_notifications_are_counted(b: Node, sql: asyncpg.Connection) -> None:
    count = times(1_000, 10_000)
    await sql.execute("select pg_notify($1, n::text) from generate_series(1, $2) n", await channel_of(sql, b), count)
    await b[1].until(lambda: len(b[1].rejections) == count)
    assert b[0].counters["rejected"] == count


async def test_a_frame_signed_with_another_key_is_rejected(a: Node, b: Node, sql: asyncpg.Connection) -> None:
    [key] = [row["key"] for row in await sql.fetch("select key from eventstore.pubsub_keys")]
    good, forged = (Frames(each).pack([envelope(a, "hello")])[0].text for each in (key, bytes(32)))
    await sql.execute("select pg_notify($1, $2)", await channel_of(sql, b), forged)
    await sql.execute("select pg_notify($1, $2)", await channel_of(sql, b), good)
    assert await b[1].messages(1) == ["hello"]
    assert len(b[1].rejections) == 1


async def test_a_stored_body_that_was_changed_is_rejected_and_the_next_message_arrives(
    a: Node, b: Node, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await a[0].broadcast_in(sql, envelope(a, noise(50_000)))
        await sql.execute("update eventstore.pubsub_spill set body = body || 'x'::bytea")
    await a[0].broadcast(envelope(a, "next"))
    assert await b[1].messages(1) == ["next"]
    assert b[0].counters["rejected"] == 1


async def test_a_stored_body_that_is_gone_is_lost_and_the_next_message_arrives(
    a: Node, b: Node, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await a[0].broadcast_in(sql, envelope(a, noise(50_000)))
        await sql.execute("delete from eventstore.pubsub_spill")
    await a[0].broadcast(envelope(a, "next"))
    assert await b[1].messages(1) == ["next"]
    assert b[0].counters["lost"] == 1


# -- order


async def test_messages_of_each_task_arrive_in_their_order(a: Node, b: Node) -> None:
    async def send(task: int) -> None:
        for n in range(250):
            filling = noise(20_000) if n % 50 == task else ""
            await a[0].broadcast(envelope(a, [task, n, filling]))

    await asyncio.gather(*map(send, range(8)))
    found = await b[1].messages(2_000)
    for task in range(8):
        assert [n for of, n, _ in found if of == task] == list(range(250))
    assert a[0].counters["spilled"] == 8 * 5
    assert a[0].counters["frames_sent"] < 2_000


# -- what the server refuses


@pytest.fixture
async def latin(db: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """DSN of a database that cannot hold every character."""
    name = f"latin_{uuid4().hex}"
    await sql.execute(f"create database {name} encoding 'LATIN1' locale 'C' template template0")
    yield re.sub(r"/[^/?]*\?", f"/{name}?", db)
    await sql.execute(f"drop database {name} with (force)")


async def test_a_message_that_the_database_cannot_hold_fails_alone(latin: str) -> None:
    async with node(latin, "a") as a, node(latin, "b") as b:
        for _ in range(5):
            messages = ["plain", "\u20ac\U0001f600", "é"]
            sending = [a[0].broadcast(envelope(a, each)) for each in messages]
            results = await asyncio.gather(*sending, return_exceptions=True)
            assert [type(each) for each in results] == [type(None), DatabaseUnavailable, type(None)]
        assert await b[1].messages(10) == ["plain", "é"] * 5


async def test_without_the_table_large_messages_fail_and_small_ones_pass(
    a: Node, b: Node, sql: asyncpg.Connection
) -> None:
    a[0]._create = False
    await sql.execute("drop table eventstore.pubsub_spill")
    messages = ["1", noise(20_000), "2"]
    sending = [a[0].broadcast(envelope(a, each)) for each in messages]
    one, large, two = await asyncio.gather(*sending, return_exceptions=True)
    assert one is two is None
    assert isinstance(large, DatabaseUnavailable)
    assert "its tables are not there" in str(large)
    assert await b[1].messages(2) == ["1", "2"]


async def test_tables_that_vanished_are_made_again_by_who_needs_them(a: Node, b: Node, sql: asyncpg.Connection) -> None:
    await sql.execute("drop table eventstore.pubsub_spill")
    await a[0].broadcast(envelope(a, noise(20_000)))
    assert await b[1].messages(1) == [noise(20_000)]


async def test_large_messages_are_compressed_in_a_thread_and_keep_their_place(
    a: Node, b: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    prepare = Frames.prepare

    def traced(self: Frames, one: Envelope) -> Envelope:
        threads.add(threading.current_thread())
        return prepare(self, one)

    monkeypatch.setattr(Frames, "prepare", traced)
    messages = [1, noise(3_000_000), "x" * 300_000, 2, noise(300_000), 3]
    await asyncio.gather(*(a[0].broadcast(envelope(a, message)) for message in messages))
    assert await b[1].messages(6) == messages
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_topic_that_cannot_be_encoded_is_refused_by_name(a: Node, size: int) -> None:
    with pytest.raises(InvalidMessage, match="cannot be encoded"):
        await a[0].broadcast(envelope(a, noise(size), topic="\ud800"))


# -- losses


async def test_a_key_that_changed_meanwhile_is_taken_over_with_the_connection(
    db: str, a: Node, sql: asyncpg.Connection
) -> None:
    await sql.execute("truncate eventstore.pubsub_keys")
    async with node(db, "b") as b:
        await end_backends(sql, "eventstore pubsub listener")
        await a[1].until(lambda: a[1].states == ["lost", "reconnected"] * 2)
        await b[1].until(lambda: b[1].states == ["lost", "reconnected"])
        await a[0].broadcast(envelope(a, noise(20_000)))
        await b[0].broadcast(envelope(b, 1))
        assert await b[1].messages(1) == [noise(20_000)]
        assert await a[1].messages(1) == [1]
    assert a[0].counters["reconnects"] == 1


async def test_tables_that_vanished_are_there_again_after_the_connection_came_back(
    a: Node, b: Node, sql: asyncpg.Connection
) -> None:
    await sql.execute("drop table eventstore.pubsub_keys, eventstore.pubsub_spill")
    await end_backends(sql, "eventstore pubsub listener")
    for inbox in (a[1], b[1]):  # twice, because the key is a new one
        await inbox.until(lambda inbox=inbox: inbox.states == ["lost", "reconnected"] * 2)
    async with sql.transaction():
        await a[0].broadcast_in(sql, envelope(a, noise(20_000)))
    assert await b[1].messages(1) == [noise(20_000)]


async def test_an_idle_node_that_reconnected_has_one_connection_again(a: Node, sql: asyncpg.Connection) -> None:
    await end_backends(sql, "eventstore pubsub listener")
    await a[1].until(lambda: a[1].states == ["lost", "reconnected"])
    await a[0]._running._renewal  # type: ignore[union-attr, misc]
    await connected(sql, 1)


class Fails(Exception):
    pass


async def test_a_connection_on_which_something_failed_is_not_used_again(db: str) -> None:
    line, used = Line(source_of(db, timeout=10, cache=0), "notifier"), []

    async def use(connection: Any, error: Exception | None = None) -> None:
        used.append(connection)
        if error is not None:
            raise error

    for error in (Fails(), DatabaseUnavailable("gone")):
        with pytest.raises(type(error)):
            await line.run(lambda connection, error=error: use(connection, error))
        assert used[-1].is_closed()
        await line.run(use)
        await line.run(use)
    assert used[1] is used[2] is used[3]
    assert used[0] is not used[1]
    assert used[4] is used[5] is not used[3]
    assert not line.idle
    await line.close()
    assert line.idle
    assert used[-1].is_closed()


async def test_a_lost_listener_is_reported_and_comes_back(db: str, a: Node, sql: asyncpg.Connection) -> None:
    async with node(db, "c") as (adapter, inbox):
        await end_backends(sql, "eventstore pubsub listener")
        await inbox.until(lambda: inbox.states == ["lost", "reconnected"])
        await a[1].until(lambda: a[1].states == ["lost", "reconnected"])
        await a[0].broadcast(envelope(a, "after"))
        assert await inbox.messages(1) == ["after"]
        assert adapter.counters["reconnects"] == 1


async def connected(sql: asyncpg.Connection, count: int) -> None:
    """Return when nodes have *count* connections: backends end a moment after theirs."""
    async with asyncio.timeout(60):
        while await sql.fetchval(CONNECTIONS) != count:
            await asyncio.sleep(0.01)


async def end_backends(sql: asyncpg.Connection, name: str) -> None:
    await sql.execute(f"select pg_terminate_backend(pid) {ACTIVITY} = $1", name)


async def waiting_for_a_lock(sql: asyncpg.Connection, name: str) -> None:
    query = f"select count(*) {ACTIVITY} = $1 and wait_event_type = 'Lock'"
    async with asyncio.timeout(60):
        while not await sql.fetchval(query, name):
            await asyncio.sleep(0.01)


async def test_a_broadcast_under_way_when_its_connection_is_lost_fails_and_the_next_one_works(
    a: Node, b: Node, db: str, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await sql.execute("lock table eventstore.pubsub_spill")
        sending = asyncio.ensure_future(a[0].broadcast(envelope(a, noise(50_000))))
        watcher = await asyncpg.connect(db)
        await waiting_for_a_lock(watcher, "eventstore pubsub notifier")
        behind = asyncio.ensure_future(a[0].broadcast(envelope(a, "behind it")))
        await end_backends(watcher, "eventstore pubsub notifier")
        with pytest.raises(DatabaseUnavailable, match="closed in the middle"):
            await sending
        await behind
        await watcher.close()
    await a[0].broadcast(envelope(a, "after"))
    assert await b[1].messages(2) == ["behind it", "after"]


async def test_a_statement_that_takes_too_long_is_given_up(
    a: Node, b: Node, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sql.transaction():
        await sql.execute("lock table eventstore.pubsub_spill")
        with monkeypatch.context() as hasty:
            hasty.setattr("eventstore.pubsub.postgres_connections.STATEMENT_WITHIN", 0.2)
            with pytest.raises(DatabaseUnavailable):
                await a[0].broadcast(envelope(a, noise(50_000)))
    await a[0].broadcast(envelope(a, "after"))
    await b[1].until(lambda: any(one.message == '"after"' for one in b[1].envelopes))


async def test_a_cancelled_broadcast_that_waits_is_left_out(a: Node, b: Node, db: str, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute("lock table eventstore.pubsub_spill")
        first = asyncio.ensure_future(a[0].broadcast(envelope(a, noise(50_000))))
        watcher = await asyncpg.connect(db)
        await waiting_for_a_lock(watcher, "eventstore pubsub notifier")
        await watcher.close()
        second, third = (asyncio.ensure_future(a[0].broadcast(envelope(a, n))) for n in (2, 3))
        await asyncio.sleep(0)
        second.cancel()
    await asyncio.gather(first, third)
    assert await b[1].messages(2) == [noise(50_000), 3]
    assert second.cancelled()


async def test_closing_ends_what_is_being_sent_after_a_second(b: Node, db: str, sql: asyncpg.Connection) -> None:
    async with node(db, "a") as a:
        async with sql.transaction():
            await sql.execute("lock table eventstore.pubsub_spill")
            messages = (noise(50_000), "behind it")
            sending = [asyncio.ensure_future(a[0].broadcast(envelope(a, each))) for each in messages]
            await asyncio.sleep(0)
            await a[0].close()
        for each in sending:
            with pytest.raises(DatabaseUnavailable, match="closed"):
                await each
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await a[0].broadcast(envelope(a, "too late"))


async def test_closing_waits_for_what_is_being_sent(b: Node, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.postgres.CLOSE_WITHIN", 60.0)
    async with node(db, "a") as a:
        sending = [asyncio.ensure_future(a[0].broadcast(envelope(a, n))) for n in range(100)]
        await asyncio.sleep(0)
    await asyncio.gather(*sending)
    assert await b[1].messages(100) == list(range(100))


# -- connections


async def test_an_idle_node_has_one_connection_and_runs_nothing_but_heartbeats(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = f"select application_name {ACTIVITY} ~ 'pubsub'"
    statements: list[str] = []
    async with node(db, heartbeat_interval=0.05) as idle:
        listener, heard = listener_of(idle), Counter[str]()
        monkeypatch.setattr(listener, "moments", Counting(heard))
        listener._live._connection.add_query_logger(lambda record: statements.append(record.query))
        began = monotonic()
        for _ in range(3):
            await listener.moments.next("heard")
        await connected(sql, 1)
        most = (monotonic() - began) / (0.8 * 0.05) + 2
        assert [row[0] for row in await sql.fetch(names)] == ["eventstore pubsub listener"]
    assert all("pg_notify" in one for one in statements)
    assert abs(len(statements) - heard["heard"]) <= 1  # one may be on its way at either end
    assert len(statements) <= most


class Counting(Moments):
    """Moments that are counted."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def reach(self, name: str, value: Any = None) -> None:
        self._counts[name] += 1
        super().reach(name, value)


def listener_of(of: Node) -> Any:
    assert of[0]._running is not None
    return of[0]._running._listener


async def test_a_second_connection_is_opened_by_the_first_broadcast(a: Node, sql: asyncpg.Connection) -> None:
    for _ in range(3):
        await a[0].broadcast(envelope(a, 1))
        await connected(sql, 2)


async def test_a_shared_listener_is_used_and_left_running(db: str, a: Node, sql: asyncpg.Connection) -> None:
    async with EventStore(db) as store:
        listener = store._signals.listener
        assert listener is not None
        before = set(listener._live.channels)  # type: ignore[union-attr]
        async with node(db, "b", listener=listener, pool_size=2) as b:
            assert len(listener._live.channels - before) == 2  # type: ignore[union-attr]
            await connected(sql, 1)  # of node a, none of node b
            await a[0].broadcast(envelope(a, "hello"))
            assert await b[1].messages(1) == ["hello"]
        assert listener.listening
        assert listener._live.channels == before  # type: ignore[union-attr]
        assert b[0]._running is None


async def test_a_shared_listener_that_does_not_listen_yet_is_not_waited_for(
    db: str, a: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(db)

    listener = Listener(connect)
    async with node(db, "b", listener=listener) as b:
        assert "not started" in caplog.text
        await listener.start()
        await listener.ready(10)
        await a[0].broadcast(envelope(a, "hello"))
        assert await b[1].messages(1) == ["hello"]
        assert b[1].states == ["reconnected"]
        await listener.stop()


async def test_nothing_is_left_behind(db: str, sql: asyncpg.Connection) -> None:
    before = len(asyncio.all_tasks())
    async with node(db, "a") as a, node(db, "b") as b:
        await a[0].broadcast(envelope(a, 1))
        await b[1].messages(1)
    assert len(asyncio.all_tasks()) == before
    await connected(sql, 0)


async def test_an_adapter_starts_again_after_it_was_closed(db: str, b: Node) -> None:
    adapter = Postgres(db, node_name="a")
    for n in (1, 2):
        inbox = Inbox()
        await adapter.start(inbox)
        with pytest.raises(AlreadyStarted):
            await adapter.start(inbox)
        await adapter.broadcast(envelope((adapter, inbox), n))
        assert adapter.counters["sent"] == 1
        await adapter.close()
        await adapter.close()
    assert await b[1].messages(2) == [1, 2]


# -- engines


async def test_an_engine_brings_its_connections_and_gets_them_back(db: str, b: Node, sql: asyncpg.Connection) -> None:
    arguments = {"server_settings": {"application_name": "an application"}}
    url = db.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, connect_args=arguments, pool_size=2, max_overflow=0)
    for n in (1, 2):
        async with node(engine, "a") as a:
            await a[0].broadcast(envelope(a, noise(20_000)))
            await b[0].broadcast(envelope(b, n))
            assert await a[1].messages(1) == [n]
            await end_backends(sql, "an application")
            await a[1].until(lambda inbox=a[1]: inbox.states == ["lost", "reconnected"])
            await a[0].broadcast(envelope(a, n))
        assert engine.pool.checkedout() == 0
    assert await b[1].messages(4) == [noise(20_000), 1, noise(20_000), 2]
    await engine.dispose()


async def test_a_session_of_an_engine_broadcasts_in_its_transaction(db: str, a: Node, b: Node) -> None:
    engine = create_async_engine(db.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session:
        await a[0].broadcast_in(session, envelope(a, "never"))
        await session.rollback()
        await a[0].broadcast_in(session, envelope(a, noise(20_000)))
        await session.commit()
    async with engine.begin() as connection:
        await a[0].broadcast_in(connection, envelope(a, 2))
    assert await b[1].messages(2) == [noise(20_000), 2]
    await engine.dispose()


@pytest.mark.parametrize("kind", ["dsn", "engine"])
async def test_a_start_that_is_cancelled_leaves_nothing_open(db: str, sql: asyncpg.Connection, kind: str) -> None:
    url = db.replace("postgresql://", "postgresql+asyncpg://")
    arguments = {"server_settings": {"application_name": "pubsub"}}
    engine = create_async_engine(url, connect_args=arguments, poolclass=NullPool)
    before = len(asyncio.all_tasks())
    for spins in (0, 1, 5, 20, *range(100, 2000, 150)):
        adapter = Postgres(engine if kind == "engine" else db, node_name="a")
        starting = asyncio.ensure_future(adapter.start(Inbox()))
        for _ in range(spins):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await adapter.close()
    assert len(asyncio.all_tasks()) == before
    await connected(sql, 0)


@pytest.mark.parametrize("steps", range(12))
async def test_a_start_that_is_cancelled_again_while_it_gives_up_leaves_nothing_open(
    db: str, sql: asyncpg.Connection, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def never(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Listener, "ready", never)
    before = len(asyncio.all_tasks())
    starting = asyncio.ensure_future(Postgres(db, node_name="a").start(Inbox()))
    await waiting.wait()
    starting.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert len(asyncio.all_tasks()) == before
    await connected(sql, 0)


async def test_an_engine_without_a_server_is_named(db: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://me:secret@localhost:1/nothing")
    with pytest.raises(DatabaseUnavailable, match=r"cannot connect to postgresql\+asyncpg://me:\*\*\*@localhost"):
        async with node(engine):
            pass
    await engine.dispose()


async def test_a_dsn_without_a_server_is_named() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect to postgresql://localhost:1/nothing"):
        async with node("postgresql+asyncpg://localhost:1/nothing"):
            pass


@pytest.mark.parametrize("given", [None, 5, "redis://localhost", object()])
def test_what_is_neither_an_engine_nor_a_dsn_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"postgresql\+asyncpg://"):
        Postgres(given, node_name="a")


def test_an_engine_of_another_driver_is_refused(db: str) -> None:
    with pytest.raises(ConfigurationError, match="not over psycopg"):
        Postgres(create_async_engine("postgresql+psycopg://localhost/x"), node_name="a")


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_node_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="node_name"):
        Postgres("postgresql://", node_name=name)


# -- tables


async def test_adapters_that_start_at_once_on_an_empty_schema_understand_each_other(db: str) -> None:
    async with AsyncExitStack() as stack:
        names = "abcdefgh"
        opening = [stack.enter_async_context(node(db, name, schema="fresh start")) for name in names]
        nodes = await asyncio.gather(*opening)
        await asyncio.gather(*(each[0].broadcast(envelope(each, each[0].node_name)) for each in nodes))
        for each in nodes:
            own = each[0].node_name
            assert sorted(await each[1].messages(7)) == sorted(set(names) - {own})


COLUMNS = """
    select c.relname, c.relpersistence::text, a.attname, a.attnotnull, format_type(a.atttypid, a.atttypmod),
           pg_get_expr(d.adbin, d.adrelid), (select string_agg(pg_get_constraintdef(oid), ',') from pg_constraint
           where conrelid = c.oid and contype = 'p')
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = $1::regnamespace and c.relname in ('pubsub_keys', 'pubsub_spill') order by 1, 3
"""


async def test_tables_made_at_the_start_are_those_of_the_migration(db: str, sql: asyncpg.Connection) -> None:
    async with node(db, schema="other"):
        made = [tuple(row) for row in await sql.fetch(COLUMNS, "other")]
    assert made == [tuple(row) for row in await sql.fetch(COLUMNS, "eventstore")]
    assert len(made) == 5


async def test_a_store_moves_into_a_schema_that_pubsub_made(db: str) -> None:
    async with node(db, schema="other"):
        await EventStore.migrate(db, schema="other")
    async with EventStore(db, schema="other") as store:
        assert await store.head() == 0


@asynccontextmanager
async def role(sql: asyncpg.Connection, db: str) -> AsyncIterator[str]:
    name = f"guest_{uuid4().hex}"  # roles belong to all databases of a server
    await sql.execute(f"create role {name} login")
    try:
        yield db.replace("//postgres@", f"//{name}@")
    finally:
        await sql.execute(f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("schema", ["eventstore", "missing"])
async def test_a_role_without_rights_is_told_the_sql_that_grants_them(
    db: str, sql: asyncpg.Connection, schema: str
) -> None:
    async with role(sql, db) as dsn:
        with pytest.raises(ConfigurationError, match="permission denied") as told:
            await Postgres(dsn, node_name="a", schema=schema).start(Inbox())
        await sql.execute(str(told.value).partition(":\n")[2])
        async with node(dsn, "a", schema=schema) as a, node(dsn, "b", schema=schema) as b:
            await a[0].broadcast(envelope(a, noise(20_000)))
            assert await b[1].messages(1) == [noise(20_000)]


async def test_expired_bodies_are_deleted_at_the_start_and_by_nodes_that_store_some(
    db: str, sql: asyncpg.Connection
) -> None:
    now = 0.0
    await sql.execute(OLD, BATCH - 1)
    async with node(db, "a", clock=lambda: now) as a:
        assert await sql.fetchval("select count(*) from eventstore.pubsub_spill") == 0
        await sql.execute(OLD, 1_200)
        await a[0].broadcast(envelope(a, noise(20_000)))
        assert await sql.fetchval("select count(*) from eventstore.pubsub_spill") == 1_201
        now, purged = 31.0, a[0].moments.next("purged")
        await a[0].broadcast(envelope(a, noise(20_000)))
        await purged
        assert await sql.fetchval("select count(*) from eventstore.pubsub_spill") == 2


OLD = """
    insert into eventstore.pubsub_spill (id, body, created_at)
    select gen_random_uuid(), '', clock_timestamp() - interval '61 s' from generate_series(1, $1)
"""


async def test_a_start_leaves_most_of_many_expired_bodies_for_later(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute(OLD, 10 * BATCH)
    adapter, batches = Postgres(db, node_name="a"), 0
    purge = adapter._tables.purge

    async def counted(connection: Any) -> bool:
        nonlocal batches
        batches += 1
        return await purge(connection)

    monkeypatch.setattr(adapter._tables, "purge", counted)
    purged = adapter.moments.next("purged")
    await adapter.start(Inbox())
    assert batches == 1
    await asyncio.wait_for(purged, 60)
    assert await sql.fetchval("select count(*) from eventstore.pubsub_spill") == 0
    await adapter.close()


async def test_whoever_sends_during_a_purge_gets_the_connection_after_a_batch(
    a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, batches = asyncio.Event(), 0

    async def endless(_: Any) -> bool:
        nonlocal batches
        batches += 1
        begun.set()
        await asyncio.sleep(0)
        return True

    running = a[0]._running
    assert running is not None
    monkeypatch.setattr(running._tables, "purge", endless)
    running.purge()
    await begun.wait()
    await a[0].broadcast(envelope(a, 1))
    assert batches < 50


async def test_a_purge_that_takes_long_does_not_fail_the_start(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.pubsub.postgres.PURGE_WITHIN", 0.01)
    async with node(db, "a"):  # makes the key
        pass
    async with sql.transaction():
        await sql.execute("lock table eventstore.pubsub_spill")
        async with node(db, "b") as b:
            assert b[0]._running is not None


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_transaction_of_another_database_is_refused(db: str, a: Node, size: int) -> None:
    elsewhere = await asyncpg.connect(db, database="postgres")
    try:
        async with elsewhere.transaction():
            with pytest.raises(ConfigurationError, match="another database"):
                await a[0].broadcast_in(elsewhere, envelope(a, noise(size)))
            assert await elsewhere.fetchval("select 1") == 1
    finally:
        await elsewhere.close()


async def test_without_create_a_schema_is_not_made_of_a_mistyped_name(db: str, sql: asyncpg.Connection) -> None:
    with pytest.raises(ConfigurationError, match="mistyped"):
        async with node(db, schema="mistyped", create=False):
            pass
    assert await sql.fetchval("select to_regnamespace('mistyped') is null")
