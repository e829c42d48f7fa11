"""Connections that fall silent, slow down or break within a message: nobody waits for ever, nothing is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import All, DatabaseUnavailable, Delivery, Event, EventStore, NewEvent, OutcomeUnknown, Settings
from eventstore.errors import BroadcastError, EventStoreError
from eventstore.listening import Listener
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.checker import check
from tests.hunt.journal import Entry
from tests.hunt.proxy import Link, Proxy, proxied
from tests.hunt.racing import FULL, SEED, left_behind, locked, times, until, waiting_for_locks

pytestmark = pytest.mark.hunt


# -- listeners

NODES, ROUNDS = times(3, 10), times(1, 5)
DEFAULTS = Settings(connections=3)


class Listening:
    """A node, and when it got which event."""

    def __init__(self, store: EventStore) -> None:
        self.store, self.got = store, dict[int, float]()

    async def read(self) -> None:
        async with self.store.listen(after=0) as events:
            async for event in events:
                self.got.setdefault(event.position, time.monotonic())


@asynccontextmanager
async def listening(dsn: str, settings: Settings) -> AsyncIterator[list[Listening]]:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(EventStore(dsn, settings=settings)) for _ in range(NODES)]
        nodes = [Listening(store) for store in stores]
        tasks = [asyncio.create_task(node.read()) for node in nodes]
        stack.push_async_callback(asyncio.wait, tasks)
        for task in tasks:
            stack.callback(task.cancel)
        yield nodes


def all_listen(nodes: list[Listening]) -> bool:
    return all(node.store._signals.listening for node in nodes)


async def silence(proxy: Proxy, nodes: list[Listening], within: float = 60) -> float:
    """Let the listening connections that all nodes have fall silent; return when the last of them was given up."""
    async with asyncio.timeout(within):
        # A connection that a busy machine made pass for silent may not have gone yet.
        while len(links := proxy.links("listener")) != len(nodes) or not all_listen(nodes):
            await asyncio.sleep(0.001)
    lost = [node.store._signals.moments.next("lost") for node in nodes]
    began = time.monotonic()
    for link in links:
        link.stalled = True
    async with asyncio.timeout(within):
        await asyncio.gather(*lost)
    return time.monotonic() - began


async def test_listeners_that_fall_silent_are_replaced_and_cost_no_more_than_polling(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DEFAULTS if FULL else replace(QUICK, heartbeat_interval=0.5)
    if not FULL:
        monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)
    noticed, appended = list[float](), dict[int, float]()
    enough = asyncio.Event()

    async def append(store: EventStore) -> None:
        while not enough.is_set():
            result = await store.append("s", [NewEvent("T")])
            appended[result.position] = time.monotonic()
            await asyncio.sleep(0.1)

    async with (
        proxied(db) as proxy,
        EventStore(db, settings=settings) as writer,
        listening(proxy.dsn, settings) as nodes,
    ):
        load = asyncio.create_task(append(writer))
        for _ in range(ROUNDS):
            noticed.append(await silence(proxy, nodes))
        enough.set()
        await load
        for node in nodes:
            await until(lambda node=node: appended.keys() <= node.got.keys())  # type: ignore[misc]
    delays = [node.got[position] - at for node in nodes for position, at in appended.items()]
    assert max(noticed) <= times(60, 15)
    assert max(delays) <= times(60, 1.2 * settings.poll_interval + 0.3)
    note(
        silenced=NODES * ROUNDS, at_once=NODES, noticed_within_s=round(max(noticed), 1), events=len(appended),
        poll_interval_s=settings.poll_interval, longest_delay_s=round(max(delays), 2), missed=0,
    )  # fmt: skip


async def asks_for_no_sign_of_life(_: Listener, live: Any) -> None:
    await live.ended.wait()


async def does_not_come_back(listener: Listener, healthy: Callable[[], None]) -> None:
    if listener._known:
        await asyncio.Event().wait()
    await LISTEN_ONCE(listener, healthy)


async def silence_twice(proxy: Proxy, nodes: list[Listening]) -> None:
    for _ in range(2):
        await silence(proxy, nodes, within=3)


LISTEN_ONCE = Listener._listen_once


@pytest.mark.parametrize(
    ("method", "planted"), [("_watch", asks_for_no_sign_of_life), ("_listen_once", does_not_come_back)]
)
async def test_a_listener_that_stays_deaf_is_told(
    db: str, monkeypatch: pytest.MonkeyPatch, method: str, planted: Any
) -> None:
    monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)
    monkeypatch.setattr(Listener, method, planted)
    async with proxied(db) as proxy, listening(proxy.dsn, replace(QUICK, heartbeat_interval=0.5)) as nodes:
        with pytest.raises(TimeoutError):
            await silence_twice(proxy, nodes)


# -- single connections


async def test_a_caller_who_gives_up_on_a_silent_connection_of_his_own_is_free(
    db: str, store: EventStore, sql: asyncpg.Connection
) -> None:
    await store.append("s", [NewEvent("T")])
    async with proxied(db) as proxy, locked(db, "s"):
        own = await asyncpg.connect(proxy.dsn)
        await own.execute("begin")
        append = asyncio.create_task(store.append("s", [NewEvent("T")], connection=own))
        await waiting_for_locks(sql)
        (link,) = proxy.links("lent")
        link.stalled = True
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(append, 120)
        assert own.is_closed()


async def test_a_node_whose_connections_fall_silent_goes_on_with_others(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.answers.WAITED", 1.0)
    async with proxied(db) as proxy, EventStore(db) as direct, EventStore(proxy.dsn, settings=QUICK) as store:
        handled: asyncio.Queue[int] = asyncio.Queue()

        @store.handler("h", All())
        async def handle(event: Event, delivery: Delivery) -> None:
            await handled.put(event.position)

        running = asyncio.create_task(store.run(handle_sigterm=False))
        await direct.append("s", [NewEvent("T")])
        assert await asyncio.wait_for(handled.get(), 60) == 1
        for link in proxy.links():
            link.stalled = True
        await direct.append("s", [NewEvent("T")])
        while await asyncio.wait_for(handled.get(), 60) < 2:
            pass
        running.cancel()
        await asyncio.wait([running])


# -- all connections

LIMIT = 10.0
"""Seconds that a call may take, by its own timeout."""

GRACE = times(60.0, 5.0)
"""Seconds after its timeout in which a call has ended: a cancelled query has two, then its connection is cut."""

KINDS = ("cut", "stall", "slow", "reset")


def harm(link: Link, kind: str, rng: random.Random) -> None:
    """Do it to the connection, after a number of bytes that lies in the middle of something."""
    match kind:
        case "cut":
            link.left = rng.randrange(1, 3_000)
        case "stall":
            link.left, link.stalls = rng.randrange(1, 3_000), True
        case "slow":
            link.slow = True
        case "reset":
            link.cut()


class Work:
    """Everything a node does, through the proxy, and what came of it.

    Attributes:
        slowest: seconds that a call took, by its name.
    """

    def __init__(self, store: EventStore, dsn: str) -> None:
        self.store, self.dsn = store, dsn
        self.history = list[Entry]()
        self.slowest: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.handled = set[str]()
        self.enough = asyncio.Event()
        self.callers, self.others = list[asyncio.Task[None]](), list[asyncio.Task[None]]()

    async def timed(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        """Run a call that has a timeout, and note how long it took."""
        began = time.monotonic()
        try:
            return await call
        finally:
            self.slowest[name] = max(self.slowest[name], time.monotonic() - began)  # type: ignore[assignment]

    async def append(self, name: str) -> None:
        number = 0
        while not self.enough.is_set():
            number, event = number + 1, NewEvent("T")
            stream, position, version = f"{name}-{number % 3}", 0, 0
            try:
                result = await self.timed("append", self.store.append(stream, [event], timeout=LIMIT))
                outcome, position, version = "ok", result.position, result.version
            except (OutcomeUnknown, TimeoutError):
                outcome = "unknown"
            except DatabaseUnavailable:
                outcome = "fail"
            self.outcomes[outcome] += 1
            self.history.append(Entry("append", name, outcome, str(event.id), position, stream, version))  # type: ignore
            await asyncio.sleep(0.01)

    async def append_in_own_transactions(self) -> None:
        while not self.enough.is_set():
            with suppress(EventStoreError, TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self.timed("lent", self.lent())
            await asyncio.sleep(0.01)

    async def lent(self) -> None:
        connection = await asyncpg.connect(self.dsn, timeout=LIMIT)
        try:
            async with asyncio.timeout(LIMIT):
                async with connection.transaction():
                    await self.store.append(None, [NewEvent("T")], connection=connection)
        finally:
            connection.terminate()

    async def broadcast(self) -> None:
        while not self.enough.is_set():
            with suppress(BroadcastError, DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(LIMIT):
                    await self.timed("broadcast", self.store.pubsub.broadcast("topic", 1))
            await asyncio.sleep(0.05)

    async def listen(self) -> None:
        last = 0
        while True:
            with suppress(DatabaseUnavailable):
                async with self.store.listen(after=last) as events:
                    async for one in events:
                        last = one.position
                        where = (one.position, one.stream or "", one.version or 0)
                        self.history.append(Entry("read", "reader", "ok", str(one.id), *where))
            await asyncio.sleep(0.05)

    async def stored(self, store: EventStore) -> set[str]:
        """Note what the log holds; return its ids."""
        async for one in store.read_all():
            where = (one.position, one.stream or "", one.version or 0)
            self.history.append(Entry("stored", "log", "ok", str(one.id), *where))
        return {entry.id for entry in self.history if entry.kind == "stored"}


@asynccontextmanager
async def working(store: EventStore, dsn: str) -> AsyncIterator[Work]:
    """Let a node work for as long as the block runs; what listens and handles goes on a little longer."""
    work = Work(store, dsn)

    @store.handler("handled", All(), pool_size=2)
    async def handle(event: Event, delivery: Delivery) -> None:
        work.handled.add(str(event.id))

    @store.projection("counted", All())
    async def count(events: list[Event], tx: asyncpg.Connection) -> None:
        await tx.executemany("insert into counted values ($1)", [(one.id,) for one in events])

    work.callers = [asyncio.create_task(work.append(f"writer {n}")) for n in range(times(4, 12))]
    work.callers += [asyncio.create_task(one()) for one in (work.append_in_own_transactions, work.broadcast)]
    others = work.others = [asyncio.create_task(work.listen()), asyncio.create_task(store.run(handle_sigterm=False))]
    try:
        await asyncio.wait_for(store.started(), 60)  # a node that cannot even begin ends
        yield work
    finally:
        for task in (*work.callers, *others):
            task.cancel()
        await asyncio.wait([*work.callers, *others])


async def finished(work: Work, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():
            for task in work.others:
                assert not task.done(), task.exception()
            await asyncio.sleep(0.05)


async def test_faults_at_random_bytes_outlast_no_timeout_and_lose_nothing(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not FULL:
        monkeypatch.setattr("eventstore.answers.WAITED", 1.0)
    faults, rng, done = times(12, 500), random.Random(SEED), Counter[str]()
    await sql.execute("create table counted (id uuid primary key)")
    settings = replace(QUICK, append_timeout=5.0, connect_timeout=3.0)
    async with proxied(db, tcp=True) as proxy, EventStore(db) as direct:
        async with EventStore(proxy.dsn, settings=settings) as store, working(store, proxy.dsn) as work:
            async with asyncio.timeout(times(400, 900)):
                while done.total() < faults:
                    if links := [one for one in proxy.links() if one.left is None and not (one.stalled or one.slow)]:
                        link, kind = rng.choice(sorted(links, key=lambda one: one.role)), rng.choice(KINDS)
                        harm(link, kind, rng)
                        done[link.role] += 1
                    await asyncio.sleep(rng.random() * 0.4)
            work.enough.set()
            await asyncio.wait(work.callers)
            for link in proxy.links():
                link.slow = False  # who is silent stays silent
            stored = await work.stored(direct)
            await finished(work, lambda: stored <= {one.id for one in work.history if one.kind == "read"})
            await finished(work, lambda: stored <= work.handled)
            await direct.subscriptions.wait_for("counted", await direct.head(), timeout=120)  # its own may still break
            restored = await left_behind(store, sql)
    assert check(work.history) == {}, f"HUNT_SEED={SEED}"
    assert {str(row["id"]) for row in await sql.fetch("select id from counted")} == stored
    assert restored == []
    assert max(work.slowest.values()) <= LIMIT + GRACE, work.slowest
    note(
        faults=faults, **done, events=len(stored), unknown=work.outcomes["unknown"],
        slowest_call_s=round(max(work.slowest.values()), 1), timeout_s=LIMIT, anomalies=0,
    )  # fmt: skip
