"""A byte proxy before Postgres that knows just enough of the protocol to lose what a test wants to be lost.

Each connection can be cut, cut in the middle of a message, slowed down, held back, or stalled: half-open, it takes
bytes and brings none, and nobody is told.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

__all__ = ["Link", "Proxy", "proxied"]

CONTROL = (b"renew_node_v", b"settle_partitions_v", b"owned_partitions_v", b"claim_partitions_v")
"""What is asked on connections that keep the lease and checkpoints, which have the name of all others."""


class Proxy:
    """Forwards connections; loses replies, cuts and refuses connections when told to.

    Attributes:
        dsn: where it listens.
        away: no new connection gets through.
        stalling: new connections are stalled, too.
        lose_replies: so many replies to appends are still to be lost, each with its connection, after the server
            committed: the reply is held back until the server says that it is ready for the next query.
        of: what the query of such a reply contains.
        lost: replies lost so far.
        refused: connections refused so far.
    """

    def __init__(self, dsn: str, host: str, port: str) -> None:
        self.dsn, self._host, self._port = dsn, host, port
        self.away, self.stalling, self.of = False, False, b".append_"
        self.lose_replies = self.lost = self.refused = 0
        self._links: set[Link] = set()

    def links(self, role: str = "") -> list[Link]:
        """The connections there are, of one role."""
        return [link for link in self._links if role in ("", link.role)]

    def go_away(self) -> None:
        """Cut every connection and refuse new ones until `come_back`."""
        self.away = True
        self.cut()

    def come_back(self) -> None:
        """Let connections through again."""
        self.away = False

    def cut(self) -> None:
        """Cut every connection there is."""
        for link in tuple(self._links):
            link.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        if self.away:
            self.refused += 1
            writer.close()
            return
        try:
            server = await self._connect()
        except OSError:
            self.refused += 1
            writer.close()
            return
        link = Link(self, (reader, writer), server)
        link.stalled = self.stalling
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, int(self._port))


class Link:
    """One connection.

    Attributes:
        role: ``pool``, ``control``, ``lent`` (a caller's own), or ``listener``, ``notifier``, ``pubsub``.
        stalled: what comes from either side is swallowed.
        held: what comes is held back until this is set, and brought then, also if who sent it has left.
        slow: it brings 1,000 bytes a second.
        left: so many bytes until it is cut, or stalled if it `stalls`.
    """

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._queries: dict[bytes, bytes] = {}
        self._losing = False
        self.role = "lent"
        self.stalled = self.slow = self.stalls = False
        self.held: asyncio.Event | None = None
        self.left: int | None = None

    def cut(self) -> None:
        """End it by a reset, where there is such a thing."""
        for _, writer in (self._client, self._server):
            end: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):  # it is closed already
                if end.family != socket.AF_UNIX:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _forward(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.stalled:
            return
        if self.left is not None:
            data, self.left = data[: self.left], self.left - len(data)
        while self.slow and data:
            writer.write(data[:100])
            data = data[100:]
            await asyncio.sleep(0.1)
        writer.write(data)
        await writer.drain()
        if self.left is not None and self.left <= 0:
            if not self.stalls:
                raise ConnectionResetError
            self.stalled = True

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._upwards())
                group.create_task(self._downwards())
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.cut()

    async def _upwards(self) -> None:
        reader, writer = self._client[0], self._server[1]
        length = await reader.readexactly(4)  # the startup message has no type
        startup = await reader.readexactly(int.from_bytes(length) - 4)
        self.role = role_of(startup)
        await self._forward(writer, length + startup)
        while True:
            kind, body = await _message(reader)
            if kind == b"P":
                name, query = body[4:].split(b"\0")[:2]
                self._queries[name] = query
                if self.role == "pool" and any(one in query for one in CONTROL):
                    self.role = "control"
            elif kind == b"B" and self._proxy.lose_replies:
                query = self._queries.get(body[4:].split(b"\0")[1], b"")
                if self._proxy.of in query:
                    self._proxy.lose_replies -= 1
                    self._losing = True
            await self._forward(writer, kind + body)

    async def _downwards(self) -> None:
        reader, writer = self._server[0], self._client[1]
        while True:
            kind, body = await _message(reader)
            if not self._losing:
                await self._forward(writer, kind + body)
            elif kind == b"Z":  # only now has it committed
                self._proxy.lost += 1
                raise ConnectionResetError


def role_of(startup: bytes) -> str:
    """Who opens a connection, by the name that he gives."""
    fields = startup[4:].split(b"\0")
    name = next((value for key, value in pairwise(fields) if key == b"application_name"), b"")
    if not name.startswith(b"eventstore"):
        return "lent"
    return name.decode().split()[1] if b" " in name else "pool"


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head[1:] + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@asynccontextmanager
async def proxied(dsn: str, *, tcp: bool = False) -> AsyncIterator[Proxy]:
    """Run a proxy before the server of *dsn*; only TCP knows resets."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    directory = tempfile.mkdtemp(prefix="px-", dir="/tmp")
    proxy = Proxy("", query["host"][0], query["port"][0])
    if tcp:
        listening = await asyncio.start_server(proxy.serve, "127.0.0.1")
        where = f"host=127.0.0.1&port={listening.sockets[0].getsockname()[1]}&sslmode=disable"
    else:
        listening = await asyncio.start_unix_server(proxy.serve, f"{directory}/.s.PGSQL.1")
        where = f"host={directory}&port=1"
    proxy.dsn = parts._replace(query=where).geturl()
    try:
        yield proxy
    finally:
        listening.close()
        proxy.go_away()
        shutil.rmtree(directory)
