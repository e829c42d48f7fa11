from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventstore import EventStore, EventType, FailurePolicy, NewEvent, Settings
from eventstore.dashboard import dashboard
from eventstore.dashboard.pages import PAGES
from tests.dashboard.conftest import ORIGIN, browser

EVERY = [
    "/",
    "/subscriptions",
    "/subscriptions/billing",
    "/rewind?name=billing&to=0",
    "/streams",
    "/streams/order-1",
    "/events",
    "/events/1",
    "/nodes",
    "/pubsub",
    "/requests",
    "/actions",
]


async def filled(store: EventStore) -> None:
    await store.append("order-1", [NewEvent("OrderPlaced", {"total": n}, tags=["customer:7"]) for n in range(1, 4)])
    await store.append("order-2", [NewEvent("OrderPaid", {"total": 2**63}, {"trace": "x"})])
    await store.subscribe("billing", EventType("OrderPlaced"), pool_size=2)


async def test_every_page_is_a_page_and_json(store: EventStore, client: httpx.AsyncClient) -> None:
    await filled(store)
    for path in EVERY:
        page = await client.get(path)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8"), page.text
        for answer in (
            await client.get(path, headers={"accept": "application/json"}),
            await client.get(httpx.URL(path).copy_merge_params({"format": "json"})),
        ):
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert isinstance(answer.json(), dict)
    assert len(EVERY) == len(PAGES)


async def test_the_overview_tells_rates_while_somebody_looks(client: httpx.AsyncClient) -> None:
    data = (await client.get("/?format=json")).json()
    assert data["log"]["horizon"] == 0
    assert data["log"]["per_second"] is None


