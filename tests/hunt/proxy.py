"""A byte proxy before Postgres that knows just enough of the protocol to lose what a test wants to be lost."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

__all__ = ["Proxy", "proxied"]


class Proxy:
    """Forwards connections; loses replies, cuts and refuses connections when told to.

    Attributes:
        dsn: where it listens.
        away: every connection is cut, and no new one gets through.
        lose_replies: so many replies to appends are still to be lost, each with its connection, after the server
            committed: the reply is held back until the server says that it is ready for the next query.
        of: what the query of such a reply contains.
        lost: replies lost so far.
        refused: connections refused so far.
    """

    def __init__(self, dsn: str, host: str, port: str) -> None:
        self.dsn, self._host, self._port = dsn, host, port
        self.away, self.of = False, b".append_"
        self.lose_replies = self.lost = self.refused = 0
        self._links: set[_Link] = set()

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
        if self._host.startswith("/"):
            server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            server = await asyncio.open_connection(self._host, int(self._port))
        link = _Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._queries: dict[bytes, bytes] = {}
        self._losing = False

    def cut(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()

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
        writer.write(length + await reader.readexactly(int.from_bytes(length) - 4))
        while True:
            kind, body = await _message(reader)
            if kind == b"P":
                name, query = body[4:].split(b"\0")[:2]
                self._queries[name] = query
            elif kind == b"B" and self._proxy.lose_replies:
                query = self._queries.get(body[4:].split(b"\0")[1], b"")
                if self._proxy.of in query:
                    self._proxy.lose_replies -= 1
                    self._losing = True
            writer.write(kind + body)
            await writer.drain()

    async def _downwards(self) -> None:
        reader, writer = self._server[0], self._client[1]
        while True:
            kind, body = await _message(reader)
            if not self._losing:
                writer.write(kind + body)
                await writer.drain()
            elif kind == b"Z":  # only now has it committed
                self._proxy.lost += 1
                raise ConnectionResetError


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head[1:] + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """Run a proxy before the server of *dsn*."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    directory = tempfile.mkdtemp(prefix="px-", dir="/tmp")
    here = parts._replace(query=f"host={directory}&port=1").geturl()
    proxy = Proxy(here, query["host"][0], query["port"][0])
    listening = await asyncio.start_unix_server(proxy.serve, f"{directory}/.s.PGSQL.1")
    try:
        yield proxy
    finally:
        listening.close()
        proxy.go_away()
        shutil.rmtree(directory)
