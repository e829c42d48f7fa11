"""Pictures of every page of the dashboard, light and dark: ``python -m tests.browser.screenshots [DIRECTORY]``.

They are taken in a real browser, of a busy shop on a Postgres that is thrown away afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventstore import EventType
from eventstore.dashboard import dashboard
from eventstore.embedded import EmbeddedPostgres
from eventstore.schema import migrate
from tests.browser.busy_shop import busy_shop
from tests.browser.pictures import packed
from tests.browser.serving import browsing, find_chromium, serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"

PAGES = {
    "overview": "",
    "subscriptions": "subscriptions",
    "subscription": "subscriptions/billing",
    "rewind": "rewind?name=billing&to=4000",
    "streams": "streams?limit=18",
    "stream": "streams/warehouse-north?limit=12",
    "events": "events?limit=20",
    "nodes": "nodes",
    "pubsub": "pubsub",
    "requests": "requests",
    "actions": "actions",
    "error": "streams/nowhere",
}

WIDTH, LEAST, MOST = 1280, 720, 1080
PHONE = {"width": 390, "height": 844}

HISTORY = 100
"""Seconds that the charts show."""

TOKEN = "a-token-that-nobody-else-knows-of"


async def main(directory: Path) -> None:
    """Take all pictures."""
    binary = find_chromium(os.environ)
    if binary is None:
        raise SystemExit("no Chromium: set CHROMIUM to its path, or put chromium or google-chrome on the PATH")
    logging.disable()  # what fails in the shop is meant to
    directory.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="es-"))
    server = EmbeddedPostgres(root / "data", durable=False, settings={"max_connections": 100})
    server.start()
    try:
        await asyncio.to_thread(migrate, server.dsn)
        async with busy_shop(server.dsn) as store, browsing(binary) as browser:
            open_to_all = dashboard(store, allow_actions=True, open_to_all=True)
            closed = dashboard(store, allow_actions=True, tokens={"ada": TOKEN})
            async for order in store.read_all(EventType("OrderPlaced"), limit=1):
                paths = PAGES | {"event": f"events/{order.position}"}
            async with serving(open_to_all) as url, serving(closed) as locked:
                await _pictures(browser, url, locked, paths, directory)
    finally:
        server.stop()
        shutil.rmtree(root)


async def _pictures(browser: Any, url: str, locked: str, paths: Mapping[str, str], directory: Path) -> None:
    watching = await browser.new_page()
    await watching.goto(url)
    other = await browser.new_page()
    await other.goto(f"{url}/subscriptions/billing")
    await asyncio.sleep(HISTORY)  # the charts begin when somebody looks
    for theme in ("light", "dark"):
        context = await browser.new_context(color_scheme=theme, viewport={"width": WIDTH, "height": LEAST})
        for name, path in paths.items():
            await _picture(context, f"{url}/{path}", directory / f"dashboard-{name}-{theme}.png")
        await _picture(context, f"{locked}/login", directory / f"dashboard-login-{theme}.png")
        phone = await browser.new_context(color_scheme=theme, viewport=PHONE)
        await _picture(phone, url, directory / f"dashboard-phone-{theme}.png", most=PHONE["height"])
        await phone.close()
        await context.close()
    await watching.close()
    await other.close()


async def _picture(context: Any, url: str, file: Path, most: int = MOST) -> None:
    page = await context.new_page()
    await page.goto(url)
    if await page.locator("#live").count():
        await page.wait_for_selector("#link[data-state=live]")
        await page.wait_for_timeout(1500)  # the first series has come, and is drawn
    size = page.viewport_size
    height = await page.evaluate("document.documentElement.scrollHeight")
    await page.set_viewport_size({"width": size["width"], "height": min(max(height, size["height"]), most)})
    await page.wait_for_timeout(300)
    taken = await page.screenshot(animations="disabled")
    await page.close()
    file.write_bytes(await packed(context, taken))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
