"""Where subscriptions without Python code deliver."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import logging
import os
import re
import socket
import sys
import time
import tomllib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest
import uvicorn

from eventstore import EventStore, NewEvent
from eventstore.cli.output import event_row, json_line
from eventstore.codec import encode
from eventstore.errors import BroadcastError, ConfigurationError, InvalidMessage
from eventstore.events import Event
from eventstore.pubsub import Local, LocalHub, Mailbox, PubSub
from eventstore.relay import is_event_topic
from eventstore.sinks import DeliveryFailed, Sink, check_sink, open_sink
from eventstore.sinks.cloudevents import header_value

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-nobody-may-see"
TIME = datetime(2026, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=2)))
EVENT = Event(
    id=UUID("01900000-0000-7000-8000-000000000001"),
    type="OrderPlaced",
    data={"total": 9, "big": 2**80, "text": "ü"},
    metadata={"correlation_id": "c-1", "causation_id": "c-0", "schema_version": 2, "user": "zoë"},
    tags=("customer:7", "ü"),
    stream="order-1",
    version=3,
    position=2**40,
    bucket=5,
    created_at=TIME,
    recorded_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
)
UNOPENED = PubSub("unopened")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


# -- a receiver


@dataclass
class Receiver:
    """A server that answers with *answers*, one after the other and then the last one for ever."""

    answers: list[bytes] = field(default_factory=lambda: [answer(204)])
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    def url(self, path: str = "/hook", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("ascii"):
                line, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((line, headers, body))
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiving = Receiver()
    server = await asyncio.start_server(receiving.serve, "127.0.0.1", 0)
    receiving.port = server.sockets[0].getsockname()[1]
    yield receiving
    server.close()


@asynccontextmanager
async def opened(target: str, **options: Any) -> AsyncIterator[Sink]:
    async with open_sink(target, options, UNOPENED) as sink:
        yield sink


async def post(target: str, event: Event = EVENT, subscription: str = "billing", **options: Any) -> None:
    async with asyncio.timeout(60), opened(target, **{"timeout": 30, **options}) as sink:
        await sink.deliver([event], subscription=subscription, attempt=1)


async def refused(receiver: Receiver, *answers: bytes, **options: Any) -> DeliveryFailed:
    receiver.answers = list(answers)
    with pytest.raises(DeliveryFailed) as raised:
        await post(receiver.url(), **options)
    return raised.value


# -- what is refused before anything happens


@pytest.mark.parametrize(
    "target",
    [
        "stdout",
        "pubsub:orders",
        "pubsub:eventsource",
        "pubsub:a b",
        "http://h",
        "HTTPS://user:pw@h:8443/a/b?token=x",
        "https://[::1]:80/",
        "https://münchen.example/ü",
    ],
)
def test_targets_are_checked(target: str) -> None:
    check_sink(target)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("", "no sink's target"),
        ("stdout ", "no sink's target"),
        ("ftp://user:pw@h/", "ftp: targets; there are pubsub:<topic>, https://"),
        ("file:///etc/passwd", "file: targets"),
        ("http://", "needs a host"),
        ("http:///path", "needs a host"),
        ("https:h/path", "needs a host"),
        ("http://user:pw@/path", "needs a host"),
        ("http://user:pw@h:port/", "malformed"),
        ("http://user:pw@h:99999/", "malformed"),
        ("http://user:pw@[h/", "malformed"),
        ("http://user:pw@h/#part", "fragment"),
        ("http://user:pw@h/#", "fragment"),
        ("http://user:pw@h/a b", "control character"),
        ("http://user:pw@h/a\r\nb", "control character"),
        ("http://user:pw@h/\u202e", "control character"),
        ("http://user:pw@h/\ud800", "control character"),
        ("http://user:pw@h\\@evil/", "control character"),
        ("pubsub:", "needs a topic"),
        ("pubsub:a\0", "NUL"),
        ("pubsub:\ud800", "surrogates"),
        (7, "a text, not int"),
    ],
)
def test_other_targets_are_refused_without_repeating_a_password(target: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as raised:
        check_sink(target)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    "topic", ["events", "stream:a", "type:A", "subscription:a", "store:a", "pubsub:connection", "$a"]
)
def test_topics_of_the_store_are_refused_by_name(topic: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"the topic {topic!r} belongs to the store")):
        check_sink(f"pubsub:{topic}")


def test_every_topic_that_the_relay_broadcasts_on_is_refused() -> None:
    for topic in filter(is_event_topic, ["events", "eventsource", "stream:", "stream:a", "type:", "type:A", "streams"]):
        with pytest.raises(ConfigurationError):
            check_sink(f"pubsub:{topic}")


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("http://h", "source, metadata, tags, secret_env, timeout"),
        ("stdout", "it has none"),
        ("pubsub:a", "it has none"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones_and_without_its_value(target: str, known: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no option 'secret'; .*{known}") as raised:
        check_sink(target, {"secret": SECRET})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout", value) for value in (0, -1, 601, float("nan"), float("inf"), True, "10", None)),
        *(("source", value) for value in ("", "a b", "ü", "a\n", 7)),
        *(("metadata", value) for value in (1, "yes", None)),
        ("tags", 0),
        *(("secret_env", value) for value in ("", "A B", "1A", "A=B", "A\n", SECRET, "whsec_QUJD", 7)),
    ],
)
def test_a_bad_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option) as raised:
        check_sink("https://h", {option: value})
    assert SECRET not in str(raised.value)
    assert "whsec_QUJD" not in str(raised.value)


def test_options_are_a_dict() -> None:
    with pytest.raises(ConfigurationError, match="a dict, not list"):
        check_sink("https://h", ["timeout"])  # type: ignore[arg-type]


def test_opening_checks_as_well() -> None:
    with pytest.raises(ConfigurationError, match="ftp"):
        open_sink("ftp://h", {}, UNOPENED)


def test_without_httpx_targets_can_be_stored_and_opening_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eventstore.sinks.client", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    check_sink("https://h")
    with pytest.raises(ConfigurationError, match=re.escape("pip install '.[webhooks]'")):
        open_sink("https://h", {}, UNOPENED)


def test_the_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith("httpx") for one in extras["webhooks"])


# -- webhooks: what is sent


async def test_an_event_is_posted_as_a_cloudevent_in_binary_mode(receiver: Receiver) -> None:
    await post(receiver.url("/hook?a=b"))
    ((line, headers, body),) = receiver.requests
    assert line == "POST /hook?a=b HTTP/1.1"
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "01900000-0000-7000-8000-000000000001",
        "ce-type": "OrderPlaced",
        "ce-source": "urn:eventstore:billing",
        "ce-subject": "order-1",
        "ce-time": "2026-01-02T01:04:05.000006Z",
        "ce-position": "1099511627776",
        "ce-streamversion": "3",
        "ce-recordedtime": "2026-01-02T03:04:06.000000Z",
        "ce-correlationid": "c-1",
        "ce-causationid": "c-0",
        "ce-schemaversion": "2",
    }
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == f"billing:{EVENT.id}"
    assert body == encode(EVENT.data).encode()
    assert not [name for name in headers if name.startswith("webhook-")]


async def test_what_an_event_lacks_is_not_sent(receiver: Receiver) -> None:
    bare = replace(EVENT, stream=None, version=None, data=None, metadata={"correlation_id": ["no", "text"]}, tags=())
    await post(receiver.url(), bare)
    ((_, headers, body),) = receiver.requests
    assert not headers.keys() & {"ce-subject", "ce-streamversion", "ce-correlationid", "ce-metadata", "ce-tags"}
    assert body == b"null"


async def test_metadata_and_tags_are_sent_where_that_is_asked_for(receiver: Receiver) -> None:
    await post(receiver.url(), metadata=True, tags=True, source="https://shop.example/%41")
    headers = receiver.requests[0][1]
    assert json.loads(unquote(headers["ce-metadata"])) == EVENT.metadata
    assert json.loads(unquote(headers["ce-tags"])) == ["customer:7", "ü"]
    assert headers["ce-source"] == "https://shop.example/%2541"


HOSTILE = 'Ünïcode "quoted" 100% \\ line\r\nX-Injected: yes\t€😀\x7f~!'


async def test_any_name_makes_the_way_through_a_header(receiver: Receiver) -> None:
    await post(receiver.url(), replace(EVENT, stream=HOSTILE, type=HOSTILE), subscription=HOSTILE)
    headers = receiver.requests[0][1]
    assert unquote(headers["ce-subject"], errors="strict") == HOSTILE
    assert unquote(headers["ce-type"], errors="strict") == HOSTILE
    assert unquote(unquote(headers["ce-source"])) == f"urn:eventstore:{HOSTILE}"
    assert unquote(headers["idempotency-key"]) == f"{HOSTILE}:{EVENT.id}"
    assert "x-injected" not in headers


def test_header_values_are_encoded_as_the_specification_has_it() -> None:
    assert header_value("Euro € 😀") == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    kept = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
    assert header_value(kept) == kept
    assert header_value('"%\x7f') == "%22%25%7F"


async def test_connections_are_kept_and_cookies_are_not(receiver: Receiver) -> None:
    receiver.answers = [answer(200, b"ok", Set_Cookie="a=b")]
    async with opened(receiver.url()) as sink:
        for _ in range(3):
            await sink.deliver([EVENT, EVENT], subscription="billing", attempt=1)
    assert (len(receiver.requests), receiver.connections) == (6, 1)
    assert not [headers for _, headers, _ in receiver.requests if "cookie" in headers]


async def test_several_tasks_may_deliver_at_a_time(receiver: Receiver) -> None:
    async with opened(receiver.url()) as sink:
        events = [replace(EVENT, position=position) for position in range(20)]
        await asyncio.gather(*(sink.deliver([one], subscription="billing", attempt=1) for one in events))
    assert sorted(int(headers["ce-position"]) for _, headers, _ in receiver.requests) == list(range(20))


async def test_the_user_part_of_the_url_is_sent_as_basic_authentication(receiver: Receiver) -> None:
    await post(receiver.url(user="me:p%40w@"))
    assert receiver.requests[0][1]["authorization"] == "Basic " + b64encode(b"me:p@w").decode()


# -- webhooks: signatures


def signatures(key: bytes, request: tuple[str, dict[str, str], bytes]) -> bool:
    """Whether one of the signatures is by *key*, computed independently of the package."""
    _, headers, body = request
    content = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    made = b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{made}" in headers["webhook-signature"].split(" ")


async def test_requests_are_signed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    await post(receiver.url(), secret_env="HOOK_SECRET")
    headers = receiver.requests[0][1]
    assert signatures(SECRET.encode(), receiver.requests[0])
    assert headers["webhook-id"] == headers["idempotency-key"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30


async def test_each_secret_makes_a_signature_of_its_own(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    new = b64encode(b"\x00\xff" * 16).decode()
    monkeypatch.setenv("HOOK_SECRET", f" whsec_{new}  {SECRET} ")
    await post(receiver.url(), secret_env="HOOK_SECRET")
    assert signatures(b64decode(new), receiver.requests[0])
    assert signatures(SECRET.encode(), receiver.requests[0])
    assert not signatures(b"another", receiver.requests[0])


async def test_what_is_signed_holds_no_full_stop_of_a_name(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    await post(receiver.url(), subscription="a.1.b", secret_env="HOOK_SECRET")
    assert receiver.requests[0][1]["webhook-id"] == f"a%2E1%2Eb:{EVENT.id}"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_secret_is_told_by_the_name_of_its_variable(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("HOOK_SECRET", value)
    check_sink("https://h", {"secret_env": "HOOK_SECRET"})
    with pytest.raises(ConfigurationError, match=r"variable HOOK_SECRET.* is not set or empty"):
        open_sink("https://h", {"secret_env": "HOOK_SECRET"}, UNOPENED)


@pytest.mark.parametrize("value", ["whsec_", "whsec_a", "whsec_%%%%", "whsec_ü"])
def test_a_secret_that_is_not_base64_is_refused_without_repeating_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", f"{SECRET} {value}")
    with pytest.raises(ConfigurationError, match="HOOK_SECRET holds a secret that is not base64") as raised:
        open_sink("https://h", {"secret_env": "HOOK_SECRET"}, UNOPENED)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


# -- webhooks: what is answered


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_means_taken(receiver: Receiver, status: int) -> None:
    receiver.answers = [answer(status)]
    await post(receiver.url())


async def test_a_server_error_fails_and_the_next_attempt_may_succeed(receiver: Receiver) -> None:
    receiver.answers = [answer(500, b"no\x1b[31m\r\nluck"), answer(200)]
    async with opened(receiver.url()) as sink:
        with pytest.raises(DeliveryFailed, match="answered 500 Internal Server Error: no") as raised:
            await sink.deliver([EVENT], subscription="billing", attempt=1)
        await sink.deliver([EVENT], subscription="billing", attempt=2)
    assert str(raised.value).endswith(r"no\x1b[31m\r\nluck")
    assert len({headers["idempotency-key"] for _, headers, _ in receiver.requests}) == 1


@pytest.mark.parametrize(("status", "says"), [(410, "410 Gone"), (404, "404 Not Found"), (499, "499")])
async def test_a_refusal_says_so_with_its_status(receiver: Receiver, status: int, says: str) -> None:
    error = await refused(receiver, answer(status, b"x" * 5000))
    assert str(error) == f"{receiver.url()} refused the event with {says}: {'x' * 200}"
    assert (error.status, error.retry_after) == (status, None)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("7", 7.0), ("9999999999", 3600.0), ("soon", None), ("-1", None), ("7.5", None), ("", None)],
)
async def test_a_receiver_says_when_to_come_back(
    receiver: Receiver, status: int, value: str, seconds: float | None
) -> None:
    error = await refused(receiver, answer(status, Retry_After=value))
    assert (error.status, error.retry_after) == (status, seconds)


@pytest.mark.parametrize(("ahead", "least", "most"), [(600, 500, 600), (-60, 0, 0), (9999, 3600, 3600)])
async def test_a_receiver_may_say_so_by_a_date(receiver: Receiver, ahead: int, least: float, most: float) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    error = await refused(receiver, answer(503, Retry_After=until))
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


async def test_redirects_are_not_followed_but_named(receiver: Receiver) -> None:
    error = await refused(receiver, answer(307, Location="http://me:pw@127.0.0.1:1/new?token=secret"))
    assert "answered 307 Temporary Redirect, to http://***@127.0.0.1:1/new?***; redirects are not" in str(error)
    assert (error.status, len(receiver.requests)) == (307, 1)


@pytest.mark.parametrize("location", ["", "http://[", "http://h:port/", "/\x07bell"])
async def test_a_redirect_to_nowhere_is_a_failure_as_well(receiver: Receiver, location: str) -> None:
    assert (await refused(receiver, answer(301, Location=location))).retry_after is None


async def test_a_receiver_that_does_not_answer_in_time_fails(receiver: Receiver) -> None:
    error = await refused(receiver, b"", timeout=0.1)
    assert str(error) == f"{receiver.url()} did not answer within 0.1 s"


@pytest.mark.parametrize(("status", "ends"), [(200, "taken"), (500, "500 Internal Server Error: but")])
async def test_once_the_status_has_come_it_decides(receiver: Receiver, status: int, ends: str) -> None:
    receiver.answers, said = [f"HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\nbut".encode()], ""
    for timeout in (0.2, 2, 20):  # the longer, the surer that the status comes within
        try:
            await post(receiver.url(), timeout=timeout)
            said = "taken"
        except DeliveryFailed as error:
            said = str(error)
        if "did not answer" not in said:
            break
    assert said.endswith(ends)


async def test_an_endless_body_is_not_read_to_its_end(receiver: Receiver) -> None:
    endless = b"HTTP/1.1 500 X\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000
    assert str(await refused(receiver, endless)).endswith(f"Error: {'x' * 200}")


@pytest.mark.parametrize("rubbish", [b"nonsense\r\n\r\n", b"HTTP/1.1 99999 X\r\n\r\n"])
async def test_what_is_not_http_is_a_failure(receiver: Receiver, rubbish: bytes) -> None:
    assert (await refused(receiver, rubbish)).status is None


async def test_a_refused_connection_is_a_failure() -> None:
    with socket.socket() as held:  # bound, so that nobody else gets the port, and not listening
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(DeliveryFailed, match=rf"http://127.0.0.1:{port}/hook: .*connection"):
            await post(f"http://127.0.0.1:{port}/hook")


async def test_a_delivery_can_be_cancelled(receiver: Receiver) -> None:
    receiver.answers = [b""]
    delivering = asyncio.create_task(post(receiver.url()))
    while not receiver.requests:
        await asyncio.sleep(0.001)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering


async def test_secrets_are_in_no_error_no_repr_and_no_log(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    caplog.set_level(logging.DEBUG)
    echo = b64encode(b"me:hunter22") + b" hunter22 token=s%2Fesame9 s/esame9 " + b"."
    receiver.answers = [answer(200), answer(500, echo)]
    sink = open_sink(receiver.url("/hook?token=s%2Fesame9", "me:hunter22@"), {"secret_env": "HOOK_SECRET"}, UNOPENED)
    async with sink:
        await sink.deliver([EVENT], subscription="billing", attempt=1)
        with pytest.raises(DeliveryFailed) as raised:
            await sink.deliver([EVENT], subscription="billing", attempt=2)
    assert receiver.requests[0][0] == "POST /hook?token=s%2Fesame9 HTTP/1.1"
    assert repr(sink) == f"Webhook('http://***@127.0.0.1:{receiver.port}/hook?***')"
    assert "/hook?*** answered 500 Internal Server Error: *** *** *** *** ." in str(raised.value)
    told = f"{caplog.text} {raised.value!r} {sink!r} {vars(raised.value)}"
    assert "HTTP Request: POST" in told
    for secret in (SECRET, "hunter22", "esame9", b64encode(b"me:hunter22").decode()):
        assert secret not in told


# -- PubSub


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[PubSub, PubSub]]:
    hub = LocalHub()
    async with PubSub("test", Local(hub, "a")) as a, PubSub("test", Local(hub, "b")) as b:
        yield a, b


async def broadcast(pubsub: PubSub, *events: Event) -> None:
    async with open_sink("pubsub:orders", {}, pubsub) as sink:
        await sink.deliver(events, subscription="billing", attempt=1)


async def test_events_are_messages_to_every_node_in_their_order() -> None:
    async with two_nodes() as (a, b), a.subscription("orders") as here, b.subscription("orders") as there:
        await broadcast(a, *(replace(EVENT, position=position) for position in (1, 2, 3)))
        for messages in (here, there):
            got = [await messages.get() for _ in range(3)]
            assert [kind for kind, _ in got] == ["event"] * 3
            assert [event["position"] for _, event in got] == [1, 2, 3]


async def test_a_message_holds_what_the_command_line_prints() -> None:
    async with two_nodes() as (a, b), b.subscription("orders") as messages:
        await broadcast(a, EVENT)
        _, event = await messages.get()
        assert event == json.loads(json_line(event_row(EVENT)))


async def test_data_too_deep_for_a_message_fails_by_name() -> None:
    deep: Any = 1
    for _ in range(63):
        deep = [deep]
    async with two_nodes() as (a, _):
        await broadcast(a, replace(EVENT, data=deep[0]))
        with pytest.raises(InvalidMessage, match="nested deeper"):
            await broadcast(a, replace(EVENT, data=deep))


async def test_a_full_mailbox_that_refuses_does_not_make_the_others_get_it_twice() -> None:
    async with two_nodes() as (a, b), b.subscription("orders") as there:
        full = Mailbox[Any](1, "error")
        a.subscribe("orders", full)
        await broadcast(a, EVENT, EVENT)
        assert (len(full), len(there)) == (1, 2)


async def test_a_message_that_cannot_be_sent_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_envelope: object) -> None:
        raise OSError("gone")

    async with two_nodes() as (a, _):
        monkeypatch.setattr(a.adapter, "broadcast", broken)
        with pytest.raises(BroadcastError, match="gone"):
            await broadcast(a, EVENT)


async def test_the_largest_event_fits_into_a_message(store: EventStore) -> None:
    await store.append("a", [NewEvent("A", "ü" * 500_000, tags=["t" * 256])])
    async with store.pubsub.subscription("orders") as messages:
        async for event in store.read("a"):
            await broadcast(store.pubsub, event)
        assert (await messages.get())[1]["data"] == "ü" * 500_000


# -- stdout


async def write(*events: Event) -> None:
    async with opened("stdout") as sink:
        await sink.deliver(events, subscription="billing", attempt=1)


async def test_events_are_lines_as_the_command_line_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    strange = replace(EVENT, stream=None, version=None, data={"a": -0.0, "b": 1e16, "c": "\u2028\n"}, tags=())
    await write(EVENT, strange)
    assert capsys.readouterr().out == "".join(json_line(event_row(one)) + "\n" for one in (EVENT, strange))


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """The reading end of a pipe whose other end is stdout."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as reader, os.fdopen(writing, "w", encoding="utf-8") as stdout:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            yield reader
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, writing)  # for what is still buffered
        os.close(nowhere)


