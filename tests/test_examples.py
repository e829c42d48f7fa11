"""The examples do what they say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventstore import EventStore
from eventstore.pubsub import Mailbox

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def serving(app: str, dsn: str) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """Run *app* in a process of its own, until the block ends; yields its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", app, "--port", "0", "--timeout-graceful-shutdown", "1",
        cwd=ROOT, env={**os.environ, "EVENTSTORE_DSN": dsn}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        while not (found := re.search(rb"Uvicorn running on \S+:(\d+)", line := await process.stderr.readline())):
            assert line, "the server ended before it ran"
        yield int(found[1]), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def opened(port: int, request: str, body: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def event(reader: asyncio.StreamReader, kind: str, data: Any) -> None:
    """Return when the stream has brought that event."""
    async with asyncio.timeout(120):
        while True:
            line = (await reader.readline()).decode()
            assert line, "the stream ended"
            if line.strip() == f"event: {kind}":
                found = json.loads((await reader.readline()).decode().removeprefix("data: "))
                if found == data:
                    return


async def test_two_processes_show_who_is_in_the_room_and_what_is_said(db: str) -> None:
    app = "examples.presence:app"
    async with asyncio.timeout(120), serving(app, db) as (one, _), serving(app, db) as (two, second):
        ada, ada_ends = await opened(one, "GET /rooms/lobby/events?name=ada")
        bob, bob_ends = await opened(two, "GET /rooms/lobby/events?name=bob")
        await event(ada, "here", ["ada", "bob"])
        await event(bob, "here", ["ada", "bob"])
        _, said = await opened(two, "POST /rooms/lobby/messages", json.dumps({"name": "bob", "text": "hi"}))
        await event(ada, "said", {"name": "bob", "text": "hi"})
        second.terminate()
        await event(ada, "here", ["ada"])
        for writer in (ada_ends, bob_ends, said):
            writer.close()


async def shown(*command: str, dsn: str) -> str:
    """Return what a process prints, once it has ended well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env={**os.environ, "EVENTSTORE_DSN": dsn}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_a_worker_adds_deposits_up_and_writes_letters(db: str) -> None:
    async with asyncio.timeout(120):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "eventstore.cli", "work", "--app", "examples.subscriptions:store",
            cwd=ROOT, env={**os.environ, "EVENTSTORE_DSN": db}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with EventStore(db) as store:
            await declared(store, "letters")  # only what comes from now on gets a letter
            said = await shown("-m", "examples.subscriptions", "ada", "10", dsn=db)
        assert said == "ada: deposit number 1 is in the balance\n"
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"letter to ada: 10 arrived\n"
        worker.terminate()
        await worker.communicate()
    assert worker.returncode == 0


async def declared(store: EventStore, name: str) -> None:
    """Wait until the worker has stored its subscription, which it tells as it does so."""
    mailbox = Mailbox[Any]()
    store.lifecycle.subscribe(store.lifecycle.subscriptions_topic(), mailbox)
    while name not in [one.name for one in await store.subscriptions.list()]:
        await mailbox.get()
