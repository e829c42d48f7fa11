from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventstore import EventStore, EventType, FailurePolicy, NewEvent, Settings
from eventstore.dashboard import dashboard
from eventstore.dashboard.encoding import beginning, to_json
from eventstore.dashboard.pages import PAGES
from eventstore.dashboard.parameters import Parameters
from tests.dashboard.conftest import ORIGIN, WITHIN, browser, csrf_of

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
    assert (await client.get("/?format=json")).json()["log"]["per_second"] == 0  # a program looks, too


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


async def test_a_timeline_of_what_was_imported_goes_by_when_it_happened(
    store: EventStore, client: httpx.AsyncClient
) -> None:
    then = datetime(2019, 1, 31, tzinfo=UTC)
    days = [NewEvent("A", {}, created_at=then + timedelta(days=day)) for day in (0, 800)]
    await store.append("old", days)
    await store.append("new", [NewEvent("A")])
    told = {path: (await client.get(f"/streams/{path}")).text for path in ("old", "old?by=recorded", "new")}
    assert "over 800 d, by when they happened" in told["old"]
    assert "by when they were recorded" in told["old?by=recorded"]
    assert "Time that the timeline goes by" in told["old?by=recorded"]
    assert "Time that the timeline goes by" not in told["new"]


FOUND = {
    "": [4, 3, 2, 1],
    "stream=order-2": [4],
    "category=order&type=OrderPlaced": [3, 2, 1],
    "tag=customer:7": [3, 2, 1],
    "types=OrderPlaced,OrderPaid&before=4": [3, 2, 1],
    "type=OrderPlaced&type=OrderPaid&before=4": [3, 2, 1],
    "type=OrderPlaced,OrderPaid": [],
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


NAMES = ["a\nb", "a\n", "a/b", "..", "a/../b", "ü 名", "a?b#c", "%2F", "a//b", "/", "a\\b", "+&=", "{{ 7*7 }}"]


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
    "/events/000000000000000000001",
    "/events/01890000000070008000000000000000",
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
    "/rewind?to=0",
    "/subscription",
    "/events?tags=" + ",".join(map(str, range(65))),
    "/events?" + "a=1&" * 4000,
    "/events?before=٣",
]


async def test_what_makes_no_sense_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for path in SENSELESS:
        page, answer = await client.get(path), await client.get(path, headers={"accept": "application/json"})
        assert (page.status_code, answer.status_code) == (400, 400), path
        assert "format" in path or answer.json()["error"] == "InvalidParameter"


async def test_a_parameter_that_a_page_does_not_know_is_refused_with_those_it_does(
    store: EventStore, client: httpx.AsyncClient
) -> None:
    await filled(store)
    for path in EVERY:
        for asked in (path, f"/live{path}"):
            answer = await client.get(httpx.URL(asked).copy_merge_params({"typ": "A", "format": "json"}))
            assert answer.status_code == 400, asked
            assert answer.json()["message"].startswith("typ is no parameter"), asked
    answer = await client.get("/requests?last=99y&format=json")
    assert answer.json()["message"] == "last is no parameter of this page, which takes period, format"
    assert (await client.get("/streams/order-1?name=order-2")).status_code == 400


async def test_every_parameter_that_a_page_takes_is_read(
    store: EventStore, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store)
    read: set[str] = set()
    text, many = Parameters.text, Parameters.many

    def noted_text(self: Parameters, name: str, *args: Any, **options: Any) -> str:
        read.add(name)
        return text(self, name, *args, **options)

    def noted_many(self: Parameters, *names: str) -> tuple[str, ...]:
        read.update(names)
        return many(self, *names)

    monkeypatch.setattr(Parameters, "text", noted_text)
    monkeypatch.setattr(Parameters, "many", noted_many)
    for path, name in zip(EVERY, PAGES_BY_PATH, strict=True):
        read.clear()
        await client.get(path)
        assert read == set(PAGES[name].takes), path


PAGES_BY_PATH = ["overview", "subscriptions", "subscription", "rewind", "streams", "stream", "events", "event",
                 "nodes", "pubsub", "requests", "actions"]  # fmt: skip


async def test_a_reply_echoes_a_search_by_names_that_can_be_asked_for(client: httpx.AsyncClient) -> None:
    search = (await client.get("/events?types=A,B&tag=a&format=json")).json()["search"]
    assert (search["types"], search["tags"]) == (["A", "B"], ["a"])
    assert set(search) <= set(PAGES["events"].takes)


async def test_links_to_tags_and_types_find_them_whatever_is_in_them(
    store: EventStore, client: httpx.AsyncClient
) -> None:
    await store.append("s", [NewEvent("Paid, twice", {}, tags=["Smith, John", " spaced "]), NewEvent("Other", {})])
    links = [link for link in Links((await client.get("/events/1")).text).found if "/events?t" in link]
    assert len(links) == 3
    for link in links:
        found = (await client.get(link, headers={"accept": "application/json"})).json()["found"]["events"]
        assert [event["position"] for event in found] == [1], link
        page = (await client.get(link)).text
        assert 'type="hidden" name="t' in page  # the next search keeps it, for no list can hold it


