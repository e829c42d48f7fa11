"""One connection that listens and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from eventstore.errors import DatabaseUnavailable
from eventstore.listening import Listener

OPEN = "select pid from pg_stat_activity where application_name = 'under test'"


class Heard:
    """A callback that keeps payloads."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, payload: str) -> None:
        self.payloads.append(payload)
        self._changed.set()

    async def until(self, payloads: list[str]) -> None:
        async with asyncio.timeout(60):
            while self.payloads != payloads:
                self._changed.clear()
                await self._changed.wait()


def connecting(dsn: str) -> Callable[[], Awaitable[Any]]:
    async def connect() -> Any:
        return await asyncpg.connect(dsn, server_settings={"application_name": "under test"})

    return connect


@asynccontextmanager
async def started(connect: Callable[[], Awaitable[Any]], **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(connect, **options)
    await listener.start()
    try:
        await listener.ready(60)
        yield listener
    finally:
        await listener.stop()


async def notify(sql: asyncpg.Connection, channel: str, *payloads: str) -> None:
    for payload in payloads:
        await sql.execute("select pg_notify($1, $2)", channel, payload)


async def end_backend(sql: asyncpg.Connection) -> None:
    await sql.execute(f"select pg_terminate_backend(pid) from ({OPEN}) found")


async def test_each_callback_of_a_channel_hears_its_payloads_in_order(db: str, sql: asyncpg.Connection) -> None:
    one, two, other = Heard(), Heard(), Heard()
    async with started(connecting(db)) as listener:
        await asyncio.gather(listener.listen("a", one), listener.listen("a", two), listener.listen("b", other))
        await notify(sql, "a", "1", "2")
        await notify(sql, "b", "3")
        await one.until(["1", "2"])
        await two.until(["1", "2"])
        await other.until(["3"])


async def test_a_channel_asked_for_before_the_start_is_heard(db: str, sql: asyncpg.Connection) -> None:
    heard, listener = Heard(), Listener(connecting(db))
    await listener.listen("a", heard)
    await listener.start()
    await listener.ready(60)
    await notify(sql, "a", "1")
    await heard.until(["1"])
    await listener.stop()


async def test_the_last_callback_takes_the_listen_along(db: str, sql: asyncpg.Connection) -> None:
    one, two = Heard(), Heard()
    async with started(connecting(db)) as listener:
        await listener.listen("a", one)
        await listener.listen("a", two)
        await listener.unlisten("a", one)
        await notify(sql, "a", "1")
        await two.until(["1"])
        await listener.unlisten("a", two)
        assert one.payloads == []
        connection: Any = listener._live and listener._live._connection
        assert [row[0] for row in await connection.fetch("select pg_listening_channels()")] == [listener._own]


async def test_every_channel_is_listened_on_again_before_the_reconnection_is_announced(
    db: str, sql: asyncpg.Connection
) -> None:
    heard, states = Heard(), Heard()
    async with started(connecting(db)) as listener:
        listener.on_state(states)  # type: ignore[arg-type]
        for channel in "abc":
            await listener.listen(channel, heard)
        for n in range(1, 4):
            again = listener.moments.next("listening")
            await end_backend(sql)
            await asyncio.wait_for(again, 60)
            assert states.payloads == ["lost", "reconnected"] * n
            for channel in "abc":
                await notify(sql, channel, channel)
            await heard.until(list("abc") * n)


async def test_the_first_time_and_the_end_are_announced_as_well(db: str) -> None:
    states: list[str] = []
    listener = Listener(connecting(db))
    forget = listener.on_state(states.append)
    for _ in range(2):
        await listener.start()
        await listener.ready(60)
        await listener.stop()
    forget()
    await listener.start()
    await listener.stop()
    assert states == ["listening", "lost"] * 2


async def test_a_callback_that_raises_is_logged_and_breaks_nothing(
    db: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError

    heard = Heard()
    listener = Listener(connecting(db))
    listener.on_state(fail)
    await listener.listen("a", fail)
    await listener.listen("a", heard)
    await listener.start()
    await listener.ready(60)
    await notify(sql, "a", "1", "2")
    await heard.until(["1", "2"])
    await listener.stop()
    assert sum("failed" in record.message for record in caplog.records) == 4  # 2 payloads, 2 states


async def test_a_connection_that_hears_nothing_is_replaced(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(connecting(db), heartbeat_interval=0.05) as listener:
        [before] = [row[0] for row in await sql.fetch(OPEN)]
        again = listener.moments.next("listening")
        await listener.moments.next("heard")
        monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)
        listener._own = "somewhere_else"
        await asyncio.wait_for(again, 60)
        assert [row[0] for row in await sql.fetch(OPEN)] != [before]


async def test_heartbeats_use_the_listening_connection(db: str, sql: asyncpg.Connection) -> None:
    async with started(connecting(db), heartbeat_interval=0.05) as listener:
        for _ in range(3):
            await asyncio.wait_for(listener.moments.next("heard"), 60)
            assert len(await sql.fetch(OPEN)) == 1


class Pooled:
    """A connection as a pooler in transaction mode lends it: only what its own statements cause comes through."""

    def __init__(self, connection: asyncpg.Connection, deaf: bool) -> None:
        self._connection, self._deaf = connection, deaf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def get_server_pid(self) -> int:
        return -1

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        own = self._connection.get_server_pid()

        def hear(connection: Any, pid: int, channel: str, payload: object) -> None:
            if not self._deaf or pid == own:
                callback(connection, pid, channel, payload)

        await self._connection.add_listener(channel, hear)


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_pooler_that_lets_only_own_signals_through_is_noticed(
    db: str, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.listening.HEARD_WITHIN", 0.5)

    async def connect() -> Any:
        return Pooled(await asyncpg.connect(db), deaf)

    listener = Listener(connect)
    await listener.start()
    if deaf:
        async with asyncio.timeout(60):
            while "Behind a pooler in transaction mode" not in await why_not_ready(listener):
                pass
    else:
        await listener.ready(60)
    await listener.stop()


async def why_not_ready(listener: Listener) -> str:
    with pytest.raises(DatabaseUnavailable) as refused:
        await listener.ready(1)
    return str(refused.value)


async def test_an_unreachable_server_is_tried_again_and_named(db: str) -> None:
    attempts = 0

    async def connect() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise DatabaseUnavailable("not yet")
        return await asyncpg.connect(db)

    async with started(connect):
        assert attempts == 4


async def test_one_that_does_not_listen_says_why() -> None:
    async def connect() -> Any:
        raise DatabaseUnavailable("no such server")

    listener = Listener(connect)
    with pytest.raises(DatabaseUnavailable, match="not started"):
        await listener.ready(60)
    await listener.start()
    with pytest.raises(DatabaseUnavailable, match="no such server"):
        await listener.ready(0.2)
    await listener.stop()


async def test_a_cancelled_listen_leaves_the_connection_and_the_others_alone(db: str, sql: asyncpg.Connection) -> None:
    heard, dropped = Heard(), Heard()
    async with started(connecting(db)) as listener:
        await listener.listen("a", heard)
        states = Heard()
        listener.on_state(states)  # type: ignore[arg-type]
        for spins in range(6):
            listening = asyncio.ensure_future(listener.listen(f"b{spins}", dropped))
            for _ in range(spins):
                await asyncio.sleep(0)
            listening.cancel()
            await asyncio.wait([listening])
            await notify(sql, f"b{spins}", "never" if listening.cancelled() else "heard")
        await notify(sql, "a", "1")
        await heard.until(["1"])
        assert states.payloads == []
        assert "never" not in dropped.payloads


async def test_nothing_is_left_behind(db: str, sql: asyncpg.Connection) -> None:
    before = len(asyncio.all_tasks())
    for spins in (0, 1, 5, 50):
        listener = Listener(connecting(db), heartbeat_interval=0.01)
        await listener.start()
        for _ in range(spins):
            await asyncio.sleep(0.001)
        await listener.stop()
    assert len(asyncio.all_tasks()) == before
    async with asyncio.timeout(60):
        while await sql.fetch(OPEN):
            await asyncio.sleep(0.01)
