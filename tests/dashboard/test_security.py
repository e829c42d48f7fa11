from __future__ import annotations

import pytest

from eventstore.dashboard.addresses import Addresses, local_path, root_of
from eventstore.dashboard.security import (
    Token,
    Tokens,
    check_binding,
    host_allowed,
    is_loopback,
    made_elsewhere,
    parse_tokens,
)
from eventstore.dashboard.sessions import LIFETIME, Attempts, Sessions
from eventstore.dashboard.view import Flash
from eventstore.errors import ConfigurationError

KEY = b"k" * 32
LONG = "0123456789abcdef"


# -- hosts


@pytest.mark.parametrize(
    "header", ["localhost", "localhost:4000", "127.0.0.1:9", "[::1]:4000", "LOCALHOST", "localhost."]
)
def test_loopback_names_are_always_answered_to(header: str) -> None:
    assert host_allowed(header, ())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil@localhost",
        "localhost, evil",
        "localhost:99999999",
        "localhost/evil",
        "[::1",
        "10.0.0.1",
        "0.0.0.0",
        "localhost\\evil",
    ],
)
def test_other_hosts_are_not_answered_to(header: str) -> None:
    assert not host_allowed(header, ())


def test_named_hosts_are_answered_to_with_their_port_or_any() -> None:
    assert host_allowed("Events.example:444", ("events.example",))
    assert host_allowed("events.example:444", ("events.example:444",))
    assert not host_allowed("events.example:445", ("events.example:444",))
    assert not host_allowed("sub.events.example", ("events.example",))


def test_the_address_that_was_called_is_no_name_somebody_pointed_here() -> None:
    assert host_allowed("10.1.2.3:4000", (), "10.1.2.3")
    assert not host_allowed("10.1.2.4:4000", (), "10.1.2.3")
    assert not host_allowed("testserver", (), "testserver")


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil", "")] == [False] * 5


# -- origins


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://localhost:4000", "same-origin"),
        ("https://localhost:4000", None),
        (None, "same-origin"),
        (None, "none"),
        (None, None),
        ("http://LOCALHOST:4000", None),
    ],
)
def test_own_pages_and_programs_may_ask(origin: str | None, site: str | None) -> None:
    assert made_elsewhere(_headers(origin, site), "http") is None


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("null", None),
        ("http://evil.example", None),
        ("http://localhost:4001", None),
        ("http://localhost", None),
        ("ftp://localhost:4000", None),
        ("http://localhost:4000.evil", None),
        ("", None),
        (None, "cross-site"),
        (None, "same-site"),
        ("http://localhost:4000", "cross-site"),
        ("http://x@localhost:4000", None),
    ],
)
def test_other_sites_may_not(origin: str | None, site: str | None) -> None:
    assert made_elsewhere(_headers(origin, site), "http") is not None


def test_the_default_port_of_a_scheme_is_the_same_place() -> None:
    assert made_elsewhere({"host": "events.example", "origin": "https://events.example:443"}, "http") is None
    assert made_elsewhere({"host": "events.example", "origin": "http://events.example"}, "https") is not None


def _headers(origin: str | None, site: str | None) -> dict[str, str]:
    given = {"host": "localhost:4000", "origin": origin, "sec-fetch-site": site}
    return {name: value for name, value in given.items() if value is not None}


# -- tokens


def test_a_token_is_found_by_its_secret_alone() -> None:
    tokens = Tokens({"ada": LONG, "bob": Token(LONG + "b", "read")}, KEY)
    assert [tokens.match(text) for text in (LONG, LONG + "b", LONG + "c", "", "\ud800")] == [
        "ada",
        "bob",
        None,
        None,
        None,
    ]


def test_tokens_that_protect_nothing_are_refused() -> None:
    for given in ({"ada": "short"}, {"": LONG}, {"a\nb": LONG}, {"ada": LONG, "bob": LONG}):
        with pytest.raises(ConfigurationError):
            Tokens(given, KEY)


def test_scopes_contain_each_other() -> None:
    allowed = {
        scope: [Token(LONG, scope).allows(what) for what in ("metrics", "read", "act")]
        for scope in ("metrics", "read", "act")
    }
    assert allowed == {"metrics": [True, False, False], "read": [True, True, False], "act": [True, True, True]}


def test_tokens_are_read_a_line_each() -> None:
    found = parse_tokens(["# who may come in", "", f"ada {LONG}", f"  prometheus\t{LONG}x metrics"], "tokens")
    assert {name: token.scope for name, token in found.items()} == {"ada": "act", "prometheus": "metrics"}


@pytest.mark.parametrize("line", [LONG, f"ada {LONG} root", f"ada {LONG} read more", "ada canary", ""])
def test_a_line_that_is_no_token_is_named_and_not_repeated(line: str) -> None:
    with pytest.raises(ConfigurationError, match="tokens") as raised:
        parse_tokens([line], "tokens")
    assert LONG not in str(raised.value)
    assert "canary" not in str(raised.value)