async def test_prometheus_gets_metrics(store: EventStore, client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics", headers={"accept": "*/*"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert "eventstore_up " in answer.text


async def test_large_numbers_arrive_as_they_were_written(store: EventStore, client: httpx.AsyncClient) -> None:
    await filled(store)
    assert json.loads((await client.get("/events/4?format=json")).text)["event"]["data"] == {"total": 2**63}


async def test_subscriptions_come_in_pages(store: EventStore, client: httpx.AsyncClient) -> None:
    for number in range(5):
        await store.subscribe(f"sub-{number}", EventType("A"))
    first = (await client.get("/subscriptions?limit=2&format=json")).json()
    last = (await client.get("/subscriptions?limit=2&offset=4&search=SUB&format=json")).json()
    assert [(row["name"]) for row in first["found"]["rows"]] == ["sub-0", "sub-1"]
    assert (first["previous"], first["next"], last["previous"], last["next"]) == (None, 2, 2, None)
    assert (await client.get("/subscriptions?status=paused&format=json")).json()["found"]["total"] == 0


async def test_a_pool_of_many_partitions_comes_in_pages(store: EventStore, client: httpx.AsyncClient) -> None:
    await store.subscribe("wide", EventType("A"), pool_size=120)
    data = (await client.get("/subscriptions/wide?partition=100&format=json")).json()
    assert [one["number"] for one in data["detail"]["partitions"]] == list(range(100, 120))
    assert (data["partitions_total"], data["partitions_previous"], data["partitions_next"]) == (120, 50, None)


async def test_a_stream_comes_in_pages_newest_first(store: EventStore, client: httpx.AsyncClient) -> None:
    await filled(store)
    data = (await client.get("/streams/order-1?limit=2&format=json")).json()
    assert ([event["version"] for event in data["events"]], data["older"]) == ([3, 2], 2)
    data = (await client.get("/streams/order-1?limit=2&before=2&format=json")).json()
    assert ([event["version"] for event in data["events"]], data["older"]) == ([1], None)


FOUND = {
    "": [4, 3, 2, 1],
    "stream=order-2": [4],
    "category=order&type=OrderPlaced": [3, 2, 1],
    "tag=customer:7": [3, 2, 1],
    "type=OrderPlaced,OrderPaid&before=4": [3, 2, 1],
    "since=2100-01-01": [],
    "until=2100-01-01T00:00&limit=1": [4],
}


async def test_events_are_found(store: EventStore, client: httpx.AsyncClient) -> None:
    await filled(store)
    for query, positions in FOUND.items():
        data = (await client.get(f"/events?format=json&{query}")).json()
        assert [event["position"] for event in data["found"]["events"]] == positions, query


async def test_a_rewind_is_shown_before_it_is_done(store: EventStore, client: httpx.AsyncClient) -> None:
    await filled(store)
    await store.subscriptions.ack("billing", 4)
    event = (await client.get("/events/1?format=json")).json()["event"]
    shown = {}
    for to in ("1", event["id"], event["recorded_at"]):
        data = (await client.get("/rewind", params={"name": "billing", "to": to, "format": "json"})).json()
        shown[data["by"]] = (data["after"], data["events"])
    assert shown["position"] == (1, 2)
    assert set(shown) == {"position", "event", "time"}
    assert (await store.subscriptions.get("billing")).partitions[0].checkpoint == 4


NAMES = ["a/b", "..", "a/../b", "ü 名", "a?b#c", "%2F", "a//b", "/", "a\\b", "+&=", "{{ 7*7 }}"]


async def test_any_name_has_a_page_that_links_lead_to(store: EventStore, client: httpx.AsyncClient) -> None:
    for name in NAMES:
        await store.append(name, [NewEvent("A", {})])
        await store.subscribe(name, EventType("A"))
    for kind in ("streams", "subscriptions"):
        links = Links((await client.get(f"/{kind}")).text).starting(f"/{kind[:-1]}")
        answers = [await client.get(link, headers={"accept": "application/json"}) for link in links]
        assert {answer.status_code for answer in answers} == {200}
        named = [answer for answer in answers if answer.json().get("name") in NAMES]
        assert {answer.json()["name"] for answer in named} == set(NAMES)
        for answer in named:
            page = await client.get(answer.request.url)
            assert f'/live{answer.request.url.raw_path.decode()}"' in page.text.replace("&amp;", "&")


class Links(HTMLParser):
    """The links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]

    def starting(self, start: str) -> list[str]:
        return [link for link in self.found if link.startswith(start)]


# -- refusals


MISSING = [
    "/subscriptions/none",
    "/streams/none",
    "/events/99",
    "/events/none",
    "/events/1234567890123456789012",
    "/nowhere",
    "/subscriptions/",
    "/events/01890a5d-ac96-774b-bcce-b302099a8057",
    "/rewind?name=none&to=0",
]


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    statuses = {path: (await client.get(path)).status_code for path in MISSING}
    assert statuses == dict.fromkeys(MISSING, 404)
    assert (await client.get("/streams/" + "x" * 600)).status_code == 400


SENSELESS = [
    "/subscriptions?limit=0",
    "/subscriptions?limit=1000",
    "/subscriptions?offset=-1",
    "/subscriptions?offset=x",
    "/subscriptions?order=size",
    "/subscriptions?status=well",
    "/subscriptions?node=1",
    "/events?since=yesterday",
    "/events?before=1e3",
    "/events?before=99999999999999999999",
    "/events?type=" + "x" * 513,
    "/events?stream=a%00b",
    "/streams?prefix=a&category=b",
    "/requests?period=1y",
    "/?format=xml",
    "/rewind?name=a&to=soon",
    "/rewind?to=0",
    "/subscription",
    "/events?tag=" + ",".join(map(str, range(65))),
    "/events?" + "a=1&" * 4000,
    "/events?before=٣",
]


async def test_what_makes_no_sense_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for path in SENSELESS:
        page, answer = await client.get(path), await client.get(path, headers={"accept": "application/json"})
        assert (page.status_code, answer.status_code) == (400, 400), path
        assert "format" in path or answer.json()["error"] == "InvalidParameter"


async def test_while_the_database_is_away_pages_say_so_and_load_again(db: str) -> None:
    async with EventStore(db, settings=Settings(listen=False)) as store:
        app = dashboard(store)
        async with browser(app) as client:
            store.database.rows = _away  # type: ignore[method-assign]
            answer = await client.get("/subscriptions")
            assert (answer.status_code, answer.headers["refresh"], answer.headers["retry-after"]) == (503, "5", "5")
            assert "canary" not in answer.text
            assert "Traceback" not in answer.text


async def _away(*_: Any, **__: Any) -> Any:
    from eventstore.errors import DatabaseUnavailable

    raise DatabaseUnavailable("cannot connect to postgresql://ada:canary@db/x")


async def test_what_nobody_foresaw_is_told_to_the_log_alone(
    store: EventStore, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("canary of the driver")

    store.database.rows = broken  # type: ignore[method-assign]
    answer = await client.get("/nodes")
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert "canary" in caplog.text


# -- mounted


async def test_it_is_mounted_anywhere_and_all_links_stay_below(store: EventStore) -> None:
    await filled(store)
    app = Starlette(routes=[Mount("/ops/events", dashboard(store, allow_actions=True))])
    async with browser(app) as client:
        for path in ("/", "/subscriptions/billing", "/streams/order-1", "/events", "/nowhere"):
            page = await client.get(f"/ops/events{path}")
            links = [link for link in Links(page.text).found if not link.startswith("#")]
            assert links
            assert all(link.startswith("/ops/events/") for link in links), links
        assert {cookie.path for cookie in client.cookies.jar} == {"/ops/events"}
        page = await client.get("/ops/events/subscriptions/billing")
        assert 'data-live="/ops/events/live/subscriptions/billing"' in page.text
        assert (await client.get("/ops/events/static/app.js")).status_code == 200


async def test_before_the_store_is_open_and_after_it_is_closed_it_says_so(db: str) -> None:
    store = EventStore(db)
    async with browser(dashboard(store)) as client:
        assert (await client.get("/")).status_code == 503
        async with store:
            assert (await client.get("/")).status_code == 200
        assert (await client.get("/")).status_code == 503


# -- what data says


CORPUS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><script>x</script>",
    "javascript:alert(1)",
    "<svg/onload=alert(1)>",
    "${alert(1)}",
    "{{ page.csrf }}",
    "{% raw %}",
    "</script><script>x",
    "<!--<script>",
    "&lt;script&gt;",
    "\u2028<b>",
    "data: x\n\nevent: part\ndata: <script>x</script>",
]


class Suspicious(HTMLParser):
    """What of a page would run, or look as if we had written it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script" and not (given.get("src") or "").startswith("/static/"):
            self.found.append(tag)
        if tag in ("iframe", "object", "embed", "base", "style", "b") or (tag == "img" and given.get("src") == "x"):
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name in ("style", "srcdoc")]
        links = [given.get(name) or "" for name in ("href", "src", "action", "formaction")]
        self.found += [link for link in links if link.lower().strip().startswith(("javascript:", "data:", "//"))]


def test_what_would_run_is_seen() -> None:
    for html in (
        "<script>x</script>",
        '<a onclick="x">',
        '<a href=" javascript:x">',
        "<svg/onload=x>",
        '<p style="x">',
    ):
        assert Suspicious(html).found


@pytest.fixture
async def hostile(store: EventStore) -> Callable[[], list[str]]:
    """A store in which everything that can be named has a hostile name, and the pages that show it."""
    for text in CORPUS:
        stream = text.replace("\n", " ")
        event = NewEvent(text.replace("\n", " "), {text: [text]}, {text: text}, tags=[text.replace("\n", " ")])
        done = await store.append(stream, [event])
        await store.subscribe(stream, EventType(text.replace("\n", " ")), policy=FailurePolicy(attempts=1))
        assert done.position
    assert store.settings

    @store.handler(CORPUS[0])
    async def fail(_event: object, _delivery: object) -> None:
        raise RuntimeError(CORPUS[1])

    return lambda: ["/", "/subscriptions", "/streams", "/events", "/events?type=%3Cscript%3E", "/actions", "/requests"]


async def test_nothing_that_data_says_becomes_a_part_of_the_page(
    store: EventStore, client: httpx.AsyncClient, hostile: Callable[[], list[str]]
) -> None:
    async with store.running():
        while not await store.subscriptions.parked(CORPUS[0]):
            await store.subscriptions.wait_for(CORPUS[0], 1, timeout=5)
        paths = hostile()
        for text in CORPUS:
            name = text.replace("\n", " ")
            paths += [f"/streams?{httpx.QueryParams(prefix=text)}", f"/subscriptions?{httpx.QueryParams(search=text)}"]
            paths += [f"/stream?{httpx.QueryParams(name=name)}", f"/subscription?{httpx.QueryParams(name=name)}"]
            paths += [
                f"/rewind?{httpx.QueryParams(name=name, to='0')}",
                f"/rewind?{httpx.QueryParams(name=name, to=text)}",
            ]
            paths += [f"/events?{httpx.QueryParams(before=text)}", f"/?{httpx.QueryParams(x=text)}"]
            paths += [f"/login?{httpx.QueryParams(next=text)}"]
        paths += [f"/events/{position}" for position in range(1, len(CORPUS) + 1)]
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code in (200, 303, 400, 404), (path, answer.text)
            assert not Suspicious(answer.text).found, (path, Suspicious(answer.text).found)


async def test_what_happened_is_told_as_text(client: httpx.AsyncClient, store: EventStore) -> None:
    from tests.dashboard.conftest import submit

    await store.subscribe(CORPUS[0], EventType("A"))
    answer = await submit(client, "pause", "/subscription?name=%3Cscript%3Ealert(1)%3C/script%3E", name=CORPUS[0])
    assert "is paused" in answer.text
    assert not Suspicious(answer.text).found
    assert ORIGIN