async def test_a_rewind_that_cannot_be_leads_back_to_its_form_with_the_reason(
    store: EventStore, client: httpx.AsyncClient
) -> None:
    await filled(store)
    none = "01890a5d-ac96-774b-bcce-b302099a8057"
    for to, told in (
        ("999", "position 999 lies beyond the log, which ends at 4"),
        ("soon", "must be a position, an event"),
        ("2100-01-01", "lies in the future"),
        (none, f"there is no event {none}"),
    ):
        answer = await client.get("/rewind", params={"name": "billing", "to": to})
        assert (answer.status_code, answer.headers["location"]) == (303, "/subscriptions/billing")
        assert told in (await client.get(answer.headers["location"])).text.replace("&#39;", "'")
        answer = await client.get("/rewind", params={"name": "billing", "to": to, "format": "json"})
        assert (answer.status_code, "subscriptions." in answer.text) == (400, False)


async def test_while_the_database_is_away_pages_say_so_and_load_again(db: str) -> None:
    async with EventStore(db, settings=Settings(listen=False)) as store:
        app = dashboard(store)
        async with browser(app) as client:
            store.database.rows = _away  # type: ignore[method-assign]
            answer = await client.get("/subscriptions")
            assert (answer.status_code, answer.headers["refresh"], answer.headers["retry-after"]) == (503, "5", "5")
            assert "canary" not in answer.text
            assert "cannot be reached" in answer.text
            assert "Traceback" not in answer.text


async def _away(*_: Any, **__: Any) -> Any:
    from eventstore.errors import DatabaseUnavailable

    raise DatabaseUnavailable("cannot connect to postgresql://ada:canary@db/x")


@pytest.mark.parametrize(("state", "status"), [("55000", 503), ("53100", 503), ("53200", 503), ("22012", 500)])
async def test_a_server_that_cannot_is_away(
    store: EventStore, client: httpx.AsyncClient, state: str, status: int
) -> None:
    class Said(Exception):
        sqlstate = state

    async def fails(*_: Any, **__: Any) -> Any:
        raise Said

    store.database.rows = fails  # type: ignore[method-assign]
    assert (await client.get("/nodes")).status_code == status


async def test_of_large_events_only_what_is_shown_is_written(
    store: EventStore, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"rows": [{"number": n, "text": "x" * 20} for n in range(5_000)]}
    await store.append("s", [NewEvent("Large", data)])
    longest = [0]
    dumps = json.dumps

    def noted(*args: Any, **options: Any) -> str:
        text = dumps(*args, **options)
        longest[0] = max(longest[0], len(text))
        return text

    monkeypatch.setattr("eventstore.dashboard.encoding.json.dumps", noted)
    for path in ("/events", "/streams/s"):
        assert "{&#34;rows&#34;:[{&#34;number&#34;:0," in (await client.get(path)).text
    assert longest[0] < 1_000
    page = (await client.get("/events/1")).text
    assert page.count("<details") < 10  # no tree of it
    assert "&#34;number&#34;:4999," in page


SAMPLES = [None, True, 1.5, 2**70, "", "x" * 50, 'é\u2028"', [], {}, [[], {}], {"a": [1, {"b": None}], "c": "d"}, (1,)]


@pytest.mark.parametrize("value", SAMPLES, ids=str)
def test_the_beginning_of_json_is_that_of_the_whole(value: Any) -> None:
    whole = to_json(value)
    assert json.loads(whole) == (list(value) if isinstance(value, tuple) else value)
    assert beginning(value, 1_000) == whole
    for most in range(len(whole)):
        found = beginning(value, most)
        assert (len(found) > most, found[:most]) == (True, whole[:most])


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
    app = Starlette(routes=[Mount("/ops/events", dashboard(store, allow_actions=True, open_to_all=True))])
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


async def test_one_below_another_has_a_session_of_its_own(store: EventStore) -> None:
    await filled(store)
    at, below = (
        dashboard(store, allow_actions=True, open_to_all=True),
        dashboard(store, allow_actions=True, open_to_all=True),
    )
    app = Starlette(routes=[Mount("/eu", below), Mount("/", at)])
    async with browser(app) as client:
        for root in ("", "/eu"):
            await client.get(f"{root}/subscriptions/billing")
        # As browsers send them: the longest path first, and servers take the last.
        jar = sorted(client.cookies.jar, key=lambda one: -len(one.path))
        sent = {"cookie": "; ".join(f"{one.name}={one.value}" for one in jar), "origin": ORIGIN}
        csrf = csrf_of((await client.get("/eu/subscriptions/billing", headers=sent)).text)
        answer = await client.post("/eu/actions/pause", data={"csrf": csrf, "name": "billing"}, headers=sent)
        assert answer.status_code == 303
    assert (await store.subscriptions.get("billing")).state == "paused"


async def test_a_path_that_somebody_chooses_stays_in_the_cookies_path(store: EventStore) -> None:
    await filled(store)
    app = Starlette(routes=[Mount("/{tenant}", dashboard(store, allow_actions=True, open_to_all=True))])
    async with browser(app) as client:
        for tenant, root in (("a;%20Domain=evil%0d%0aX-Y:1", "/a%3B%20Domain%3Devil%0D%0AX-Y%3A1"), ("运维", None)):
            page = await client.get(f"/{tenant}/subscriptions/billing")
            assert page.status_code == 200
            assert root is None or f"; Path={root};" in page.headers["set-cookie"]
            assert Links(page.text).found[1].startswith(root or "/%E8%BF%90%E7%BB%B4/")


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
            await store.subscriptions.wait_for(CORPUS[0], 1, timeout=WITHIN)
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
