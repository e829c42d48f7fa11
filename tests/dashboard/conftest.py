"""The dashboard over a real store: asked as a browser on this machine would, and watched through its streams."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from eventstore import EventStore
from eventstore.dashboard import dashboard

ORIGIN = "http://localhost:4000"
SECRET = "a-secret-of-ada-that-is-long"
READER = "a-secret-of-bob-that-is-long"
SCRAPER = "a-secret-of-prometheus-here"

WITHIN = 60.0
"""Seconds that a test waits for something; nothing takes so long if all is well, however busy the machine is."""


def browser(app: Any, base: str = ORIGIN, **headers: str) -> httpx.AsyncClient:
    """A browser on this machine. Errors of the application are what it answers, as with a real server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base, headers={"accept": "text/html", **headers})


def csrf_of(html: str) -> str:
    """The token in the first form of a page."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', html)
    assert found is not None, html[:2000]
    return found[1]


def own_csrf(app: Starlette, client: httpx.AsyncClient) -> str:
    """The token of this browser's session, without a page that shows it."""
    sessions = app.state.site.sessions
    session = next(found for one in client.cookies.jar if (found := sessions.load(one.value)) is not None)
    return str(sessions.csrf(session))


async def signed_in(app: Starlette, secret: str = SECRET) -> httpx.AsyncClient:
    """A browser whose user has given a token."""
    client = browser(app)
    form = {"csrf": csrf_of((await client.get("/login")).text), "token": secret, "next": "/"}
    answer = await client.post("/login", data=form)
    assert answer.status_code == 303, answer.text
    return client


async def submit(client: httpx.AsyncClient, what: str, page: str, **fields: Any) -> httpx.Response:
    """Send the form of an action as *page* has it, and follow to where it leads."""
    csrf = csrf_of((await client.get(page)).text)
    form = {"csrf": csrf, "back": page, **fields}
    return await client.post(f"/actions/{what}", data=form, headers={"origin": ORIGIN}, follow_redirects=True)


@dataclass
class Stream:
    """A stream of events while it is open: what came of each kind, newest last."""

    status: int = 0
    raw: str = ""
    came: dict[str, list[str]] = field(default_factory=dict)
    open: bool = True
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[Stream], object]) -> None:
        """Wait until *holds* is true of what came."""
        async with asyncio.timeout(WITHIN):
            while not holds(self):
                self._news.clear()
                await self._news.wait()

    async def parts(self, count: int = 1) -> list[str]:
        """Wait until *count* parts came; return all."""
        await self.until(lambda _: len(self.came.get("part", [])) >= count)
        return self.came["part"]

    def series(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.came.get("series", [])]

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.raw += message["body"].decode()
            self._take()
        self._news.set()

    def _take(self) -> None:
        *whole, self.raw = self.raw.split("\n\n")
        for block in whole:
            fields = [line.partition(": ")[::2] for line in block.split("\n")]
            kind = next((value for name, value in fields if name == "event"), "other")
            data = "\n".join(value for name, value in fields if name == "data")
            self.came.setdefault(kind, []).append(data if kind != "other" else block)


@asynccontextmanager
async def watch(app: Any, path: str, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    """Open a stream as a browser does, and leave it at the end of the block."""
    stream = Stream()
    sent = {"host": "localhost:4000", "accept": "text/event-stream", "sec-fetch-site": "same-origin", **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 4000),
    }

    async def run() -> None:
        try:
            await app(scope, stream.receive, stream.send)
        finally:
            stream.open = False
            stream._news.set()

    task = asyncio.create_task(run())
    try:
        yield stream
    finally:
        stream.leave()
        async with asyncio.timeout(WITHIN):
            await task


@pytest.fixture
def app(store: EventStore) -> Starlette:
    """A dashboard that allows actions."""
    return dashboard(store, allow_actions=True, open_to_all=True, interval=0.05)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that looks at it."""
    async with browser(app) as opened:
        yield opened
