"""One browser and one dashboard for the tests of this folder, in one loop; skipped where there is no Chromium."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from eventstore import EventStore, EventType, FailurePolicy, NewEvent
from tests.browser.serving import browsing, find_chromium, serving
from tests.conftest import QUICK

SCRIPT = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
"""What somebody may put into an event, a type, the name of a stream, or an error."""


@dataclass
class Shop:
    """A dashboard at *url*, over a store whose handler of ``billing`` fails what says so, while it is *broken*."""

    store: EventStore
    url: str = ""
    broken: bool = True
    billed: list[int] = field(default_factory=list)

    async def bill(self, event: Any, delivery: Any) -> None:
        if self.broken and event.data.get("fails"):
            raise RuntimeError(SCRIPT)
        self.billed.append(event.position)

    async def append(self, type: str = "OrderPlaced", stream: str = "order-1", **data: Any) -> int:
        """Append an event, and return its position once it was handled."""
        position = (await self.store.append(stream, [NewEvent(type, data)])).position
        await self.store.subscriptions.wait_for("billing", position, timeout=60)
        return position

    async def park(self, number: int, type: str = "OrderPlaced") -> int:
        """Append an event that is parked, to a stream of its own."""
        self.broken = True
        return await self.append(type, f"parked-{number}-{SCRIPT}", fails=True)


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def shop(databases: Any) -> AsyncIterator[Shop]:
    from eventstore.dashboard import dashboard

    with databases.fresh(f"browser_{os.getpid()}") as dsn:
        # Nobody loses a lease, and delivers again, however busy the machine is.
        async with EventStore(dsn, settings=replace(QUICK, lease_ttl=60.0), node_name="one") as store:
            made = Shop(store)
            store.handler("billing", EventType("OrderPlaced", SCRIPT), policy=FailurePolicy(attempts=1))(made.bill)
            async with store.running(), serving(dashboard(store, allow_actions=True, open_to_all=True)) as made.url:
                yield made


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def browser() -> AsyncIterator[Any]:
    # Long enough for a machine that does much else; nothing waits so long if all is well.
    pytest.importorskip("playwright.async_api").expect.set_options(timeout=60_000)
    binary = find_chromium(os.environ)
    if binary is None:
        pytest.skip("no Chromium: set CHROMIUM to its path, or put chromium or google-chrome on the PATH")
    # A name that somebody else owns and points at this machine.
    async with browsing(binary, "--host-resolver-rules=MAP evil.example 127.0.0.1") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def context(browser: Any) -> AsyncIterator[Any]:
    opened = await browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    opened.set_default_timeout(60_000)
    yield opened
    await opened.close()


def watch(page: Any) -> list[str]:
    """Return what goes wrong in *page*: dialogs, exceptions, and errors on the console, as of the policy."""
    seen: list[str] = []

    async def dismiss(dialog: Any) -> None:
        seen.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("pageerror", lambda error: seen.append(f"an exception: {error}"))
    page.on("console", lambda said: seen.append(said.text) if said.type in ("error", "warning") else None)
    return seen


@pytest_asyncio.fixture(loop_scope="package")
async def page(context: Any) -> AsyncIterator[Any]:
    """A tab in which nothing may go wrong."""
    opened = await context.new_page()
    trouble = watch(opened)
    yield opened
    await opened.close()
    assert trouble == []
