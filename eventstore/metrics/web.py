"""The metrics over HTTP: as an ASGI application, and for processes that have no web server."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client.exposition import choose_encoder

from eventstore.analytics.marking import leave_out
from eventstore.errors import ConfigurationError
from eventstore.metrics.collecting import StoreCollector

__all__ = ["answering", "asgi", "rendered"]

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ASKED_WITHIN = 10.0
"""Seconds in which a client of `answering` has to send its request, and to take the answer."""

MAX_REQUEST = 16 << 10
"""Bytes of a request with its headers."""


async def rendered(collector: StoreCollector, accept: str = "") -> tuple[bytes, str]:
    """Return the exposition in the format that *accept* asks for, and its content type."""
    await collector.refresh()
    encode, content_type = choose_encoder(accept)
    # In a thread: with a thousand subscriptions it would hold up everything for tens of milliseconds.
    return await asyncio.to_thread(encode, collector), content_type


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @classmethod
    def text(cls, status: int, text: str, **headers: str) -> _Answer:
        return cls(status, text.encode(), {"content-type": "text/plain; charset=utf-8"} | headers)


async def _answer(collector: StoreCollector, method: str, headers: Iterable[tuple[str, str]]) -> _Answer:
    if method != "GET":
        return _Answer.text(405, "only GET\n", allow="GET")
    asked: dict[str, str] = {}
    for name, value in headers:
        asked[name.lower()] = f"{asked[name.lower()]},{value}" if name.lower() in asked else value
    body, content_type = await rendered(collector, asked.get("accept", ""))
    sent = {"content-type": content_type, "vary": "accept, accept-encoding"}
    if _takes_gzip(asked.get("accept-encoding", "")):
        # A thirtieth of the size, for a tenth of the time that it took to render.
        body = await asyncio.to_thread(gzip.compress, body, 1)
        sent["content-encoding"] = "gzip"
    return _Answer(200, body, sent)


def _takes_gzip(accept_encoding: str) -> bool:
    codings = (coding.split(";") for coding in accept_encoding.lower().split(","))
    return any(name.strip() == "gzip" and "q=0" not in map(str.strip, rest) for name, *rest in codings)


def asgi(collector: StoreCollector) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return an ASGI application that answers GET under any path it is mounted at."""

    async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1000})
        leave_out(scope)
        asked = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        answer = await _answer(collector, scope["method"], asked)
        headers = answer.headers | {"content-length": str(len(answer.body))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        return await send({"type": "http.response.body", "body": answer.body})

    return metrics


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


@asynccontextmanager
async def answering(collector: StoreCollector, host: str, port: int) -> AsyncIterator[str]:
    """Answer ``GET /metrics`` while the block runs; yields the URL. For processes that have no web server.

    One request a connection, each within `ASKED_WITHIN` seconds.

    Args:
        port: 0 takes any that is free.

    Raises:
        ConfigurationError: the port is taken, or this is no address of this host.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                await _serve_one(collector, reader, writer)
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError) as error:
            log.debug("a scrape of metrics ended early: %r", error)
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(serve, host, port, limit=MAX_REQUEST)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served on {host} port {port}: {error.strerror or error}; choose another --metrics port"
        ) from None
    async with server:
        at = server.sockets[0].getsockname()
        yield f"http://{f'[{at[0]}]' if ':' in at[0] else at[0]}:{at[1]}/metrics"


async def _serve_one(collector: StoreCollector, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.split("\r\n")
    method, _, rest = request.partition(" ")
    if rest.partition(" ")[0].partition("?")[0] == "/metrics":
        asked = ((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        answer = await _answer(collector, method, asked)
    else:
        answer = _Answer.text(404, "metrics are at /metrics\n")
    headers = answer.headers | {"content-length": str(len(answer.body)), "connection": "close"}
    status = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"
    sent = "\r\n".join([status, *(f"{name}: {value}" for name, value in headers.items()), "", ""])
    writer.write(sent.encode() + answer.body)
    await writer.drain()
