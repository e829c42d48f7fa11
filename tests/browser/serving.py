"""A dashboard that is served for real, on a port of this machine, and the browser that looks at it."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def find_chromium(environ: Mapping[str, str]) -> str | None:
    """Return the browser's path: $CHROMIUM, or what is on the PATH; None: there is none."""
    return environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)


class _Server(uvicorn.Server):
    """Signals stay with the program."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve *app* beside the block; yields its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve(sockets=[listening]), name="dashboard")
        try:
            # A connection made before it listens waits in the queue of the socket.
            listening.listen()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def browsing(binary: str, *arguments: str) -> AsyncIterator[Any]:
    """Yield a Chromium without a window, started with *arguments*."""
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        # Root may not use the sandbox; every page that it opens is ours.
        browser = await driver.chromium.launch(executable_path=binary, args=["--no-sandbox", *arguments])
        yield browser
        await browser.close()
