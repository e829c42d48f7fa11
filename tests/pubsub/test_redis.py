"""What is particular to the Redis adapter; what every adapter has to do is in `test_conformance`."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from secrets import token_hex
from typing import Any
from uuid import uuid4

import pytest

from eventstore.errors import AlreadyStarted, BroadcastError, ConfigurationError, DatabaseUnavailable, InvalidMessage
from eventstore.pubsub import CONNECTION, Envelope, PubSub, Redis
from eventstore.pubsub import redis as adapter
from eventstore.pubsub.frames import Frames
from tests.pubsub.nodes import WITHIN, Cluster, heard, received, redis_command, subscribed

Server = tuple[str, subprocess.Popen[bytes]]


@pytest.fixture(params=["redis"])
def unopened(redis_url: str) -> Cluster:
    return Cluster(lambda node: Redis(redis_url, node_name=node))


@pytest.fixture
def stopped(redis_server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The server, to be stopped and continued by signals; it goes on afterwards in any case."""
    yield redis_server[1]
    redis_server[1].send_signal(signal.SIGCONT)


async def publish(url: str, name: str, data: str | bytes) -> None:
    await redis_command(url, "PUBLISH", adapter._channel("eventstore", name, 0), data)  # type: ignore[arg-type]


# -- opening


def test_without_redis_py_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[redis\]'"):
        Redis("redis://localhost", node_name="a")


@pytest.mark.parametrize("url", ["", "http://x", "redis://:geh/eim@host", "redis://host:port", None, 7])
def test_a_malformed_url_is_refused_without_repeating_it(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="the Redis URL is malformed") as refused:
        Redis(url, node_name="a")
    assert "geh" not in str(refused.value)


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="an empty secret is none"):
        Redis("redis://localhost", node_name="a", secret="")


async def test_a_server_that_cannot_be_reached_is_reported_without_the_password() -> None:
    pubsub = PubSub("x", Redis("unix:///nowhere/socket?password=geheim", node_name="a"))
    with pytest.raises(DatabaseUnavailable, match="Redis at /nowhere/socket") as refused:
        await pubsub.__aenter__()
    assert "geheim" not in str(refused.value)
    assert pubsub.closed


async def test_a_refused_password_is_reported_without_it(redis_url: str) -> None:
    with pytest.raises(DatabaseUnavailable) as refused:
        await PubSub("x", Redis(f"{redis_url}?username=nobody&password=geheim", node_name="a")).__aenter__()
    assert "geheim" not in str(refused.value)


async def test_a_user_who_may_not_subscribe_is_told_what_to_allow(redis_url: str) -> None:
    await redis_command(redis_url, "ACL", "SETUSER", "deaf", "on", ">pw", "+@all", "resetchannels", "&other:*")
    pubsub = PubSub("x", Redis(f"{redis_url}?username=deaf&password=pw", node_name="a"))
    with pytest.raises(ConfigurationError, match=r"ACL SETUSER <user> \+publish \+subscribe \+ping &eventstore:\*"):
        await pubsub.__aenter__()


async def test_the_rights_named_are_enough(redis_url: str) -> None:
    rights = ("+publish", "+subscribe", "+ping", "resetchannels", "&eventstore:*")
    await redis_command(redis_url, "ACL", "SETUSER", "modest", "reset", "on", ">pw", *rights)
    async with PubSub("x", Redis(f"{redis_url}?username=modest&password=pw", node_name="a")) as a:
        here = subscribed(a)
        await a.direct_broadcast("a", "t", 1)
        assert await received(here) == [1]


async def test_a_user_who_may_not_publish_gets_a_broadcast_error_that_says_so(redis_url: str) -> None:
    await redis_command(redis_url, "ACL", "SETUSER", "dumb", "reset", "on", ">pw", "+subscribe", "+ping", "allchannels")
    async with PubSub("x", Redis(f"{redis_url}?username=dumb&password=pw", node_name="a")) as a:
        with pytest.raises(BroadcastError, match="allow the user PUBLISH"):
            await a.broadcast("t", 1)


async def test_one_adapter_serves_one_pubsub(redis_url: str) -> None:
    shared = Redis(redis_url, node_name="a")
    async with PubSub("x", shared) as first:
        with pytest.raises(AlreadyStarted):
            await PubSub("y", shared).__aenter__()
        await first.broadcast("t", 1)


