"""Every route against everybody who must not come in. No database: nothing of it may be asked first."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from eventstore import EventStore
from eventstore.dashboard import Token, dashboard
from eventstore.dashboard.security import HEADERS
from eventstore.errors import ConfigurationError
from tests.dashboard.conftest import ORIGIN, READER, SCRAPER, SECRET, browser, csrf_of, own_csrf, signed_in
from tests.faults.figures import tally as tally

CANARY = "correct-horse-battery-canary"
CLOSED = f"postgresql://ada:{CANARY}@127.0.0.1:1/nowhere"

PAGES = [
    "/",
    "/subscriptions",
    "/subscriptions/a",
    "/subscription?name=a",
    "/streams",
    "/streams/a",
    "/events",
    "/events/1",
    "/nodes",
    "/pubsub",
    "/requests",
    "/actions",
    "/rewind?name=a&to=0",
    "/nowhere",
    "/metrics",
]
LIVE = [
    "/live/",
    "/live",
    "/live/subscriptions",
    "/live/subscriptions/a",
    "/live/streams/a",
    "/live/events",
    "/live/nodes",
    "/live/pubsub",
    "/live/requests",
    "/live/actions",
]
ACTIONS = [f"/actions/{what}" for what in ("pause", "resume", "rewind", "resize", "replay", "discard", "nothing")]
OPEN = ["/login", "/static/app.js"]


@pytest.fixture(autouse=True)
def count_refusals(tally: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    send = httpx.AsyncClient.send

    async def counting(client: httpx.AsyncClient, *arguments: Any, **options: Any) -> httpx.Response:
        answer = await send(client, *arguments, **options)
        tally["requests"] += 1
        tally["requests_refused"] += answer.status_code in (401, 403, 421, 429)
        return answer

    monkeypatch.setattr(httpx.AsyncClient, "send", counting)


def closed(**options: Any) -> Starlette:
    return dashboard(EventStore(CLOSED), **options)


@pytest.fixture
def guarded() -> Starlette:
    tokens = {"ada": SECRET, "bob": Token(READER, "read"), "prometheus": Token(SCRAPER, "metrics")}
    return closed(allow_actions=True, tokens=tokens)


@pytest.fixture
async def nobody(guarded: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(guarded) as client:
        yield client


# -- nobody signed in


@pytest.mark.parametrize("path", PAGES + LIVE)
async def test_whoever_has_not_signed_in_sees_no_page(nobody: httpx.AsyncClient, path: str) -> None:
    for accept in ("text/html", "application/json", "text/event-stream"):
        answer = await nobody.get(path, headers={"accept": accept})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_whoever_has_not_signed_in_does_nothing(nobody: httpx.AsyncClient) -> None:
    form = {"csrf": csrf_of((await nobody.get("/login")).text), "name": "a"}
    for path in (*ACTIONS, "/logout"):
        assert (await nobody.post(path, data=form, headers={"origin": ORIGIN})).status_code == 401


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", READER[:-1]])
async def test_a_wrong_token_in_the_header_is_none(nobody: httpx.AsyncClient, secret: str) -> None:
    answer = await nobody.get("/events?format=json", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 401
    assert (await nobody.get("/", headers={"authorization": f"Basic {SECRET}"})).status_code == 401


async def test_a_token_in_the_header_opens_what_its_scope_says(nobody: httpx.AsyncClient) -> None:
    statuses = {}
    for secret in (SECRET, READER, SCRAPER):
        headers = {"authorization": f"Bearer {secret}", "accept": "application/json"}
        statuses[secret] = [(await nobody.get(path, headers=headers)).status_code for path in ("/events", "/metrics")]
    # 503: let in, but the store is closed.
    assert statuses == {SECRET: [503, 503], READER: [503, 503], SCRAPER: [403, 503]}


async def test_programs_act_by_the_command_line(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.post("/actions/pause", data={"name": "a"}, headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 403


# -- signing in


async def test_signing_in_opens_a_session_that_no_script_reads(guarded: Starlette) -> None:
    async with browser(guarded) as client:
        before = (await client.get("/login")).headers["set-cookie"]
        form = {"csrf": csrf_of((await client.get("/login")).text), "token": SECRET, "next": "/events?type=a"}
        answer = await client.post("/login", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/events?type=a")
        assert answer.headers["set-cookie"] != before
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(answer.headers["set-cookie"].split("; "))
        assert SECRET not in answer.headers["set-cookie"]
        assert (await client.get("/events")).status_code == 503


async def test_cookies_are_for_tls_alone_where_there_is_any() -> None:
    for app, base in (
        (closed(tokens={"a": SECRET}), "https://localhost"),
        (closed(tokens={"a": SECRET}, behind_tls_proxy=True), "http://localhost"),
    ):
        async with browser(app, base) as client:
            assert "; Secure" in (await client.get("/login")).headers["set-cookie"]


@pytest.mark.parametrize(
    "following", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
async def test_signing_in_leads_nowhere_else(nobody: httpx.AsyncClient, following: str) -> None:
    page = await nobody.get("/login", params={"next": following})
    assert "evil" not in page.text
    form = {"csrf": csrf_of(page.text), "token": SECRET, "next": following}
    assert (await nobody.post("/login", data=form)).headers["location"] == "/"


async def test_a_form_to_sign_in_that_is_not_ours_is_refused(nobody: httpx.AsyncClient) -> None:
    csrf = csrf_of((await nobody.get("/login")).text)
    nobody.cookies.clear()
    assert (await nobody.post("/login", data={"csrf": csrf, "token": SECRET})).status_code == 403


async def test_guessing_is_slowed_down(nobody: httpx.AsyncClient) -> None:
    form = {"csrf": csrf_of((await nobody.get("/login")).text), "token": "guess"}
    statuses = [(await nobody.post("/login", data=form)).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    answer = await nobody.get("/", headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 61


async def test_a_token_for_metrics_opens_no_session(nobody: httpx.AsyncClient) -> None:
    form = {"csrf": csrf_of((await nobody.get("/login")).text), "token": SCRAPER}
    assert (await nobody.post("/login", data=form)).status_code == 401
    assert (await nobody.get("/")).status_code == 401


async def test_a_session_ends_when_its_token_changes() -> None:
    secret = "s" * 32
    cookies = (await signed_in(closed(tokens={"ada": SECRET}, secret=secret))).cookies
    for tokens, status in (({"ada": SECRET}, 503), ({"ada": SECRET + "2"}, 401), ({"bob": SECRET}, 401)):
        async with browser(closed(tokens=tokens, secret=secret)) as client:
            client.cookies = cookies
            assert (await client.get("/")).status_code == status


async def test_signing_out_ends_the_session(guarded: Starlette) -> None:
    client = await signed_in(guarded)
    csrf = own_csrf(guarded, client)
    assert (await client.post("/logout", data={"csrf": csrf})).status_code == 303
    assert (await client.get("/")).status_code == 401


async def test_a_link_from_another_site_is_loaded_again_with_the_cookie(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get("/events", headers={"sec-fetch-site": "cross-site"})
    assert answer.headers["refresh"] == "0"
    assert "set-cookie" not in answer.headers  # it would put out the session that the browser has, and did not send
    assert "refresh" not in (await nobody.get("/events", headers={"sec-fetch-site": "same-origin"})).headers


# -- a page of somebody else


@pytest.mark.parametrize("path", [*PAGES, *LIVE, *ACTIONS, *OPEN])
async def test_a_rebound_name_gets_nothing(path: str) -> None:
    await ask_by_another_name(path)


async def ask_by_another_name(path: str) -> None:
    host = "localhost.evil.example:4000"
    async with browser(closed(allow_actions=True, open_to_all=True)) as client:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT"):
            answer = await client.request(method, path, headers={"host": host, "origin": f"http://{host}"})
            assert answer.status_code == 421
            assert host not in answer.text


ELSEWHERE: list[dict[str, str]] = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", ELSEWHERE)
async def test_another_site_cannot_act_even_with_the_session(guarded: Starlette, headers: dict[str, str]) -> None:
    await act_from(guarded, headers)


async def act_from(guarded: Starlette, headers: dict[str, str]) -> None:
    """Try every action with the session of somebody who may; all are refused."""
    client = await signed_in(guarded)
    form = {"csrf": own_csrf(guarded, client), "name": "a"}
    for path in (*ACTIONS, "/login", "/logout"):
        answer = await client.post(path, data=form, headers={"accept": "application/json", **headers})
        assert (answer.status_code, answer.json()["error"]) == (403, "CrossOrigin")


async def test_a_guard_that_looks_at_no_origin_or_no_host_is_caught(
    guarded: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.dashboard.guard.made_elsewhere", lambda *_: None)
    with pytest.raises(AssertionError):
        await act_from(guarded, ELSEWHERE[0])
    monkeypatch.setattr("eventstore.dashboard.guard.host_allowed", lambda *_: True)
    with pytest.raises(AssertionError):
        await ask_by_another_name("/events")


@pytest.mark.parametrize("headers", ELSEWHERE)
async def test_another_site_cannot_watch(headers: dict[str, str]) -> None:
    async with browser(closed()) as client:
        assert {(await client.get(path, headers=headers)).status_code for path in LIVE} == {403}


async def test_another_site_cannot_make_us_work_by_its_pictures() -> None:
    async with browser(closed()) as client:
        for mode, status in (("no-cors", 403), ("cors", 403), ("navigate", 503)):
            headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
            assert (await client.get("/events", headers=headers)).status_code == status


@pytest.mark.parametrize("path", [*ACTIONS, "/logout"])
async def test_a_form_without_its_token_does_nothing(guarded: Starlette, path: str) -> None:
    client, other = await signed_in(guarded), await signed_in(guarded)
    for csrf in ("", "0" * 64, "é", own_csrf(guarded, other)):
        answer = await client.post(path, data={"csrf": csrf, "name": "a"}, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["error"]) == (403, "FormExpired")


async def test_without_tokens_forms_belong_to_the_browser_all_the_same() -> None:
    async with browser(closed(allow_actions=True, open_to_all=True)) as client:
        assert (await client.post("/actions/pause", data={"name": "a"})).status_code == 403


# -- looking only


@pytest.mark.parametrize(("allow_actions", "scope"), [(False, "act"), (True, "read")])
async def test_where_one_may_only_look_nothing_changes(allow_actions: bool, scope: Any) -> None:
    app = closed(tokens={"ada": Token(SECRET, scope)}, allow_actions=allow_actions)
    client = await signed_in(app)
    form = {"csrf": own_csrf(app, client), "name": "a"}
    for path in ACTIONS:
        answer = await client.post(path, data=form, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["error"]) == (403, "ReadOnly")


async def test_the_application_says_who_it_is() -> None:
    app = closed(allow_actions=True, identify=lambda request: request.headers.get("x-user"))
    async with browser(app) as client:
        for path in (*PAGES, *LIVE, *ACTIONS):
            method = "POST" if path in ACTIONS else "GET"
            assert (await client.request(method, path)).status_code == 401
            assert (await client.request(method, path, headers={"x-user": "ada"})).status_code in (
                403,
                404,
                415,
                501,
                503,
            )


@pytest.mark.parametrize("found", ["", "  ", False, True, 0, 1, b"ada", ["ada"], object()])
@pytest.mark.parametrize("later", [False, True])
async def test_what_identify_returns_beside_a_name_lets_nobody_in(
    found: Any, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def later_on(_request: Any) -> Any:
        return found

    async with browser(closed(allow_actions=True, identify=later_on if later else lambda _: found)) as client:
        assert [(await client.get(path)).status_code for path in ("/", "/events")] == [401, 401]
    assert caplog.text.count("identify has to return a name") == 1


async def test_identify_may_be_a_coroutine_function() -> None:
    async def signed_in_as(request: Any) -> str | None:
        return request.headers.get("x-user")  # type: ignore[no-any-return]

    async with browser(closed(allow_actions=True, identify=signed_in_as)) as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/", headers={"x-user": "ada"})).status_code == 503


async def test_identify_may_refuse_as_the_application_does() -> None:
    def refuses(_request: Any) -> str | None:
        raise HTTPException(307, "sign in", {"location": "/sign-in"})

    async with browser(closed(identify=refuses)) as client:
        answer = await client.get("/events")
        assert (answer.status_code, answer.headers["location"]) == (307, "/sign-in")


async def test_an_unknown_token_is_told_from_none(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get("/", headers={"authorization": f"Bearer {SECRET}x", "accept": "*/*"})
    assert (answer.status_code, answer.json()["message"]) == (401, "this token is not known")
    assert "not known" not in (await nobody.get("/", headers={"accept": "application/json"})).text


async def test_programs_with_a_token_get_json_unless_they_ask_for_pages(nobody: httpx.AsyncClient) -> None:
    for accept, kind in (("*/*", "application/json"), ("text/html", "text/html; charset=utf-8")):
        headers = {"authorization": f"Bearer {SECRET}", "accept": accept}
        assert (await nobody.get("/", headers=headers)).headers["content-type"] == kind


async def test_a_sign_in_that_a_proxy_asks_for_is_not_ours(guarded: Starlette) -> None:
    client = await signed_in(guarded)
    for header in ("Basic dXNlcjpwdw==", "Bearer of-the-proxy"):
        statuses = {(await client.get("/", headers={"authorization": header})).status_code for _ in range(11)}
        assert statuses == {503}
    async with browser(guarded) as other:
        answers = [await other.get("/", headers={"authorization": "Basic eDp5"}) for _ in range(11)]
        assert {answer.status_code for answer in answers} == {401}
        assert (await other.get("/", headers={"authorization": f"Bearer {SECRET}"})).status_code == 503


async def test_who_was_right_before_goes_on_while_a_neighbour_guesses(guarded: Starlette) -> None:
    right, guess = ({"authorization": f"Bearer {secret}"} for secret in (SCRAPER, "guess"))
    async with browser(guarded) as client:
        assert (await client.get("/metrics", headers=right)).status_code == 503
        assert [(await client.get("/", headers=guess)).status_code for _ in range(12)] == [401] * 10 + [429] * 2
        assert (await client.get("/metrics", headers=right)).status_code == 503
        assert (await client.get("/", headers={"authorization": f"Bearer {SECRET}"})).status_code == 429
        for _ in range(200):
            await client.get("/metrics", headers=guess)
        assert (await client.get("/metrics", headers=right)).status_code == 429


@pytest.mark.parametrize("origin", ["http://[", "http://", "://", "http://[::1", "x"])
async def test_an_origin_that_is_none_is_another_one(origin: str, caplog: pytest.LogCaptureFixture) -> None:
    async with browser(closed(allow_actions=True, open_to_all=True)) as client:
        assert (await client.post("/actions/pause", headers={"origin": origin})).status_code == 403
    assert "Traceback" not in caplog.text


async def test_signing_in_leads_back_to_a_long_search(nobody: httpx.AsyncClient) -> None:
    following = "/events?stream=" + "x" * 5000
    form = {"csrf": csrf_of((await nobody.get("/login")).text), "token": SECRET, "next": following}
    assert (await nobody.post("/login", data=form)).headers["location"] == following


async def test_what_a_page_does_not_take_is_told_in_words(nobody: httpx.AsyncClient) -> None:
    async with browser(closed()) as client:
        answer = await client.post("/events", headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")
    assert "GET" in answer.json()["message"]
    assert "POST" in answer.json()["message"]


# -- nobody asked who it is


async def test_without_a_sign_in_this_machine_alone_is_let_in() -> None:
    for options, peer, status in (
        ({}, "127.0.0.1", 503),
        ({}, "::1", 503),
        ({}, "192.0.2.2", 403),
        ({}, None, 403),
        ({"open_to_all": True}, "192.0.2.2", 503),
        ({"identify": lambda _: "ada"}, "192.0.2.2", 503),
    ):
        for path in ("/", "/live/", "/metrics"):
            assert await status_for(closed(**options), path, peer) == status, (options, peer, path)


async def status_for(app: Starlette, path: str, peer: str | None) -> int:
    """The status of an answer to somebody at the address *peer*; None: the server does not know it."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
             "root_path": "", "headers": [(b"host", b"localhost")], "scheme": "http", "server": ("127.0.0.1", 80),
             "client": peer and (peer, 1), "http_version": "1.1", "asgi": {"version": "3.0"}}  # fmt: skip
    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"allow_actions": True}, "open_to_all"),
        ({"interval": 0}, "interval"),
        ({"interval": -1}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"identify": "eve"}, "identify"),
        ({"hosts": "shop.example"}, "list of names"),
        ({"hosts": ["http://shop.example"]}, "http://shop.example"),
        ({"hosts": ["*"]}, "not '\\*'"),
        ({"hosts": [""]}, "not ''"),
        ({"hosts": ["fe80::1"]}, "fe80::1"),
        ({"hosts": [b"shop.example"]}, "hosts"),
    ],
)
def test_what_would_let_in_too_many_or_nobody_is_refused_at_once(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        closed(**options)
    closed(hosts=["shop.example", "shop.example:8443", "[fe80::1]:4000", "[fe80::1]"])


# -- every answer


@pytest.mark.parametrize("path", [*PAGES, *LIVE[:1], *OPEN, "/static/nothing"])
async def test_every_answer_tells_browsers_to_be_strict_and_nothing_of_the_database(path: str) -> None:
    async with browser(closed(allow_actions=True, open_to_all=True)) as client:
        for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE"):
            answer = await client.request(method, path)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["cache-control"] in ("no-store", "no-cache")
            assert CANARY not in answer.text + str(answer.headers)
            assert answer.status_code < 500 or answer.status_code in (501, 503)


async def test_styles_and_scripts_are_kept_as_long_as_they_are_the_same() -> None:
    from eventstore.dashboard.rendering import static_version

    async with browser(closed()) as client:
        answer = await client.get("/static/app.js", params={"v": static_version("app.js")})
        assert "immutable" in answer.headers["cache-control"]
        again = await client.get("/static/app.js", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        assert "immutable" not in (await client.get("/static/app.js?v=other")).headers["cache-control"]
        assert (await client.get("/static/..%2fapp.py")).status_code == 404


async def test_forms_are_bounded() -> None:
    client = await signed_in(closed(tokens={"ada": SECRET}, allow_actions=True))
    large = await client.post("/actions/pause", content=b"name=" + b"a" * 70_000, headers={"content-type": FORM})
    many = await client.post("/actions/pause", content=b"a=1&" * 40, headers={"content-type": FORM})
    other = await client.post("/actions/pause", json={"name": "a"})
    assert [answer.status_code for answer in (large, many, other)] == [413, 400, 415]


FORM = "application/x-www-form-urlencoded"
