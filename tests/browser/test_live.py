"""The dashboard in a browser: what it shows while the log grows, and what people do through it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import SCRIPT, Shop
from tests.faults.figures import note

expect = pytest.importorskip("playwright.async_api").expect

pytestmark = pytest.mark.asyncio(loop_scope="package")


def horizon(page: Any) -> Any:
    return page.locator(".tile", has_text="Horizon").locator(".value")


async def live(page: Any, url: str) -> None:
    """Open a page, and wait until it is live."""
    await page.goto(url)
    await expect(page.locator("#link")).to_have_attribute("data-state", "live")


async def test_the_overview_follows_the_log_without_a_reload(page: Any, shop: Shop) -> None:
    await live(page, shop.url)
    await page.evaluate("window.loaded = 'once'")
    position = await shop.append()
    await expect(horizon(page)).to_have_text(f"{position:,}")
    await expect(page.locator("#chart-rate canvas")).to_be_visible()
    assert await page.evaluate("window.loaded") == "once"


async def test_what_may_be_old_is_told_to_be_old(page: Any, shop: Shop) -> None:
    told = '{"error": "DatabaseUnavailable", "message": "away", "since": "2026-01-31T10:00:00Z"}'
    away = {"content_type": "text/event-stream", "body": f"retry: 100\n\nevent: problem\ndata: {told}\n\n"}
    await page.route("**/live/**", lambda route: route.fulfill(**away))
    await page.goto(shop.url)
    await expect(page.get_by_role("status")).to_contain_text("since 10:00:00 UTC")
    await expect(page.locator("#live")).to_have_class("old")
    await page.unroute("**/live/**")
    await expect(page.get_by_role("status")).to_have_text("Live", use_inner_text=True)
    await expect(page.locator("#live")).not_to_have_class("old")


async def test_updates_can_be_paused(page: Any, shop: Shop) -> None:
    await live(page, shop.url)
    pause = page.get_by_role("button", name="Pause updates")
    await pause.click()
    await expect(page.locator("#link")).to_have_attribute("data-state", "paused")
    before = await horizon(page).text_content()
    position = await shop.append()
    assert await horizon(page).text_content() == before
    await pause.click()
    await expect(horizon(page)).to_have_text(f"{position:,}")


async def test_what_the_reader_opened_and_focused_stays_so_while_the_page_changes(page: Any, shop: Shop) -> None:
    first = await shop.park(1)
    await live(page, f"{shop.url}/subscriptions/billing")
    await page.locator(f"#trace-{first} summary").click()
    second = await shop.park(2)
    await expect(page.locator(f"#parked-{second}")).to_be_visible()
    await expect(page.locator(f"#trace-{first}")).to_have_attribute("open", "")
    assert await page.evaluate("document.activeElement.parentElement.id") == f"trace-{first}"
    await shop.store.subscriptions.discard_parked("billing")


async def test_a_subscription_is_paused_and_resumed(page: Any, shop: Shop) -> None:
    await page.goto(f"{shop.url}/subscriptions/billing")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await expect(page.get_by_text("billing is paused")).to_be_visible()
    assert (await shop.store.subscriptions.get("billing")).state == "paused"
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("billing goes on")).to_be_visible()
    assert (await shop.store.subscriptions.get("billing")).state == "active"


async def test_a_rewind_shows_first_what_it_will_do(page: Any, shop: Shop) -> None:
    position = await shop.append()
    await page.goto(f"{shop.url}/subscriptions/billing")
    await page.get_by_label("To after a position").fill(str(position - 1))
    await page.get_by_role("button", name="Preview the rewind").click()
    await expect(page.get_by_text("1 event", exact=True)).to_be_visible()
    assert shop.billed.count(position) == 1
    await page.get_by_role("button", name="Rewind billing").click()
    await expect(page.get_by_text("delivers again what comes after")).to_be_visible()
    await shop.store.subscriptions.wait_for("billing", position, timeout=60)
    assert shop.billed.count(position) == 2


async def test_parked_events_are_replayed_and_discarded(page: Any, shop: Shop) -> None:
    first, second = await shop.park(3), await shop.park(4)
    await live(page, f"{shop.url}/subscriptions/billing")
    discard, asked = page.get_by_role("button", name=f"Discard event {second}"), page.locator(f"#discard-{second}")
    await discard.click()
    await expect(asked).to_contain_text("never gets this event")
    await asked.get_by_role("button", name="Cancel").click()
    await expect(asked).to_be_hidden()
    await discard.click()
    await asked.get_by_role("button", name="Discard it").click()
    await expect(page.locator(f"#parked-{second}")).to_have_count(0)
    shop.broken = False
    await page.get_by_role("button", name=f"Replay event {first}").click()
    await expect(page.locator("#parked")).to_contain_text("Nothing is parked")
    assert first in shop.billed
    assert second not in shop.billed


async def test_what_was_done_is_on_record(page: Any, shop: Shop) -> None:
    await page.goto(f"{shop.url}/subscriptions/billing")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("billing goes on")).to_be_visible()
    await page.goto(f"{shop.url}/actions")
    await expect(page.locator("tbody tr").first).to_contain_text("resume")
    await expect(page.locator("tbody tr").first).to_contain_text("done")


async def test_a_script_in_the_data_never_runs(page: Any, shop: Shop) -> None:
    # Also what only would have been refused by the policy is found: it writes that to the console.
    position = await shop.park(5, type=SCRIPT)
    pages = ("subscriptions/billing", "streams", "events", f"events/{position}", f"events?type={SCRIPT}", "")
    for path in pages:
        await live(page, f"{shop.url}/{path}") if path in ("", "events") else await page.goto(f"{shop.url}/{path}")
        assert "onerror" in await page.locator("main").inner_text()
        assert await page.locator("main :is(img, script), [onerror]").count() == 0
    await page.goto(f"{shop.url}/streams")
    await page.get_by_role("link", name="parked-5").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"parked-5-{SCRIPT}")
    note(pages_with_scripts_in_their_data=len(pages) + 1, scripts_run=0)
    await shop.store.subscriptions.discard_parked("billing")