async def test_closing_leaves_no_connection_behind(redis_url: str) -> None:
    before = await connections(redis_url)
    async with PubSub("x", Redis(redis_url, node_name="a")) as a:
        await a.broadcast("t", 1)
        own = await connections(redis_url) - before
        assert len(own) == 2
    async with asyncio.timeout(WITHIN):
        while await connections(redis_url) & own:
            pass


async def connections(url: str) -> set[bytes]:
    """The ids of all connections but the one that asks."""
    lines = (await redis_command(url, "CLIENT", "LIST")).splitlines()
    return {line.split()[0] for line in lines if b" cmd=client" not in line}


# -- who is believed


async def test_nodes_with_another_secret_or_none_are_not_believed(redis_url: str) -> None:
    name = uuid4().hex
    async with (
        PubSub(name, Redis(redis_url, node_name="a", secret="right")) as a,
        PubSub(name, Redis(redis_url, node_name="b", secret=b"right")) as b,
        PubSub(name, Redis(redis_url, node_name="c", secret="wrong")) as wrong,
        PubSub(name, Redis(redis_url, node_name="d")) as unsigned,
    ):
        there = subscribed(b)
        for node in (wrong, unsigned, a):
            await node.broadcast("t", node.node_name)
        assert await heard(there, a) == ["a"]
        assert b.stats().rejected == b.stats().adapter["rejected"] == 2


async def test_what_was_signed_for_one_pubsub_is_not_believed_by_another() -> None:
    assert adapter._key("one", "secret") != adapter._key("other", "secret") != adapter._key("other", None)


async def test_another_prefix_is_another_cluster(redis_url: str) -> None:
    name = uuid4().hex
    async with (
        PubSub(name, Redis(redis_url, node_name="a", prefix="one")) as a,
        PubSub(name, Redis(redis_url, node_name="b", prefix="two")) as b,
    ):
        there = subscribed(b)
        await a.broadcast("t", 1)
        assert await heard(there, b) == []
        assert b.stats().adapter["rejected"] == 0


@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe", b"1j", b"2" * 100, b"{}"])
async def test_rubbish_is_counted_and_survived(cluster: Cluster, redis_url: str, rubbish: bytes) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    await publish(redis_url, cluster.name, rubbish)
    assert await heard(there, a) == []
    assert b.stats().rejected == 1


async def test_a_frame_whose_body_is_said_to_be_elsewhere_is_counted_as_lost(cluster: Cluster, redis_url: str) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    key = adapter._key(cluster.name, None)
    [frame] = Frames(key, limit=200).pack([Envelope("except", "z", "z", "t", f'"{token_hex(500)}"')])
    assert frame.spill
    await publish(redis_url, cluster.name, frame.text)
    assert await heard(there, a) == []
    assert b.stats().adapter["lost"] == 1


# -- sending


