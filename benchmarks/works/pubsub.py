"""PubSub: on one node, from node to node, and beside appends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, cycle
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench, Helper
from benchmarks.measure import drive, repeat
from benchmarks.model import Comparison, Sample, Sides, work
from benchmarks.sides import appender
from eventstore.mailbox import Mailbox
from eventstore.pubsub import Postgres, PubSub

__all__ = ["pubsub_appends", "pubsub_local", "pubsub_nodes", "pubsub_topics"]

MESSAGE = {"kind": "moved", "who": "customer-4711", "at": 1.5, "note": ""}
MESSAGE["note"] = "x" * (200 - len(str(MESSAGE)))
"""About 200 bytes of JSON."""

SUBSCRIBERS = 1000
SENDERS = 64


@work(
    16,
    "pubsub-local",
    "local broadcast on one topic with 1,000 subscribers",
    Comparison("enqueued", at_least=1_000_000),
    Comparison("consumed", at_least=150_000),
)
@asynccontextmanager
async def pubsub_local(bench: Bench) -> AsyncIterator[Sides]:
    """Enqueued: `local_broadcast` into the mailboxes of 1,000 subscribers, which are emptied outside the clock.
    Consumed: 1,000 tasks iterate over their mailboxes while a broadcast follows the other, each of which wakes them
    all; the clock stops when the last task has its last message."""
    async with PubSub("benchmark") as pubsub:

        async def enqueue(mailboxes: list[Mailbox[Any]]) -> tuple[int, float]:
            began = perf_counter()
            for _ in range(100):
                await pubsub.local_broadcast("enqueued", MESSAGE)
            took = perf_counter() - began
            return sum(len(mailbox.take_nowait(1000)) for mailbox in mailboxes), took

        mailboxes = [Mailbox[Any]() for _ in range(SUBSCRIBERS)]
        for mailbox in mailboxes:
            pubsub.subscribe("enqueued", mailbox)
        yield {
            "enqueued": partial(repeat, partial(enqueue, mailboxes)),
            "consumed": partial(repeat, partial(_consumed, pubsub)),
        }


async def _consumed(pubsub: PubSub) -> tuple[int, float]:
    mailboxes = [Mailbox[Any]() for _ in range(SUBSCRIBERS)]
    for mailbox in mailboxes:
        pubsub.subscribe("consumed", mailbox)
    tasks = [asyncio.create_task(_drained(mailbox)) for mailbox in mailboxes]
    await asyncio.sleep(0)
    began = perf_counter()
    for _ in range(100):
        await pubsub.local_broadcast("consumed", MESSAGE)
        await asyncio.sleep(0)
    for mailbox in mailboxes:
        mailbox.close()
    return sum(await asyncio.gather(*tasks)), perf_counter() - began


async def _drained(mailbox: Mailbox[Any]) -> int:
    received = 0
    async for _ in mailbox:
        received += 1
    return received


@work(
    17,
    "pubsub-topics",
    "local broadcast with 100,000 topics against 100",
    Comparison("100,000 topics", "100 topics", at_least=0.8),
)
@asynccontextmanager
async def pubsub_topics(bench: Bench) -> AsyncIterator[Sides]:
    """Both: every topic has one subscriber, each topic is broadcast to in turn, and the mailboxes are emptied outside
    the clock. With 100,000 topics hardly anything that a broadcast touches is in the processor's cache."""
    async with PubSub("few") as few, PubSub("many") as many:
        yield {"100 topics": _in_turn(few, 100), "100,000 topics": _in_turn(many, 100_000)}


def _in_turn(pubsub: PubSub, size: int) -> Any:
    mailboxes = [Mailbox[Any]() for _ in range(size)]
    for number, mailbox in enumerate(mailboxes):
        pubsub.subscribe(f"topic:{number}", mailbox)
    topics = cycle([f"topic:{number}" for number in range(size)])

    async def broadcast() -> tuple[int, float]:
        began = perf_counter()
        for _ in range(10_000):
            await pubsub.local_broadcast(next(topics), MESSAGE)
        took = perf_counter() - began
        for mailbox in mailboxes:
            mailbox.take_nowait(1000)
        return 10_000, took

    return partial(repeat, broadcast)


