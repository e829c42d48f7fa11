"""Connections that are dead without having ended: nobody is told, and everything goes on all the same."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, NewEvent, answers
from tests.conftest import QUICK
from tests.hunt.proxy import Proxy, proxied
from tests.hunt.racing import until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not below what a busy machine may take until a session begins with what it is asked: it passes for idle."""
    monkeypatch.setattr(answers, "WAITED", 1.5)


@pytest.fixture
def found_dead(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What was found dead, whenever there was somebody to look after."""
    found: list[set[int]] = []
    ask = answers.Answers._dead

    async def asked(self: answers.Answers, backends: list[tuple[int, bool]]) -> set[int]:
        found.append(await ask(self, backends))
        return found[-1]

    monkeypatch.setattr(answers.Answers, "_dead", asked)
    return found


@asynccontextmanager
async def opened(db: str) -> Any:
    async with asyncio.timeout(300), proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:
        yield proxy, store


def go_silent(proxy: Proxy) -> None:
    for link in proxy.links():
        link.stalled = True


async def test_an_append_gets_through(db: str) -> None:
    async with opened(db) as (proxy, store):
        await store.append("s", [NewEvent("T")])
        go_silent(proxy)
        assert (await store.append("s", [NewEvent("T")])).version == 2


async def test_once_a_connection_is_found_dead_those_that_lie_idle_are_not_waited_for_one_by_one(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(db) as (proxy, store):
        async with AsyncExitStack() as several:
            for _ in range(4):
                await several.enter_async_context(store._database.acquire())
        go_silent(proxy)
        assert (await store.append("s", [NewEvent("T")])).version == 1
        assert caplog.text.count("was dead without having ended") == 1


async def test_a_listener_hears_of_what_comes(db: str) -> None:
    async with opened(db) as (proxy, store), EventStore(db, settings=QUICK) as other, store.listen(after=0) as events:
        await other.append("s", [NewEvent("T")])
        await anext(events)
        go_silent(proxy)
        await other.append("s", [NewEvent("T")])
        assert (await anext(events)).version == 2


async def test_handlers_and_projections_go_on(db: str) -> None:
    async with opened(db) as (proxy, store), EventStore(db, settings=QUICK) as other:
        silent = asyncio.Event()

        @store.handler("plain", All())
        async def handle(event: Event, delivery: Delivery) -> None: ...

        @store.projection("folded", All())
        async def project(events: list[Event], tx: asyncpg.Connection) -> None:
            await tx.execute("select 1")
            if not silent.is_set():
                silent.set()
                go_silent(proxy)
            await tx.execute("select 1")

        async with store.running():
            position = (await other.append("s", [NewEvent("T")])).position
            for name in ("plain", "folded"):
                await other.subscriptions.wait_for(name, position, timeout=120)


async def test_who_waits_for_a_lock_is_left_alone(db: str, sql: asyncpg.Connection, found_dead: list[set[int]]) -> None:
    async with opened(db) as (_, store):
        await store.append("s", [NewEvent("T")])
        async with sql.transaction():
            await sql.execute("select from eventstore.streams for update")
            waiting = asyncio.create_task(store.append("s", [NewEvent("T")]))
            await until(lambda: len(found_dead) >= 2)
            assert not waiting.done()
        assert (await waiting).version == 2
        assert found_dead[:2] == [set(), set()]
        assert store._database.ended == 0