def test_a_token_does_not_show_its_secret() -> None:
    assert LONG not in repr(Token(LONG))


# -- where to listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_nothing(host: str) -> None:
    check_binding(host, tokens=False, tls=False, behind_tls_proxy=False)


@pytest.mark.parametrize(
    ("tokens", "tls", "proxy", "cure"),
    [(False, True, False, "--token-file"), (False, False, True, "--token-file"), (True, False, False, "--tls-cert")],
)
def test_other_addresses_need_a_token_and_tls(tokens: bool, tls: bool, proxy: bool, cure: str) -> None:
    with pytest.raises(ConfigurationError, match=cure):
        check_binding("0.0.0.0", tokens=tokens, tls=tls, behind_tls_proxy=proxy)


def test_other_addresses_are_fine_with_both() -> None:
    check_binding("0.0.0.0", tokens=True, tls=True, behind_tls_proxy=False)
    check_binding("::", tokens=True, tls=False, behind_tls_proxy=True)


# -- sessions


def test_a_session_is_read_until_it_is_over() -> None:
    now = [0.0]
    sessions = Sessions(KEY, lambda: now[0])
    cookie = sessions.dump(opened := sessions.open("ada", "f"))
    assert sessions.load(cookie) == opened
    now[0] = LIFETIME
    assert sessions.load(cookie) is None


@pytest.mark.parametrize("cookie", [None, "", "x", "a.b.c", '["a","b","c",1e99]'])
def test_what_is_no_cookie_of_ours_is_no_session(cookie: str | None) -> None:
    assert Sessions(KEY, lambda: 0.0).load(cookie) is None


def test_a_session_signed_by_somebody_else_or_for_something_else_is_none() -> None:
    sessions = Sessions(KEY, lambda: 0.0)
    assert sessions.load(Sessions(b"x" * 32, lambda: 0.0).dump(sessions.open("ada", "f"))) is None
    assert sessions.load(sessions.dump_flash(Flash("ok", "done"))) is None


def test_forms_belong_to_one_session() -> None:
    sessions = Sessions(KEY, lambda: 0.0)
    mine, other = sessions.open(), sessions.open()
    assert sessions.csrf_fits(mine, sessions.csrf(mine))
    assert not any(sessions.csrf_fits(mine, given) for given in (sessions.csrf(other), "", "é\ud800", mine.id))
    assert not sessions.csrf_fits(None, sessions.csrf(mine))


def test_after_ten_failures_an_address_waits_a_minute() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(10):
        assert attempts.wait("10.0.0.1") == 0
        attempts.failed("10.0.0.1")
    assert attempts.wait("10.0.0.1") == 60
    assert attempts.wait("10.0.0.2") == 0
    now[0] = 61
    assert attempts.wait("10.0.0.1") == 0


def test_a_customer_has_one_ipv6_network_and_memory_is_bounded() -> None:
    attempts = Attempts(lambda: 0.0, most=1, addresses=3)
    attempts.failed("2001:db8::1")
    assert attempts.wait("2001:db8::ffff") > 0
    for number in range(9):
        attempts.failed(f"10.0.0.{number}")
    assert attempts.wait("2001:db8::1") == 0
    assert len(attempts._failed) == 3


# -- addresses


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("billing", "/ops/subscriptions/billing"),
        ("a/b", "/ops/subscriptions/a/b"),
        ("ü x?#", "/ops/subscriptions/%C3%BC%20x%3F%23"),
        ("..", "/ops/subscription?name=.."),
        ("a/../b", "/ops/subscription?name=a%2F..%2Fb"),
        ("a/", "/ops/subscription?name=a%2F"),
        ("/a", "/ops/subscription?name=%2Fa"),
        ("a\\b", "/ops/subscription?name=a%5Cb"),
        ("a\nb", "/ops/subscription?name=a%0Ab"),
    ],
)
def test_every_name_has_an_address(name: str, url: str) -> None:
    assert Addresses("/ops").url("subscriptions", name) == url


@pytest.mark.parametrize(
    ("given", "root"),
    [("", ""), ("/", ""), ("/ops/", "/ops"), ("/a; Domain=x\r\nX: y", "/a%3B%20Domain%3Dx%0D%0AX%3A%20y"),
     ("/运", "/%E8%BF%90"), ("//evil.example", "/evil.example"), ("/a%20b", "/a%20b")],
)  # fmt: skip
def test_where_it_is_mounted_is_written_as_in_urls(given: str, root: str) -> None:
    assert root_of({"root_path": given}) == root


@pytest.mark.parametrize("text", ["/ops", "/ops/", "/ops/events?type=a", "/ops/streams/a%20b"])
def test_a_way_back_stays_here(text: str) -> None:
    assert local_path(text, "/ops") == text


@pytest.mark.parametrize(
    "text",
    ["", "//evil.example", "https://evil.example", "/\\evil", "ops", "/opsx", "/other", "/ops\n", "javascript:x"],
)
def test_a_way_back_leads_nowhere_else(text: str) -> None:
    assert local_path(text, "/ops") is None
