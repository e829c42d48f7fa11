"""How to open several nodes of one PubSub on each adapter, and how to look at what they heard."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg

from eventstore.mailbox import Mailbox
from eventstore.pubsub import Adapter, Local, LocalHub, Postgres, PubSub, Redis

MARKER = "everything before this was sent earlier"

WITHIN = 60.0
"""Seconds that a test waits for a message; nothing takes so long if all is well, however busy the machine is."""

Adapters: TypeAlias = Callable[[str], Adapter]
"""Makes the adapter of a node, by its name."""


def local_adapters() -> Adapters:
    hub = LocalHub()
    return lambda node: Local(hub, node_name=node)


def postgres_adapters(dsn: str) -> Adapters:
    return lambda node: Postgres(dsn, node_name=node)


class Cluster:
    """Nodes of one PubSub, closed with the test.

    Args:
        adapter_of: makes the adapter of a node.
        cut: ends the connections by which the nodes hear each other; None where there are none.
    """

    def __init__(self, adapter_of: Adapters, cut: Callable[[], Any] | None = None) -> None:
        self.adapter_of, self.cut = adapter_of, cut
        self.name = f"chat {uuid4().hex}"
        self.stack = AsyncExitStack()

    async def node(self, node_name: str, **options: Any) -> PubSub:
        """Open one more node."""
        name = options.pop("name", self.name)
        return await self.stack.enter_async_context(PubSub(name, self.adapter_of(node_name), **options))

    async def nodes(self, *names: str, **options: Any) -> list[PubSub]:
        return [await self.node(name, **options) for name in names]


def postgres_cluster(dsn: str) -> Cluster:
    async def cut() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid() and application_name like '%listener%'"
        )
        await connection.close()

    return Cluster(postgres_adapters(dsn), cut)


def redis_cluster(url: str) -> Cluster:
    return Cluster(
        lambda node: Redis(url, node_name=node), lambda: redis_command(url, "CLIENT", "KILL", "TYPE", "pubsub")
    )


async def redis_command(url: str, *command: str) -> Any:
    from redis.asyncio import Redis as Client

    client = Client.from_url(url)
    try:
        return await client.execute_command(*command)
    finally:
        await client.connection_pool.disconnect()


@contextmanager
def redis_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis of its own on a Unix socket, which keeps nothing; its URL and its process."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise FileNotFoundError("there is no redis-server; install it, for example by apt-get install redis-server")
    # The path of a socket has 107 bytes at most, and that of TMPDIR may have any number.
    root = Path(tempfile.mkdtemp(prefix="redis-", dir="/tmp"))
    socket = root / "socket"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(root)]
    with subprocess.Popen([binary, *options], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if b"eady to accept connections" in line:
                    break
            else:
                raise RuntimeError(f"{binary} did not start")
            yield f"unix://{socket}", server
        finally:
            server.kill()
    shutil.rmtree(root)


async def received(mailbox: Mailbox[Any], count: int = 1) -> list[Any]:
    """The next *count* messages."""
    async with asyncio.timeout(WITHIN):
        return [await mailbox.get() for _ in range(count)]


async def heard(mailbox: Mailbox[Any], sender: PubSub, topic: str = "t") -> list[Any]:
    """What *mailbox* got of what this task sent from *sender*: a marker is sent after it by the same path."""
    await sender.broadcast(topic, MARKER)
    found = []
    async with asyncio.timeout(WITHIN):
        while (message := await mailbox.get()) != MARKER:
            found.append(message)
    return found


def subscribed(pubsub: PubSub, *topics: str, **options: Any) -> Mailbox[Any]:
    """A mailbox that is subscribed to *topics*."""
    mailbox: Mailbox[Any] = Mailbox(**options)
    for topic in topics or ("t",):
        assert pubsub.subscribe(topic, mailbox) is None
    return mailbox


class Ahead:
    """Adapter around another one that calls *first* before each envelope is sent."""

    def __init__(self, inner: Adapter, first: Callable[[], None]) -> None:
        self._inner, self._first = inner, first
        self.node_name, self.start, self.close = inner.node_name, inner.start, inner.close

    async def broadcast(self, envelope: Any) -> None:
        self._first()
        await self._inner.broadcast(envelope)

    async def direct_broadcast(self, node: str, envelope: Any) -> None:
        self._first()
        await self._inner.direct_broadcast(node, envelope)