@work(
    18,
    "pubsub-nodes",
    "200-byte messages from one node to another over Postgres",
    Comparison("64 callers", at_least=15_000),
    Comparison("1,000/s", metric="p99", at_most=10),
    Comparison("64 callers", "NOTIFY by hand"),
    Comparison("1,000/s", "NOTIFY by hand, 1,000/s", "p99"),
)
@asynccontextmanager
async def pubsub_nodes(bench: Bench) -> AsyncIterator[Sides]:
    """The receiver is another process. 64 callers: as many tasks of the sending node broadcast as fast as they are
    answered; the clock stops when the receiver has everything, and it fails if a message is missing. 1,000/s: one task
    sends one message a millisecond; latency from before the broadcast to the mailbox of the receiver, by the clock
    that both processes share. By hand: one connection runs `select pg_notify` for each message, another process has
    a callback on LISTEN; bodies are JSON, decoded there."""
    async with (
        bench.store(),
        bench.helpers(1) as (helper,),
        PubSub("benchmark", Postgres(bench.dsn, node_name="sender", schema=bench.schema)) as pubsub,
        bench.connection() as connection,
    ):
        await helper.call("hear", name="benchmark", topic="benchmark")
        notify = await connection.prepare("select pg_notify('by_hand', $1)")
        hand = asyncio.Lock()

        async def ours() -> int:
            await pubsub.broadcast("benchmark", {**MESSAGE, "sent": perf_counter()})
            return 1

        async def by_hand() -> int:
            async with hand:
                await notify.fetch(helper_json({**MESSAGE, "sent": perf_counter()}))
            return 1

        yield {
            "64 callers": lambda seconds: _received(helper, drive([ours] * SENDERS, seconds)),
            "NOTIFY by hand": lambda seconds: _received(helper, drive([by_hand] * SENDERS, seconds)),
            "1,000/s": lambda seconds: _received(helper, _paced(ours, seconds)),
            "NOTIFY by hand, 1,000/s": lambda seconds: _received(helper, _paced(by_hand, seconds)),
        }


def helper_json(message: dict[str, Any]) -> str:
    """Return *message* as the text that is notified by hand."""
    import orjson

    return orjson.dumps(message).decode()


async def _received(helper: Helper, sending: Any) -> Sample:
    """Return what the receiver got of what is sent, and when."""
    began = perf_counter()
    sent: Sample = await sending
    heard = await helper.call("heard", count=sent.count)
    if heard["count"] != sent.count:
        raise RuntimeError(f"{heard['count']} of {sent.count} messages arrived")
    return Sample(sent.count, heard["last"] - began, heard["p50"], heard["p99"])


async def _paced(call: Any, seconds: float) -> Sample:
    """One call a millisecond; a late one is made up for."""
    began = perf_counter()
    for number in count():
        due = began + number * 0.001
        if due - began >= seconds:
            return Sample(number, perf_counter() - began, 0, 0)
        if (ahead := due - perf_counter()) > 0:
            await asyncio.sleep(ahead)
        await call()
    raise AssertionError


@work(
    19,
    "pubsub-appends",
    "appends of 8 callers beside 1,000 broadcasts/s",
    Comparison("broadcasting", "alone", at_least=0.9),
    pairs=10,
)
@asynccontextmanager
async def pubsub_appends(bench: Bench) -> AsyncIterator[Sides]:
    """8 tasks append single events to streams of their own. Broadcasting: another process, a node of its own,
    broadcasts a message of 200 bytes a millisecond meanwhile, each from a task of its own, and the appending node
    subscribes to them."""
    async with (
        bench.store() as store,
        bench.helpers(1) as (helper,),
        PubSub("benchmark", Postgres(bench.dsn, node_name="listener", schema=bench.schema)) as pubsub,
        pubsub.subscription("benchmark"),
    ):
        callers = [appender(store, f"stream-{number}") for number in range(8)]
        await helper.call("hear", name="benchmark", topic="elsewhere")

        async def beside(seconds: float) -> Sample:
            broadcasting = asyncio.create_task(helper.call("broadcast", topic="benchmark", seconds=seconds + 0.2))
            await asyncio.sleep(0.1)
            sample = await drive(callers, seconds)
            await broadcasting
            return sample

        yield {"alone": partial(drive, callers), "broadcasting": beside}
