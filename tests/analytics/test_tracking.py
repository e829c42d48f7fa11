from __future__ import annotations

import asyncio
import hmac
import subprocess
import sys
from time import perf_counter
from typing import Any

import pytest

from eventstore.analytics import RequestLog, RequestTracker, leave_out
from eventstore.analytics.tracking import ASGIApp, Message, Receive, Scope, Send
from eventstore.errors import ConfigurationError
from tests.analytics.asgi import START, answering, cookies, hello, request

KEY = b"secret"


class Told:
    """What a tracker tells of."""

    def __init__(self) -> None:
        self.logs: list[RequestLog] = []

    async def broadcast(self, log: RequestLog) -> None:
        self.logs.append(log)


def hashed(address: str) -> str:
    return hmac.new(KEY, address.encode(), "sha256").hexdigest()[:16]


async def tracked(app: ASGIApp, path: str = "/", *headers: tuple[str, str], **options: Any) -> RequestLog:
    """Send one request through a tracker; return its log."""
    told = Told()
    tracker = RequestTracker(app, told, address_key=KEY, trusted_proxies=options.pop("proxies", ()))
    await request(tracker, path, *headers, **options)
    (log,) = told.logs
    return log


async def test_a_request_is_told_of_as_it_was_answered() -> None:
    agent = "Mozilla/5.0 (iPhone) Mobile"
    log = await tracked(
        answering(201), "/items/ü", ("user-agent", agent), ("referer", "https://x.example/?token=1"), method="POST"
    )
    assert (log.method, log.path, log.status_code, log.user_agent) == ("POST", "/items/ü", 201, agent)
    assert (log.referer, log.device_type, log.remote_ip) == ("https://x.example/", "mobile", hashed("192.0.2.1"))
    assert (log.duration_ms >= 0, log.request_id.version, log.session_page_views) == (True, 7, 1)


async def test_what_a_client_does_not_say_has_defaults() -> None:
    log = await tracked(hello, client=None)
    assert (log.user_agent, log.referer, log.device_type, log.remote_ip) == ("unknown", "Direct", "desktop", None)


async def test_the_query_is_not_kept() -> None:
    assert "secret" not in (await tracked(hello, "/a", query_string=b"token=secret")).model_dump_json()


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        ("iPad; Mobile", "tablet"),
        ("Android Mobile", "mobile"),
        ("Pad", "tablet"),
        ("mobile", "desktop"),
        ("", "desktop"),
    ],
)
async def test_the_device_follows_from_the_agent(agent: str, device: str) -> None:
    assert (await tracked(hello, "/", ("user-agent", agent))).device_type == device


async def test_the_cookies_carry_the_session_on_and_count_its_requests() -> None:
    told = Told()
    tracker = RequestTracker(hello, told, address_key=KEY)
    session, views = cookies(await request(tracker))
    assert views == "pa_page_views=1; Max-Age=300; Path=/; HttpOnly; SameSite=Lax"
    assert session.endswith("; Max-Age=300; Path=/; HttpOnly; SameSite=Lax")
    sent = "; ".join(one.partition(";")[0] for one in (session, views))
    assert cookies(await request(tracker, "/", ("cookie", f"a=b; {sent}")))[1].startswith("pa_page_views=2;")
    first, second = told.logs
    assert (first.session_id, first.session_page_views) == (second.session_id, second.session_page_views - 1)


async def test_over_https_the_cookies_are_secure() -> None:
    sent = await request(RequestTracker(hello, Told(), address_key=KEY), scheme="https")
    assert all(one.endswith("; SameSite=Lax; Secure") for one in cookies(sent))


@pytest.mark.parametrize(
    "cookie",
    [
        "pa_session_id=",
        "pa_session_id=" + "x" * 65,
        "pa_session_id=a<b>",
        "xpa_session_id=abc",
        "\x00\xff=;;;",
        "pa_page_views=5",
    ],
)
async def test_malformed_cookies_begin_a_new_session(cookie: str) -> None:
    log = await tracked(hello, "/", ("cookie", cookie))
    assert (len(log.session_id or ""), log.session_page_views) == (32, 1)


@pytest.mark.parametrize("views", ["-1", "x", "9" * 10, "9" * 5000, ""])
async def test_a_malformed_count_begins_anew(views: str) -> None:
    log = await tracked(hello, "/", ("cookie", f"pa_session_id=abc; pa_page_views={views}"))
    assert (log.session_id, log.session_page_views) == ("abc", 1)


async def test_cookies_in_several_headers_are_found() -> None:
    log = await tracked(hello, "/", ("cookie", "pa_session_id=abc"), ("cookie", "pa_page_views=4"))
    assert (log.session_id, log.session_page_views) == ("abc", 5)


