"""PubSub between processes, and through lost connections."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from eventstore.pubsub import Mailbox, Postgres, PubSub
from tests.forking import instead_of_an_interpreter
from tests.hunt.racing import times

pytestmark = pytest.mark.hunt

NODES = ("a", "b", "c")


def anomalies(me: str, received: Iterable[tuple[str, str, int]], count: int) -> dict[str, list[tuple[str, str, int]]]:
    """Name what is wrong with what *me* received: each sender's numbers are due once, in order; only its own locals."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    last: dict[tuple[str, str], int] = {}
    for sender, kind, number in received:
        before = last.get((sender, kind), -1)
        if kind == "local" and sender != me:
            found.setdefault("crossed", []).append((sender, kind, number))
        elif number > before + 1:
            found.setdefault("lost", []).append((sender, kind, number))
        elif number <= before:
            found.setdefault("duplicate or inverted", []).append((sender, kind, number))
        last[sender, kind] = max(before, number)
    due = [(sender, "cluster") for sender in NODES] + [(me, "local")]
    if missing := [(*one, last.get(one, -1)) for one in due if last.get(one, -1) != count - 1]:
        found.setdefault("lost", []).extend(missing)
    return found


@asynccontextmanager
async def node(dsn: str, name: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hunt.pubsub_node", dsn, name, str(count),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        preexec_fn=instead_of_an_interpreter("tests.hunt.pubsub_node", dsn, name, str(count)),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    assert (await process.stdout.readline()).decode().strip() == word


def tell(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def received_by(process: asyncio.subprocess.Process) -> list[tuple[str, str, int]]:
    assert process.stdout is not None
    found = []
    while (text := (await process.stdout.readline()).decode().strip()) != "done":
        sender, kind, number = json.loads(text)
        found.append((sender, kind, number))
    return found


async def test_each_node_gets_each_message_of_three_senders_once_and_in_order(db: str) -> None:
    count = times(700, 33_334)
    async with AsyncExitStack() as started, asyncio.timeout(300):
        nodes = [await started.enter_async_context(node(db, name, count)) for name in NODES]
        for word in ("ready", "sent"):
            await asyncio.gather(*(said(process, word) for process in nodes))
            for process in nodes:
                tell(process)
        received = await asyncio.gather(*map(received_by, nodes))
    assert {name: anomalies(name, some, count) for name, some in zip(NODES, received, strict=True)} == {
        name: {} for name in NODES
    }


def whole(me: str, count: int) -> list[tuple[str, str, int]]:
    return [(sender, "cluster", n) for n in range(count) for sender in NODES] + [(me, "local", n) for n in range(count)]


@pytest.mark.parametrize(
    ("spoiled", "anomaly"),
    [
        (lambda all_: all_[:-1], "lost"),
        (lambda all_: all_[:4] + all_[5:], "lost"),
        (lambda all_: [*all_, all_[0]], "duplicate or inverted"),
        (lambda all_: [*all_, ("b", "local", 0)], "crossed"),
    ],
)
def test_the_checker_notices(spoiled: object, anomaly: str) -> None:
    assert anomalies("a", whole("a", 10), 10) == {}
    assert anomaly in anomalies("a", spoiled(whole("a", 10)), 10)  # type: ignore[operator]


async def test_a_listener_cut_again_and_again_comes_back_and_hears_what_comes_later(
    db: str, sql: asyncpg.Connection
) -> None:
    async with (
        PubSub("cut", Postgres(db, node_name="sender")) as sender,
        PubSub("cut", Postgres(db, node_name="receiver")) as receiver,
        asyncio.timeout(300),
    ):
        heard: Mailbox[str] = Mailbox(100_000)
        receiver.subscribe("load", heard)
        load = asyncio.create_task(_load(sender))
        try:
            for number in range(times(5, 50)):
                back = receiver.moments.next("reconnected")
                await sql.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'"
                    " and datname = current_database()"
                )
                await back
                await sender.broadcast("load", f"marker {number}")
                async for message in heard:
                    if message == f"marker {number}":
                        break
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


async def _load(sender: PubSub) -> None:
    while True:
        await sender.broadcast("load", "load")
