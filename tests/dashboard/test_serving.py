"""A real server: it answers, and ends while somebody watches."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from eventstore import EventStore
from eventstore.dashboard import dashboard
from eventstore.dashboard.serving import bind, check_certificate, serve, url_of
from eventstore.errors import ConfigurationError
from tests.dashboard.conftest import WITHIN


@asynccontextmanager
async def served(app: Starlette, **options: Any) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """The dashboard on a port of its own; its URL, and the task that serves it."""
    with bind("127.0.0.1", 0) as listening:
        started = asyncio.Event()
        task = asyncio.create_task(serve(app, listening, started=started.set, **options))
        async with asyncio.timeout(WITHIN):
            await started.wait()
        yield url_of(listening, tls="certificate" in options, root_path=options.get("root_path", "")), task
        task.cancel()
        async with asyncio.timeout(WITHIN):
            await asyncio.wait((task,))


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[httpx.Response]:
    async with httpx.AsyncClient(timeout=WITHIN) as client, client.stream("GET", url) as stream:
        lines = stream.aiter_lines()  # kept: once it is gone, httpx hangs up
        while not (await anext(lines)).startswith("event: part"):
            pass
        yield stream


async def test_it_serves_and_ends_while_somebody_watches(app: Starlette) -> None:
    async with served(app) as (url, task):
        async with watching(f"{url}live/"):
            task.cancel()
            async with asyncio.timeout(WITHIN):
                await asyncio.wait((task,))
            assert task.cancelled()
            assert app.state.site.sampler.viewers == 0


async def test_below_a_path_links_and_pages_agree(app: Starlette) -> None:
    async with served(app, root_path="/events") as (url, _), httpx.AsyncClient(timeout=WITHIN) as client:
        assert url.endswith("/events/")
        page = await client.get(url.replace("/events/", "/"))
        assert 'href="/events/subscriptions"' in page.text


async def test_the_address_it_prints_answers_with_a_proxy_that_takes_the_path_away_and_without(app: Starlette) -> None:
    async with served(app, root_path="/ops") as (url, _), httpx.AsyncClient(timeout=WITHIN) as client:
        for address in (url, url[:-1], url.replace("/ops/", "/"), f"{url}subscriptions", f"{url}static/app.js"):
            assert (await client.get(address)).status_code == 200, address


async def test_a_form_that_comes_slowly_does_not_end_in_a_traceback(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(app) as (url, task):
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /actions/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Type: {FORM}"
        writer.write(f"{head}\r\n\r\na=".encode())
        await writer.drain()
        while not (tasks := [one for one in asyncio.all_tasks() if "RequestResponseCycle" in repr(one.get_coro())]):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task, *tasks), timeout=WITHIN)
        writer.close()
    assert "Traceback" not in caplog.text
    assert "Exception in ASGI" not in caplog.text


FORM = "application/x-www-form-urlencoded"


async def test_inside_of_another_application_it_does_not_hold_up_the_end_of_the_server(store: EventStore) -> None:
    host = Starlette(routes=[Mount("/ops", dashboard(store))])
    with bind("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(host, log_config=None))
        task = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        async with watching(f"{url_of(listening, tls=False)}ops/live/"):
            server.should_exit = True
            async with asyncio.timeout(WITHIN):
                await task


async def test_tls_is_spoken_with_the_certificate_given(app: Starlette, tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        key,
        "-out",
        cert,
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    check_certificate(cert, key)
    async with served(app, certificate=(cert, key)) as (url, _):
        async with httpx.AsyncClient(timeout=WITHIN, verify=ssl.create_default_context(cafile=cert)) as client:
            answer = await client.get(url)
    assert answer.status_code == 200
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(("cert", "key"), [("none", "none"), (__file__, __file__)])
def test_a_certificate_that_is_none_is_refused(cert: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        check_certificate(cert, key)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}.*--port 0"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigurationError, match="another --host"):
        bind("192.0.2.1", 0)