async def test_a_closed_pipe_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as reader:
        reader.close()
        with pytest.raises(DeliveryFailed, match="nobody reads it any more"):
            await write(EVENT)


async def test_a_reader_that_is_slow_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as reader:
        writing = asyncio.create_task(write(replace(EVENT, data="x" * 1_000_000)))
        done, _ = await asyncio.wait([writing], timeout=0.05)
        assert not done
        line = await asyncio.to_thread(reader.readline)
        await writing
    assert len(json.loads(line)["data"]) == 1_000_000


@pytest.mark.parametrize("stdout", [io.TextIOWrapper(io.BytesIO(), encoding="ascii"), open(os.devnull)])  # noqa: SIM115
async def test_what_cannot_be_written_is_a_failure(stdout: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(DeliveryFailed, match="stdout cannot be written"):
        await write(EVENT)
    stdout.close()


# -- the receiver in the docs


@asynccontextmanager
async def documented(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """URL and names of the receiver that docs/sinks.md shows, being served."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "sinks.md").read_text(), re.DOTALL | re.MULTILINE)
    (source,) = [block for block in blocks if "Starlette(" in block]
    monkeypatch.setenv("ORDERS_SECRET", "whsec_" + b64encode(SECRET.encode()).decode())
    names: dict[str, Any] = {}
    exec(compile(source, "docs/sinks.md", "exec"), names)
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/events", names
    server.should_exit = True
    await serving


async def test_the_documented_receiver_takes_each_event_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with documented(monkeypatch) as (url, names):
        taken: list[Any] = []
        monkeypatch.setitem(names, "handle", lambda *given: taken.append(given))
        event = replace(EVENT, stream="bestellung-ü")
        for _ in range(2):
            await post(url, event, secret_env="ORDERS_SECRET")
        assert taken == [("OrderPlaced", "bestellung-ü", EVENT.data)]


async def test_the_documented_receiver_refuses_what_is_not_signed_by_its_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with documented(monkeypatch) as (url, _):
        monkeypatch.setenv("OTHER_SECRET", "other")
        for options in ({"secret_env": "OTHER_SECRET"}, {}):
            with pytest.raises(DeliveryFailed, match="401 Unauthorized"):
                await post(url, **options)