@pytest.mark.parametrize(
    ("peer", "forwarded", "counts"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("::ffff:10.1.2.3", " 203.0.113.9:4711 ", "203.0.113.9"),
        ("fd00::1", '"[2001:DB8::0:1]:443"', "2001:db8::1"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", ", 203.0.113.9", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.999", "10.1.2.3"),
        ("10.1.2.3", "9" * 100_000, "10.1.2.3"),
        ("unix:", "203.0.113.9", "unix:"),
    ],
)
async def test_forwarded_addresses_count_only_from_trusted_proxies(peer: str, forwarded: str, counts: str) -> None:
    proxies = ("10.0.0.0/8", "fd00::/8")
    log = await tracked(hello, "/", ("x-forwarded-for", forwarded), client=(peer, 1), proxies=proxies)
    assert log.remote_ip == hashed(counts)


@pytest.mark.parametrize("proxies", [["10.0.0.1/8"], ["proxy"], "10.0.0.0/8"])
def test_proxies_that_are_no_addresses_are_refused(proxies: Any) -> None:
    with pytest.raises(ConfigurationError):
        RequestTracker(hello, Told(), address_key=KEY, trusted_proxies=proxies)


@pytest.mark.parametrize("key", ["", b"", None, 5])
def test_addresses_are_not_hashed_without_a_key(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="address_key"):
        RequestTracker(hello, Told(), address_key=key)


async def test_what_the_application_raises_is_500_and_goes_on() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        raise LookupError("lost")

    told = Told()
    with pytest.raises(LookupError, match="lost"):
        await request(RequestTracker(broken, told, address_key=KEY))
    assert [log.status_code for log in told.logs] == [500]


async def test_what_is_raised_after_the_answer_does_not_change_its_status() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise LookupError("in the background")

    told = Told()
    with pytest.raises(LookupError):
        await request(RequestTracker(broken, told, address_key=KEY))
    assert [log.status_code for log in told.logs] == [200]


async def test_no_answer_is_500_and_499_if_the_client_left() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    assert (await tracked(silent)).status_code == 500
    assert (await tracked(silent, receive=gone)).status_code == 499


