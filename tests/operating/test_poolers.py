"""Nodes behind PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import asyncpg
import httpx
import pytest

from eventstore import (
    All,
    DatabaseUnavailable,
    Delivery,
    Event,
    EventStore,
    FailurePolicy,
    NewEvent,
    Settings,
)
from eventstore.dashboard import dashboard
from eventstore.database import Database
from eventstore.errors import BroadcastError, ConfigurationError
from eventstore.pubsub import Postgres, PubSub
from eventstore.servers import SERVED_BY, Server
from eventstore.subscriptions.ledger import Ledger
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt import test_missed_events as missing
from tests.hunt.checker import check
from tests.hunt.delivering import Hunt, Node, hunting
from tests.hunt.journal import Entry, Journal, entries
from tests.hunt.racing import FULL, SEED, times
from tests.hunt.subscription_node import Plan
from tests.hunt.test_subscription_nodes import FOLDED, MISFOLDED
from tests.operating.pgbouncer import POOL, PgBouncer, pgbouncer

LEFT_BEHIND = """
select 'a lock ' || locktype from pg_locks
 where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
union all
select 'open since ' || xact_start || ': ' || query from pg_stat_activity
 where datname = current_database() and state like 'idle in transaction%'
"""
EVERY_BACKEND = """
select 'prepared ' || name from pg_prepared_statements
union all select 'listens on ' || channel from pg_listening_channels() channel
union all select 'set ' || name from pg_settings
           where setting is distinct from reset_val and source = 'session'
             and name not in ('application_name', 'client_encoding', 'TimeZone', 'DateStyle')
"""


async def left_behind(pooled: str, sql: asyncpg.Connection) -> list[str]:
    """What is held in the database, or lies about on the pooler's backends, all of which are looked at."""
    backends = await sql.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and application_name <> 'emptying'"
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while await sql.fetch(LEFT_BEHIND):  # a session that was cut ends a moment later
                await asyncio.sleep(0.01)
    found = [row[0] for row in await sql.fetch(LEFT_BEHIND)]
    # Who was connected directly may not have gone yet.
    looking = [await asyncpg.connect(pooled, statement_cache_size=0) for _ in range(min(backends, POOL))]
    for one in looking:  # each keeps its backend until all were looked at
        await one.execute("begin")
        found += [row[0] for row in await one.fetch(EVERY_BACKEND)]
    for one in looking:
        await one.close()
    return found


# -- what a node finds out


async def test_a_pooler_is_found_out_and_nothing_is_prepared(pooled: str, db: str) -> None:
    async with EventStore(pooled, settings=QUICK) as store, EventStore(db, settings=QUICK) as direct:
        way = store.database.way
        assert (way.pooled, way.moves, way.cache) == (True, True, 0)
        assert (direct.database.way.pooled, direct.database.way.cache) == (False, 100)


async def test_in_session_mode_everything_stays_as_it_is_but_the_cache(db: str) -> None:
    try:
        with pgbouncer(db, "session") as bouncer:
            async with EventStore(bouncer.dsn(db), settings=QUICK) as store:
                assert (store.database.way.pooled, store.database.way.moves, store.database.way.cache) == (
                    True,
                    False,
                    0,
                )
                assert store._signals.listener is not None
                await store._signals.listener.ready(60)
            async with EventStore(bouncer.dsn(db), settings=replace(QUICK, statement_cache_size=50)) as store:
                assert store.database.way.cache == 50
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


async def test_a_pooler_with_a_single_backend_is_found_out_and_used(db: str) -> None:
    try:
        with pgbouncer(db, size=1) as bouncer:
            async with EventStore(bouncer.dsn(db), settings=QUICK) as store:
                assert store.database.way.moves
                await asyncio.gather(*(store.append(f"s{n}", [NewEvent("T", n)]) for n in range(20)))
                assert await store.head() == 20
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


async def test_a_pooler_in_statement_mode_is_refused_by_name(db: str) -> None:
    try:
        with pgbouncer(db, "statement") as bouncer:
            with pytest.raises(ConfigurationError, match="must be in transaction or session mode"):
                await EventStore(bouncer.dsn(db)).__aenter__()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


async def test_prepared_statements_that_are_lost_are_named_with_their_cure(pooled: str) -> None:
    async def use() -> None:
        async with asyncio.timeout(300), EventStore(pooled, settings=replace(QUICK, statement_cache_size=100)) as store:
            for number in count():
                await asyncio.gather(*(store.append(f"s{n}", [NewEvent("T", number)]) for n in range(50)))
                await asyncio.gather(*(store.head() for _ in range(50)))

    with pytest.raises(ConfigurationError, match="statement_cache_size must be 0"):
        await use()


