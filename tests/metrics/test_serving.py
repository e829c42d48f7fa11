"""Metrics of a process that has no web server."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from eventstore import EventStore
from eventstore.errors import ConfigurationError
from eventstore.metrics import serving
from tests.metrics.scraping import Scrape


async def asked(url: str, request: bytes) -> tuple[str, bytes]:
    """Send bytes; return the head and the body of what comes back."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


async def test_metrics_are_at_one_path_and_nothing_else_is(store: EventStore) -> None:
    async with serving(store) as url:
        assert url.startswith("http://127.0.0.1:")
        head, body = await asked(url, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert Scrape.of(body)["eventstore_up"] == 1
        assert (await asked(url, b"GET / HTTP/1.1\r\n\r\n"))[0].startswith("HTTP/1.1 404 ")
        refused = (await asked(url, b"POST /metrics HTTP/1.1\r\n\r\n"))[0]
        assert refused.startswith("HTTP/1.1 405 ")
        assert "\r\nallow: GET" in refused


@pytest.mark.parametrize("request_", [b"", b"GET /met", b"\r\n\r\n", b"x" * 100_000], ids=len)
async def test_what_is_no_request_ends_the_connection_and_nothing_else(store: EventStore, request_: bytes) -> None:
    async with serving(store) as url:
        where = urlsplit(url)
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(request_)
        writer.close()
        head, _ = await asked(url, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 ")


async def test_a_port_that_is_taken_is_said_to_be(store: EventStore) -> None:
    async with serving(store) as url:
        port = urlsplit(url).port
        assert port is not None
        with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {port}"):
            async with serving(store, port=port):
                pass


async def test_the_port_is_free_again_behind_the_block(store: EventStore) -> None:
    async with serving(store) as url:
        port = urlsplit(url).port or 0
    async with serving(store, port=port) as again:
        assert again == url