async def test_broadcasts_made_together_share_frames_and_keep_their_order(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    await asyncio.gather(*(a.broadcast("t", n) for n in range(200)))
    assert await heard(there, a) == list(range(200))
    counters = a.stats().adapter
    assert counters["sent"] == 201
    assert counters["frames_sent"] < 100


async def test_a_message_that_is_too_large_is_refused_alone(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    results = await asyncio.gather(
        *(a.broadcast("t", message) for message in (1, "x" * (17 << 20), 2)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), InvalidMessage, type(None)]
    assert await heard(there, a) == [1, 2]


async def test_a_publishing_connection_that_ended_unused_is_replaced(cluster: Cluster, redis_url: str) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    await a.broadcast("t", 1)
    await redis_command(redis_url, "CLIENT", "KILL", "TYPE", "normal")
    await a.broadcast("t", 2)
    assert await heard(there, a) == [1, 2]


async def test_a_server_that_does_not_confirm_fails_the_broadcast_and_nobody_here_gets_it(
    cluster: Cluster, stopped: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await cluster.node("a")
    here = subscribed(a)
    await a.broadcast("t", "confirmed")
    monkeypatch.setattr(adapter, "SEND_WITHIN", 0.1)
    stopped.send_signal(signal.SIGSTOP)
    with pytest.raises(BroadcastError, match=r"Redis at .*TimeoutError"):
        await a.broadcast("t", "nobody knows")
    monkeypatch.undo()
    stopped.send_signal(signal.SIGCONT)
    assert await heard(here, a) == ["confirmed"]


async def test_broadcasts_under_way_fail_when_the_node_closes(
    cluster: Cluster, stopped: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "CLOSE_WITHIN", 0.1)
    a = await cluster.node("a")
    stopped.send_signal(signal.SIGSTOP)
    sending = [asyncio.create_task(a.broadcast("t", n)) for n in range(3)]
    await asyncio.sleep(0)
    await a.close()
    results = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(result) for result in results] == [BroadcastError] * 3


async def test_a_broadcast_cancelled_while_it_waits_holds_up_nobody(cluster: Cluster) -> None:
    a, b = await cluster.nodes("a", "b")
    there = subscribed(b)
    sending = [asyncio.create_task(a.broadcast("t", n)) for n in range(5)]
    await asyncio.sleep(0)
    sending[3].cancel()
    await asyncio.wait(sending)
    assert [n for n in await heard(there, a) if n != 3] == [0, 1, 2, 4]


# -- losing the connection


async def test_a_connection_that_fell_silent_is_taken_for_lost_and_replaced(
    cluster: Cluster, stopped: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SILENCE", 0.05)
    a = await cluster.node("a")
    here = subscribed(a, CONNECTION)
    stopped.send_signal(signal.SIGSTOP)
    assert await received(here) == [("lost",)]
    stopped.send_signal(signal.SIGCONT)
    assert await received(here) == [("reconnected",)]


@pytest.mark.parametrize("away", [False, True])
async def test_a_cancellation_that_the_client_loses_ends_the_reading_all_the_same(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    from redis.asyncio.client import PubSub as Subscribed

    pinging, again = asyncio.Event(), asyncio.Event()

    async def deaf(_: Any) -> None:
        with suppress(asyncio.CancelledError):
            pinging.set()
            await again.wait()
        if away:
            raise ConnectionError("cut")

    async def refused() -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Subscribed, "ping", deaf)
    monkeypatch.setattr(adapter, "SILENCE", 0.02)
    a = await cluster.node("a")
    await pinging.wait()
    if away:
        monkeypatch.setattr(a.adapter, "_subscribe", refused)
    closing = asyncio.create_task(a.adapter.close())
    done, _ = await asyncio.wait([closing], timeout=10)
    for task in asyncio.all_tasks() if not done else ():  # or the test would not end either
        task.cancel() if "pubsub listener" in task.get_name() else None
    assert done


async def test_a_silent_connection_that_answers_is_kept(
    cluster: Cluster, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.asyncio.client import PubSub as Subscribed

    heard, enough, ping = list[str](), asyncio.Event(), Subscribed.ping

    async def patient(self: Any) -> None:
        """It was silent for long enough; for the answer there is time."""
        monkeypatch.setattr(adapter, "SILENCE", WITHIN)
        await ping(self)

    def take(message: dict[str, Any]) -> None:
        monkeypatch.setattr(adapter, "SILENCE", 0.02)
        heard.append(message["type"])
        if len(heard) == 3:
            enough.set()

    monkeypatch.setattr(Subscribed, "ping", patient)
    a = await cluster.node("a")
    monkeypatch.setattr(a.adapter, "_take", take)
    monkeypatch.setattr(adapter, "SILENCE", 0.02)
    await redis_command(redis_url, "PUBLISH", a.adapter._channels[0], "wakes it")  # type: ignore[attr-defined]
    async with asyncio.timeout(WITHIN):
        await enough.wait()
    assert (heard, a.stats().adapter["reconnects"]) == (["message", "pong", "pong"], 0)


async def test_no_password_gets_into_the_log(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    await redis_command(redis_url, "ACL", "SETUSER", "logged", "on", ">geheim", "+@all", "allchannels")
    caplog.set_level(logging.DEBUG)
    async with PubSub("x", Redis(f"{redis_url}?username=logged&password=geheim", node_name="a")) as a:
        back = a.moments.next("reconnected")
        await redis_command(redis_url, "CLIENT", "KILL", "TYPE", "pubsub")
        await back
    assert "trying again" in caplog.text
    assert "geheim" not in caplog.text


async def test_shards_are_heard_from_the_moment_a_node_is_open(cluster: Cluster) -> None:
    a = await cluster.node("a", pool_size=40)
    b = await cluster.node("b", pool_size=40)
    there = subscribed(b)
    async with asyncio.TaskGroup() as senders:
        for n in range(40):
            senders.create_task(a.broadcast("t", n))
    assert sorted(await received(there, 40)) == list(range(40))