async def test_another_isolation_level_by_default_is_refused_by_name(
    pooled: str, db: str, sql: asyncpg.Connection
) -> None:
    database = await sql.fetchval("select current_database()")
    await sql.execute(f'alter database "{database}" set default_transaction_isolation to serializable')
    with pytest.raises(ConfigurationError, match="default_transaction_isolation to 'read committed'"):
        await EventStore(pooled).__aenter__()


# -- listening


async def test_without_a_direct_dsn_a_node_polls_and_says_so(pooled: str, caplog: pytest.LogCaptureFixture) -> None:
    async with EventStore(pooled, settings=QUICK) as store:
        assert store._signals.listener is None
        assert "set listen_dsn to a direct DSN" in caplog.text
        with pytest.raises(BroadcastError, match="listen_dsn"):
            await store.pubsub.broadcast("topic", 1)


async def test_who_asked_for_polling_is_not_warned(pooled: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with EventStore(pooled, settings=replace(QUICK, listen=False)):
        assert caplog.text == ""


async def test_with_a_direct_dsn_signals_and_messages_arrive(pooled: str, db: str) -> None:
    settings = replace(QUICK, listen_dsn=db, poll_interval=600.0)
    async with EventStore(pooled, settings=settings) as one, EventStore(pooled, settings=settings) as other:
        for store in (one, other):
            assert store._signals.listener is not None
            await store._signals.listener.ready(60)
        async with other.pubsub.subscription("topic") as messages, other.listen(after=0) as events:
            await one.pubsub.broadcast("topic", "hello")
            async with asyncio.timeout(120):
                assert await messages.get() == "hello"
                await one.append("s", [NewEvent("T", 1)])
                assert (await anext(events)).data == 1


async def test_a_listen_dsn_that_leads_through_the_pooler_leaves_no_listen_behind(
    pooled: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with EventStore(pooled, settings=replace(QUICK, listen_dsn=pooled)) as store:
        assert store._signals.listener is not None
        with pytest.raises(DatabaseUnavailable, match="nothing can be listened to"):
            await store._signals.listener.ready(60)
    assert await left_behind(pooled, sql) == []


async def test_pubsub_of_its_own_is_refused_with_the_cure_and_sends_by_a_lent_listener(
    pooled: str, bouncer: PgBouncer, sql: asyncpg.Connection
) -> None:
    with pytest.raises(DatabaseUnavailable, match="set listen_dsn to a direct DSN"):
        async with PubSub("p", Postgres(pooled, node_name="n")):
            pass
    assert await left_behind(pooled, sql) == []


# -- work


@asynccontextmanager
async def running(store: EventStore) -> AsyncIterator[None]:
    task = asyncio.create_task(store.run(handle_sigterm=False))
    try:
        async with asyncio.timeout(300):
            await store.started()
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_migrating_through_it_leaves_nothing_on_its_backends(pooled: str, sql: asyncpg.Connection) -> None:
    await EventStore.migrate(pooled, schema="through it")
    async with EventStore(pooled, schema="through it", settings=QUICK) as store:
        await store.append("s", [NewEvent("T", 1)])
        assert await store.head() == 1
    assert await left_behind(pooled, sql) == []


async def test_all_that_a_node_does_works_and_leaves_nothing_behind(pooled: str, sql: asyncpg.Connection) -> None:
    await sql.execute("create table seen (position bigint primary key)")
    refusing = [True]
    async with EventStore(pooled, settings=QUICK) as store:

        @store.handler("mails", All(), pool_size=3, policy=FailurePolicy(attempts=1))
        async def mails(event: Event, delivery: Delivery) -> None:
            if refusing and event.data == 7:
                raise ValueError("not now")

        @store.projection("seen", All(), pool_size=2)
        async def seen(events: list[Event], tx: asyncpg.Connection) -> None:
            await tx.executemany("insert into seen values ($1)", [(event.position,) for event in events])

        async with running(store):
            await asyncio.gather(*(store.append(f"s{n % 9}", [NewEvent("T", n)]) for n in range(200)))
            head = await store.head()
            for name in ("seen", "mails"):
                await store.subscriptions.wait_for(name, head)
            parked = await store.subscriptions.parked("mails")
            refusing.clear()
            assert await store.subscriptions.replay_parked("mails") == len(parked) > 0
            await store.subscriptions.resize("mails", 2)
            await store.subscriptions.rewind("mails", 0)
            await store.subscriptions.wait_for("mails", head)
            assert [one.behind for one in await store.subscriptions.lag()] == [0, 0]
    assert await sql.fetchval("select count(*) from seen") == 200
    assert await left_behind(pooled, sql) == []


async def test_a_frozen_projection_behind_a_pooler_is_ended_after_a_lease(pooled: str, sql: asyncpg.Connection) -> None:
    frozen, thaw = asyncio.Event(), asyncio.Event()
    async with EventStore(pooled, settings=replace(QUICK, lease_ttl=0.5)) as store:

        @store.projection("seen", All())
        async def seen(events: list[Event], tx: asyncpg.Connection) -> None:
            if not frozen.is_set():
                frozen.set()
                await thaw.wait()

        async with running(store):
            await store.append("s", [NewEvent("T", 1)])
            await frozen.wait()
            while await sql.fetch(LEFT_BEHIND):
                await asyncio.sleep(0.01)
            thaw.set()
            await store.subscriptions.wait_for("seen", 1)
    assert await left_behind(pooled, sql) == []


def test_the_command_line_works_through_it(pooled: str, plain: Run) -> None:
    for command in (
        "migrate", "append s --type T", "read", "subscription create h", "subscription list", "subscription show h",
        "subscription rewind h --after 0 --yes", "parked list h", "streams", "nodes", "actions", "scavenge --dry-run",
    ):  # fmt: skip
        done = plain("--dsn", pooled, *command.split())
        assert done.exit_code == 0, (command, done.stderr)
    found = json.loads(plain("--dsn", pooled, "doctor", "--only", "pooler", "--json").stdout)
    assert (found["status"], "listen_dsn" in found["cure"]) == ("warn", True)


async def test_every_page_of_the_dashboard_works_through_it(pooled: str) -> None:
    async with EventStore(pooled, settings=QUICK) as store:
        await store.append("s", [NewEvent("T", 1)])
        await store.subscribe("h", All())
        transport = httpx.ASGITransport(dashboard(store))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            for page in ("", "subscriptions", "subscriptions/h", "streams", "streams/s", "events", "events/1", "nodes"):
                assert (await browser.get(f"/{page}")).status_code == 200, page


# -- another server behind the same pooler


async def test_positions_in_memory_do_not_outlive_the_server_behind_the_pooler(
    pooled: str, sql: asyncpg.Connection
) -> None:
    async with EventStore(pooled, settings=QUICK) as store, store.listen(after=0) as events:
        await store.append("s", [NewEvent("T", 1)])
        assert (await anext(events)).data == 1
        lost = asyncio.Event()
        store._control.on_lost(lost.set)
        await sql.execute("select pg_stat_reset_shared('bgwriter')")  # what a crash does as well
        await store.append("s", [NewEvent("T", 2)])
        assert (await anext(events)).data == 2
        assert lost.is_set()


async def test_nothing_is_settled_on_a_server_that_did_not_tell_the_position(
    pooled: str, sql: asyncpg.Connection
) -> None:
    async with EventStore(pooled, settings=replace(QUICK, poll_interval=60.0, lease_ttl=60.0)) as store:

        @store.handler("h", All())
        async def handle(event: Event, delivery: Delivery) -> None: ...

        async with running(store):
            await store.append("s", [NewEvent("T", 1)])
            await store.append("s", [NewEvent("T", 2)])
            await store.subscriptions.wait_for("h", 1)
            (emitter,), node = store._pools.emitters, store._pools.lease.node
            assert node is not None
            own = Database(QUICK, 1)  # the node's would also be asked by what runs in it
            await own.start(pooled, "eventstore")
            ledger = Ledger(own)
            for store_it in (ledger.settle, ledger.release):
                own._server.served_by = "another one"
                with pytest.raises(DatabaseUnavailable, match="restarted"):
                    await store_it(node, [(emitter.claim, 1000)])
            assert await sql.fetchval("select position < 1000 from eventstore.checkpoints")
            assert await ledger.settle(node, [(emitter.claim, 1000)])  # it knows the server again
            await own.stop()


async def test_a_server_that_was_restarted_behind_the_pooler_is_noticed(db: str, sql: asyncpg.Connection) -> None:
    server, lost = Server(), []
    server.on_change(lambda: lost.append(1))
    first = await sql.fetchval(f"select {SERVED_BY}")
    server.met(first)
    server.met(await sql.fetchval(f"select {SERVED_BY}"))
    assert not lost
    with pytest.raises(DatabaseUnavailable, match="restarted"):
        server.met("another one")
    assert lost


# -- hunts


async def write(store: EventStore, dsn: str, name: str, journal: Journal, rng: random.Random) -> None:
    """As `tests.hunt.test_missed_events.write`, in transactions of the caller that go through the pooler, too."""
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    for _ in range(times(12, 300)):
        event, stream = NewEvent("T", name), f"s{rng.randrange(20)}"
        if rng.random() < 0.5:
            result, outcome = await store.append(stream, [event]), "ok"
        else:
            transaction = connection.transaction()
            await transaction.start()
            result = await store.append(stream, [event], connection=connection)
            await asyncio.sleep(rng.random() * (0.25 if FULL else 0.03))
            outcome = "fail" if rng.random() < 0.2 else "ok"
            await (transaction.rollback() if outcome == "fail" else transaction.commit())
        where = (result.position, stream, result.version or 0) if outcome == "ok" else (0, "", 0)
        journal.note(Entry("append", name, outcome, str(event.id), *where))  # type: ignore[arg-type]
    await connection.close()


async def follow(dsn: str, settings: Settings, name: str, journal: Journal, written: asyncio.Event) -> None:
    async with EventStore(dsn, settings=settings) as store, store.listen(after=0) as events:
        async for event in missing.until(events, store, written):
            missing.note_read(journal, name, event.id, event.position, event.stream or "", event.version or 0)


@pytest.mark.parametrize("listening", [False, True], ids=["polling", "listening directly"])
async def test_no_reader_behind_a_pooler_misses_an_event(
    bouncer: PgBouncer, db: str, tmp_path: Path, sql: asyncpg.Connection, listening: bool
) -> None:
    pooled, path, written = bouncer.dsn(db), tmp_path / "journal.jsonl", asyncio.Event()
    settings = replace(QUICK, poll_interval=0.05, connections=4, listen_dsn=db if listening else None)
    rng, journal = random.Random(SEED), Journal(path)
    async with EventStore(pooled, settings=settings) as store, asyncio.TaskGroup() as group:
        for n in range(times(3, 8)):
            group.create_task(follow(pooled, settings, f"reader {n}", journal, written))
        async with asyncio.TaskGroup() as writers:
            for n in range(times(16, 64)):
                writers.create_task(write(store, pooled, f"writer {n}", journal, random.Random(rng.random())))
        written.set()
    journal.close()
    assert check(entries(path)) == {}, f"HUNT_SEED={SEED}"
    assert await left_behind(pooled, sql) == []
    events = await sql.fetchval("select count(*) from eventstore.events")
    note(writers=times(16, 64), readers=times(3, 8), events=events, anomalies=0)


@pytest.mark.parametrize("listening", [False, True], ids=["polling", "listening directly"])
async def test_nodes_behind_a_pooler_that_are_killed_lose_and_invert_nothing(
    bouncer: PgBouncer, db: str, tmp_path: Path, sql: asyncpg.Connection, listening: bool
) -> None:
    plan = Plan(
        run=("plain", "fold"), pool_size=4, pause=0.001, settle=0.2, lease_ttl=1.0, listen_dsn=db if listening else None
    )
    async with hunting(db, tmp_path, plan) as hunt:
        await hunt.sql.execute(FOLDED)
        hunt._dsn = bouncer.dsn(db)
        names = times("ab", "abcd")
        nodes = [await hunt.start(name) for name in names]
        await hunt.until(lambda: owns_some(hunt, nodes))
        load = asyncio.create_task(hunt.fill(times(300, 100_000), times(30, 500), pause=0.05))
        async with hunt.loaded(times(30, 500), at_once=10, pause=0.05):  # until the last kill
            for number in range(kills := times(1, 30)):
                await (asyncio.sleep(2) if FULL else hunt.settles(10))
                await nodes[number % len(names)].kill()
                nodes[number % len(names)] = await hunt.start(names[number % len(names)])
        await load
        await hunt.settled("plain", "fold", timeout=300)
        await hunt.end()
        assert await hunt.sql.fetch(MISFOLDED) == []
        assert await hunt.anomalies("plain", "fold") == {}
        note(nodes=len(names), events=hunt.appended, kills=kills, anomalies=0)
    assert await left_behind(bouncer.dsn(db), sql) == []


async def owns_some(hunt: Hunt, nodes: list[Node]) -> bool:
    return all([await hunt.owns(node) > 0 for node in nodes])