async def test_a_cancelled_request_is_499_and_stays_cancelled() -> None:
    waiting = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.set()
        await asyncio.Event().wait()

    told = Told()
    task = asyncio.ensure_future(request(RequestTracker(slow, told, address_key=KEY)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [log.status_code for log in told.logs] == [499]


class Server:
    """Says what servers say: the request, and once the client left, that; it takes answers all the same."""

    def __init__(self, *bodies: bytes) -> None:
        self._said = [
            {"type": "http.request", "body": body, "more_body": n < len(bodies)} for n, body in enumerate(bodies, 1)
        ]
        self._left = asyncio.Event()
        self.asked = 0

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        self.asked += 1
        if self._said and not self._left.is_set():
            return self._said.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer begins late enough for the server to be asked."""
    monkeypatch.setattr("eventstore.analytics.tracking.ASKED_AFTER", -1.0)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.usefixtures("slow")
async def test_a_client_that_left_before_the_answer_is_499_though_the_application_answered(reads: bool) -> None:
    server = Server(b"")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads:
            await receive()
        server.leave()
        await hello(scope, receive, send)

    assert (await tracked(app, receive=server.receive)).status_code == 499


@pytest.mark.usefixtures("slow")
async def test_a_client_that_is_there_is_none_that_left_and_the_application_hears_all_that_was_said() -> None:
    server, heard = Server(b"a", b"b"), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        heard.extend([(await receive())["body"], (await receive())["body"]])
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        server.leave()
        heard.append((await waiting)["type"])
        await send({"type": "http.response.body"})

    assert (await tracked(app, receive=server.receive)).status_code == 200
    assert heard == [b"a", b"b", "http.disconnect"]


@pytest.mark.usefixtures("slow")
async def test_a_body_that_the_application_does_not_want_is_not_asked_for() -> None:
    server = Server(b"x" * 5)
    await tracked(hello, "/", ("content-length", "5"), receive=server.receive)
    await tracked(hello, "/", ("transfer-encoding", "chunked"), receive=server.receive)
    assert server.asked == 0


@pytest.mark.usefixtures("slow")
async def test_nobody_is_asked_while_the_application_waits_itself() -> None:
    server = Server()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await hello(scope, receive, send)
        server.leave()
        await waiting

    assert (await tracked(app, receive=server.receive)).status_code == 200
    assert server.asked == 1


async def test_for_a_fast_answer_the_server_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.analytics.tracking.ASKED_AFTER", 60.0)  # nothing is slow, on no machine
    server = Server(b"")
    await tracked(hello, receive=server.receive)
    assert server.asked == 0


async def test_of_trackers_in_each_other_the_outer_one_records() -> None:
    told = [Told(), Told()]
    inner = RequestTracker(hello, told[0], address_key=KEY)

    async def mounting(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, "root_path": "/under"}, receive, send)

    sent = await request(RequestTracker(mounting, told[1], address_key=KEY))
    assert ([len(one.logs) for one in told], len(cookies(sent))) == ([0, 1], 2)
    await request(inner)
    assert len(told[0].logs) == 1


@pytest.mark.parametrize(
    ("path", "recorded"),
    [("/health", 0), ("/health/live", 0), ("/healthy", 1), ("/a/b", 0), ("/a", 1), ("/", 1)],
)
async def test_paths_that_are_excluded_pass_untouched_with_all_below_them(path: str, recorded: int) -> None:
    told = Told()
    sent = await request(RequestTracker(hello, told, address_key=KEY, exclude=["/health", "/a/b/"]), path)
    assert (len(told.logs), len(cookies(sent))) == (recorded, 2 * recorded)


@pytest.mark.parametrize("exclude", [["health"], ["/"], [""], [5], "health"])
def test_what_is_no_path_cannot_be_excluded(exclude: Any) -> None:
    with pytest.raises(ConfigurationError, match="exclude"):
        RequestTracker(hello, Told(), address_key=KEY, exclude=exclude)


async def test_what_answers_a_request_may_leave_it_out() -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        leave_out(scope)
        await hello(scope, receive, send)

    told = Told()
    sent = await request(RequestTracker(page, told, address_key=KEY))
    assert (told.logs, cookies(sent), sent[1]["body"]) == ([], [], b"hello")
    assert len(await request(page)) == 2


async def test_a_stream_took_as_long_as_until_it_began() -> None:
    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        began.append(perf_counter())
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while perf_counter() < began[0] + 0.02:
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    began: list[float] = []
    before = perf_counter()
    assert (await tracked(streaming)).duration_ms <= (began[0] - before) * 1000


async def test_who_is_signed_in_is_not_kept_of_a_referer() -> None:
    for given, kept in (("https://u:p@x.example/a@b?c", "https://x.example/a@b"), ("/a@b", "/a@b"), ("//u@x", "//x")):
        assert (await tracked(hello, "/", ("referer", given))).referer == kept


async def test_a_client_that_leaves_during_the_answer_got_its_status() -> None:
    async def refused(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    told = Told()
    with pytest.raises(OSError, match="gone"):
        await request(RequestTracker(hello, told, address_key=KEY), send=refused)
    assert [log.status_code for log in told.logs] == [200]


async def test_an_answer_streams_and_is_told_of_when_it_is_complete() -> None:
    told, seen = Told(), []

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        for part in (b"a", b"b"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            seen.append((part, len(told.logs)))
        await send({"type": "http.response.body"})
        seen.append((b"", len(told.logs)))

    sent = await request(RequestTracker(streaming, told, address_key=KEY))
    assert [one.get("body") for one in sent] == [None, b"a", b"b", None]
    assert seen == [(b"a", 0), (b"b", 0), (b"", 1)]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_what_is_no_request_passes_untouched(kind: str) -> None:
    handed: list[Any] = []

    async def app(*args: Any) -> None:
        handed.extend(args)

    given = ({"type": kind}, object(), object())
    await RequestTracker(app, Told(), address_key=KEY)(*given)  # type: ignore[arg-type]
    assert all(one is other for one, other in zip(handed, given, strict=True))


async def test_the_message_of_the_application_is_not_changed() -> None:
    start = dict(START)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    await request(RequestTracker(app, Told(), address_key=KEY))
    assert start == START


async def test_a_failing_broadcast_changes_no_answer_and_is_counted() -> None:
    class Broken:
        async def broadcast(self, log: RequestLog) -> None:
            raise RuntimeError("down")

    tracker = RequestTracker(hello, Broken(), address_key=KEY)
    assert (await request(tracker))[1]["body"] == b"hello"
    assert tracker.failures == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"headers": None},
        {"headers": [(b"cookie", None)]},
        {"headers": [1]},
        {"client": 5},
        {"path": None},
        {"method": 1},
    ],
)
async def test_an_odd_scope_changes_no_answer(odd: dict[str, Any]) -> None:
    sent = await request(RequestTracker(hello, Told(), address_key=KEY), **odd)
    assert sent[1]["body"] == b"hello"


async def test_a_head_without_a_list_of_headers_passes_as_it_is() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": None})

    tracker = RequestTracker(app, Told(), address_key=KEY)
    assert await request(tracker) == [{"type": "http.response.start", "status": 299, "headers": None}]


async def test_a_status_that_is_none_is_not_recorded_and_changes_no_answer() -> None:
    told = Told()
    tracker = RequestTracker(answering(999), told, address_key=KEY)
    assert (await request(tracker))[0]["status"] == 999
    assert (told.logs, tracker.failures) == ([], 1)


def test_analytics_needs_no_web_framework() -> None:
    used = "import sys, eventstore.analytics as a; [getattr(a, name) for name in a.__all__]"
    subprocess.run([sys.executable, "-c", f"{used}; assert 'starlette' not in sys.modules"], check=True)
