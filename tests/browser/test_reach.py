"""Who can use the dashboard, and from where: by keyboard, on a phone, without scripts, and not from other origins."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.responses import HTMLResponse

from tests.browser.conftest import Shop, watch
from tests.browser.serving import serving

expect = pytest.importorskip("playwright.async_api").expect

pytestmark = pytest.mark.asyncio(loop_scope="package")

PAGES = (
    "", "subscriptions", "subscriptions/billing", "rewind?name=billing&to=0", "streams", "streams/order-1", "events",
    "events/1", "nodes", "pubsub", "requests", "actions", "nowhere",
)  # fmt: skip

CHECKS = """() => {
  const found = [];
  const said = (one) => (one.ariaLabel || one.labels?.[0]?.innerText || one.innerText || "").trim();
  for (const one of document.querySelectorAll("button, a[href], input:not([type=hidden]), select, summary"))
    if (!said(one) && !one.closest("svg") && !one.hidden) found.push("unnamed: " + one.outerHTML.slice(0, 120));
  for (const one of document.querySelectorAll("table")) {
    if (!one.caption) found.push("a table without a caption");
    for (const head of one.querySelectorAll("th")) if (!head.scope) found.push("th without scope: " + head.innerText);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("an id twice: " + id);
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (!document.documentElement.lang) found.push("no language");
  const inline = ":not(.chart *)[style], [onclick], style, script:not([src])";
  if (document.querySelector(inline)) found.push("something inline");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) found.push(`scrolls sideways by ${wide} px`);
  return found;
}"""


@pytest.mark.parametrize("width", [1280, 360])
async def test_every_page_is_labelled_and_fits(context: Any, shop: Shop, width: int) -> None:
    await shop.append(stream="order-1", note="x" * 300)
    page, found = await context.new_page(), {}
    trouble = watch(page)
    await page.set_viewport_size({"width": width, "height": 780})
    for path in PAGES:
        await page.goto(f"{shop.url}/{path}", wait_until="domcontentloaded")
        if problems := await page.evaluate(CHECKS):
            found[path] = problems
    await page.close()
    assert found == {}
    assert [one for one in trouble if "404" not in one] == []  # that of the page that is nowhere


async def test_a_page_that_does_none_of_it_is_found_out(context: Any) -> None:
    async def careless(scope: Any, receive: Any, send: Any) -> None:
        table = "<table><tr><th>a<tr><td id=a><button id=a></button></table><p style='width: 2000px'>wide"
        await HTMLResponse(f"<!doctype html>{table}<script>alert(1)</script>")(scope, receive, send)

    page = await context.new_page()
    trouble = watch(page)
    async with serving(careless) as url:
        await page.goto(url)
        found = " ".join(await page.evaluate(CHECKS))
    await page.close()
    assert trouble[0] == "a dialog: 1"
    for problem in ("unnamed", "caption", "scope", "twice", "main", "h1", "language", "inline", "sideways"):
        assert problem in found


async def test_the_keyboard_alone_pauses_a_subscription(page: Any, shop: Shop) -> None:
    await page.goto(f"{shop.url}/subscriptions")
    await page.keyboard.press("/")
    await page.keyboard.type("bill")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**search=bill*")
    await _tab_to(page, "billing")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/subscriptions/billing")
    await _tab_to(page, "Pause")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("billing is paused")).to_be_visible()
    await shop.store.subscriptions.resume("billing")


async def _tab_to(page: Any, text: str) -> None:
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.innerText.trim()") == text:
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"the keyboard does not reach {text!r}")


async def test_the_first_stop_of_the_keyboard_skips_the_navigation(page: Any, shop: Shop) -> None:
    await page.goto(f"{shop.url}/nodes")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "content"


async def test_the_menu_of_a_phone_opens_and_closes(page: Any, shop: Shop) -> None:
    await page.set_viewport_size({"width": 360, "height": 780})
    await page.goto(shop.url)
    await expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
    await page.get_by_role("button", name="Menu").click()
    await page.get_by_role("link", name="Nodes", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")


async def test_the_colours_that_were_chosen_stay(page: Any, shop: Shop) -> None:
    await page.goto(shop.url)
    await page.get_by_role("button", name="Use dark colours").click()
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.goto(f"{shop.url}/nodes")
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark == "rgb(13, 16, 21)"
    await page.get_by_role("button", name="Use light colours").click()


async def test_pages_and_forms_work_without_scripts(browser: Any, shop: Shop) -> None:
    context = await browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 780})
    page = await context.new_page()
    await page.goto(f"{shop.url}/subscriptions/billing")
    await expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    await page.get_by_role("button", name="Pause", exact=True).click()
    await expect(page.get_by_text("billing is paused")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("billing goes on")).to_be_visible()
    await context.close()


async def test_a_page_of_another_origin_can_do_nothing(browser: Any, shop: Shop) -> None:
    async def evil(scope: Any, receive: Any, send: Any) -> None:
        form = f'<form method="post" action="{shop.url}/actions/pause"><input name="name" value="billing">'
        await HTMLResponse(f"{form}<button>Go</button></form>")(scope, receive, send)

    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{shop.url}/subscriptions/billing")  # the session's cookie is there
    async with serving(evil) as url:
        await page.goto(url)
        async with page.expect_response("**/actions/pause") as answer:
            await page.get_by_role("button").click()
        assert (await answer.value).status == 403
        await context.close()
    assert (await shop.store.subscriptions.get("billing")).state == "active"


async def test_a_name_that_was_pointed_at_this_machine_is_refused(browser: Any, shop: Shop) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    evil = f"http://evil.example:{urlsplit(shop.url).port}"
    answer = await page.goto(evil)
    assert answer.status == 421
    await expect(page.get_by_role("heading", level=1)).to_have_text("Wrong address")
    posted = "fetch('/actions/pause', {method: 'POST', body: new URLSearchParams('name=billing')})"
    assert await page.evaluate(f"{posted}.then((got) => got.status)") == 421
    await context.close()
    assert (await shop.store.subscriptions.get("billing")).state == "active"


async def test_who_has_no_token_signs_in_first(browser: Any, shop: Shop) -> None:
    from eventstore.dashboard import dashboard

    context = await browser.new_context()
    page = await context.new_page()
    async with serving(dashboard(shop.store, tokens={"ada": "a-token-of-32-characters-or-more!"})) as url:
        await page.goto(f"{url}/nodes")
        assert await page.evaluate(CHECKS) == []
        await page.get_by_label("Token").fill("a-guess")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_label("Token").fill("a-token-of-32-characters-or-more!")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
        await expect(page.get_by_role("banner")).to_contain_text("signed in as ada")
        await context.close()
