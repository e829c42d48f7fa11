"""What a PubSub does without regard to its adapter."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from eventstore.errors import ConfigurationError, InvalidMessage, Overflow, PubSubClosed
from eventstore.mailbox import Mailbox
from eventstore.pubsub import CONNECTION, Envelope, Fastlane, Local, LocalHub, PubSub, hub
from eventstore.pubsub.hub import MANY_REASONS
from eventstore.pubsub.topics import Topics
from tests.pubsub.nodes import WITHIN, received, subscribed


@pytest.fixture
async def pubsub() -> AsyncIterator[PubSub]:
    async with PubSub("chat") as opened:
        yield opened


# -- options


@pytest.mark.parametrize(("cores", "options", "partitions"), [(8, {}, 2), (9, {}, 3), (None, {}, 1),
    (8, {"pool_size": 5}, 5), (8, {"pool_size": 5, "registry_size": 3}, 3)])  # fmt: skip
def test_there_are_as_many_partitions_as_shards_were_asked_for_or_a_quarter_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, options: dict[str, int], partitions: int
) -> None:
    monkeypatch.setattr(hub.os, "cpu_count", lambda: cores)
    assert PubSub("x", **options).registry_size == partitions  # type: ignore[arg-type]


def test_a_node_sends_on_as_many_shards_as_it_listens_on_unless_told_otherwise() -> None:
    assert (PubSub("x").pool_size, PubSub("x").broadcast_pool_size) == (1, 1)
    assert PubSub("x", pool_size=3).broadcast_pool_size == 3
    assert PubSub("x", pool_size=3, broadcast_pool_size=2).broadcast_pool_size == 2


@pytest.mark.parametrize("option", ["pool_size", "broadcast_pool_size", "registry_size"])
@pytest.mark.parametrize("value", [0, -1, 1025, 1.5, "2", True])
def test_a_size_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        PubSub("x", **{"pool_size": 1024} | {option: value})


async def test_node_names_are_unique_on_a_local_hub_for_each_pubsub_name() -> None:
    medium = LocalHub()
    async with PubSub("x", Local(medium, "a")), PubSub("y", Local(medium, "a")):
        with pytest.raises(ConfigurationError, match="node names are unique"):
            await PubSub("x", Local(medium, "a")).__aenter__()


async def test_a_pubsub_that_could_not_be_opened_is_closed() -> None:
    medium = LocalHub()
    async with PubSub("x", Local(medium, "a")):
        refused = PubSub("x", Local(medium, "a"))
        with pytest.raises(ConfigurationError):
            await refused.__aenter__()
        assert refused.closed
    async with refused:
        assert not refused.closed


async def test_another_codec_decides_what_survives() -> None:
    class Shouting:
        def encode(self, message: Any) -> str:
            if not isinstance(message, str):
                raise InvalidMessage("only texts can be shouted")
            return message.upper()

        def decode(self, text: str) -> Any:
            return text

    async with PubSub("x", codec=Shouting()) as pubsub:
        here = subscribed(pubsub)
        await pubsub.direct_broadcast(pubsub.node_name, "t", "hey")
        with pytest.raises(InvalidMessage):
            await pubsub.broadcast("t", 1)
        assert here.take_nowait(9) == ["HEY"]


# -- what is refused


@pytest.mark.parametrize("topic", ["$stats", "$", 1, None, b"t"])
async def test_what_is_no_topic_is_refused(pubsub: PubSub, topic: Any) -> None:
    with pytest.raises(ConfigurationError):
        pubsub.subscribe(topic, Mailbox())
    with pytest.raises(ConfigurationError):
        await pubsub.broadcast(topic, 1)


async def test_what_is_no_mailbox_is_refused(pubsub: PubSub) -> None:
    with pytest.raises(ConfigurationError, match="a Mailbox, not Queue"):
        pubsub.subscribe("t", asyncio.Queue())  # type: ignore[arg-type]


async def test_a_subscription_needs_a_topic(pubsub: PubSub) -> None:
    with pytest.raises(ConfigurationError, match="needs a topic"):
        pubsub.subscription()


async def test_dispatchers_are_plain_functions_with_a_name_of_their_own(pubsub: PubSub) -> None:
    async def waits(*_: object) -> None: ...

    pubsub.register_dispatcher("print", print)
    pubsub.register_dispatcher("print", print)
    for name, function in (("print", repr), ("", print), (None, print), ("waits", waits), ("no", "function")):
        with pytest.raises(ConfigurationError):
            pubsub.register_dispatcher(name, function)  # type: ignore[arg-type]


# -- interest


async def test_interest_is_told_for_the_first_subscriber_and_the_last_only(pubsub: PubSub) -> None:
    told: list[Any] = []
    pubsub.on_interest(lambda topic, wanted: told.append((topic, wanted)))
    one, two = subscribed(pubsub), subscribed(pubsub, "t", "t", "u")
    assert told == [("t", True), ("u", True)]
    one.close()
    pubsub.unsubscribe("u", two)
    pubsub.unsubscribe("t", two)
    assert told[2:] == [("u", False), ("t", False)]
    subscribed(pubsub)
    assert not pubsub.subscribed("u")


async def test_interest_in_what_a_collected_mailbox_wanted_ends_with_the_next_look(pubsub: PubSub) -> None:
    told: list[Any] = []
    pubsub.on_interest(lambda topic, wanted: told.append((topic, wanted)))
    subscribed(pubsub).put_nowait("collected")
    gc.collect()
    await pubsub.broadcast("t", 1)
    assert told == [("t", True), ("t", False)]


async def test_subscribing_returns_what_to_wait_for_while_somebody_prepares(pubsub: PubSub) -> None:
    prepared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pubsub.on_interest(lambda topic, wanted: prepared if topic == "slow" else None)
    assert pubsub.subscribe("quick", Mailbox()) is None
    one, two = Mailbox[Any](), Mailbox[Any]()
    waiting = [pubsub.subscribe("slow", one), pubsub.subscribe("slow", two)]
    prepared.set_result(None)
    for ready in waiting:
        assert ready is not None
        await ready


async def test_a_subscription_is_entered_once_its_topics_are_prepared(pubsub: PubSub) -> None:
    prepared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pubsub.on_interest(lambda topic, wanted: prepared)
    subscription = pubsub.subscription("t")
    entering = asyncio.create_task(subscription.__aenter__())
    await asyncio.sleep(0)
    assert not entering.done()
    prepared.set_result(None)
    await entering
    assert pubsub.subscribed("t")
    subscription.close()


async def test_a_subscription_whose_preparation_fails_is_none(pubsub: PubSub) -> None:
    async def fails() -> None:
        raise OSError("no way")

    pubsub.on_interest(lambda topic, wanted: fails() if wanted else None)
    with pytest.raises(OSError, match="no way"):
        async with pubsub.subscription("t"):
            pytest.fail("entered")
    assert not pubsub.subscribed("t")


# -- subscriptions


async def test_a_closed_mailbox_cannot_be_subscribed(pubsub: PubSub) -> None:
    mailbox = Mailbox[Any]()
    mailbox.close()
    pubsub.subscribe("t", mailbox)
    assert not pubsub.subscribed("t")


async def test_the_end_of_a_pubsub_leaves_mailboxes_of_others_open(pubsub: PubSub) -> None:
    mailbox = subscribed(pubsub)
    async with PubSub("other") as other:
        other.subscribe("t", mailbox)
    assert not mailbox.closed
    await pubsub.broadcast("t", 1)
    assert await received(mailbox) == [1]


async def test_a_closed_pubsub_can_be_opened_anew_without_its_subscriptions() -> None:
    pubsub = PubSub("x")
    async with pubsub:
        mailbox = subscribed(pubsub)
    async with pubsub:
        await pubsub.broadcast("t", 1)
        pubsub.subscribe("t", mailbox)
        await pubsub.broadcast("t", 2)
    assert mailbox.take_nowait(9) == [2]


async def test_a_mailbox_on_several_topics_hears_each_in_the_order_sent(pubsub: PubSub) -> None:
    async with pubsub.subscription("a", "b") as messages:
        for n in range(6):
            await pubsub.broadcast("ab"[n % 2], n)
        assert messages.take_nowait(9) == list(range(6))


async def test_full_mailboxes_lose_the_state_of_the_connection_by_their_rule_and_count_it(pubsub: PubSub) -> None:
    boxes = [subscribed(pubsub, CONNECTION, maxsize=1, overflow=rule) for rule in ("block", "error", "drop_newest")]
    for state in ("lost", "reconnected"):
        pubsub._connection(state)  # type: ignore[arg-type]
    assert [(box.take_nowait(9), box.dropped) for box in boxes] == [([("lost",)], 1)] * 3


async def test_all_who_are_full_are_named_in_one_error(pubsub: PubSub) -> None:
    boxes = [Mailbox[Any](1, "error", name=name) for name in ("one", "two")]
    for box in boxes:
        pubsub.subscribe("t", box)
    await pubsub.broadcast("t", 1)
    with pytest.raises(Overflow, match="2 of the subscribers of 't' were full: one, two"):
        await pubsub.local_broadcast("t", 2)


async def test_fastlane_leaves_out_the_sender_and_counts_what_full_mailboxes_lose(pubsub: PubSub) -> None:
    written: list[Any] = []
    sender, plain = Mailbox[Any](), subscribed(pubsub, maxsize=1, overflow="block")
    pubsub.subscribe("t", sender, Fastlane(written.append, str))
    for n in range(2):
        await pubsub.broadcast_from(sender, "t", n, dispatcher="fastlane")
    assert (written, plain.take_nowait(9), plain.dropped) == ([], [0], 1)
    await pubsub.broadcast("t", 7, dispatcher="fastlane")
    assert written == ["7"]


# -- numbers and rubbish


async def test_the_ten_busiest_topics_are_told(pubsub: PubSub) -> None:
    kept = [subscribed(pubsub, *(f"t{n:02}" for n in range(most))) for most in (12, 3, 1)]
    stats = pubsub.stats()
    assert list(stats.busiest.items())[:4] == [("t00", 3), ("t01", 2), ("t02", 2), ("t03", 1)]
    assert (len(stats.busiest), stats.topics, stats.subscriptions, stats.mailboxes) == (10, 12, 16, len(kept))


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("except", "z", "z", "$stats", "1"),
        Envelope("except", "z", "z", "$stats", '{"ask": 1}'),
        Envelope("only", "local", "z", "$answer", "null"),
        Envelope("except", "z", "z", "t", "{"),
        Envelope("except", "z", "z", "t", "1", "unknown"),
    ],
)
async def test_envelopes_of_others_that_make_no_sense_are_counted_and_survived(
    pubsub: PubSub, envelope: Envelope
) -> None:
    here = subscribed(pubsub)
    hub._Inbox(pubsub)(envelope)
    assert pubsub.stats().rejected == 1
    await pubsub.broadcast("t", 1)
    assert here.take_nowait(9) == [1]


async def test_an_answer_that_comes_too_late_is_ignored(pubsub: PubSub) -> None:
    hub._Inbox(pubsub)(Envelope("only", "local", "z", "$answer", '{"ask": "long ago", "stats": {}}'))
    assert pubsub.stats().rejected == 0


# -- the table


def test_ten_thousand_mailboxes_leave_nothing_behind() -> None:
    topics = Topics(3, lambda *_: None)
    for n in range(10_000):
        mailbox, own = Mailbox[Any](), [f"t{n % 7}", f"of {n}", "t"]
        for topic in own:
            topics.add(topic, mailbox, n if n % 2 else None)
        if n % 3 == 0:
            mailbox.close()
        elif n % 3 == 1:
            for topic in own:
                topics.remove(topic, mailbox)
    del mailbox
    gc.collect()
    assert (topics.counts(), topics.mailboxes(), topics.entries("t")) == ({}, [], [])
    assert (topics._subscribers, topics._partitions, len(topics._collected)) == ({}, [{}, {}, {}], 0)


def test_a_subscription_does_not_keep_its_mailbox_alive_and_a_mailbox_not_its_table() -> None:
    topics, mailbox = Topics(1, lambda *_: None), Mailbox[Any]()
    topics.add("t", mailbox, None)
    table, box = weakref.ref(topics), weakref.ref(mailbox)
    del mailbox
    gc.collect()
    assert box() is None
    mailbox = Mailbox()
    topics.add("t", mailbox, None)
    topics.clear()
    del topics
    gc.collect()
    assert table() is None


def test_mailboxes_are_spread_evenly_over_the_partitions() -> None:
    topics = Topics(4, lambda *_: None)
    boxes = [Mailbox[Any]() for _ in range(40)]
    for box in boxes:
        topics.add("t", box, None)
        topics.add("t", box, "again")
    assert [len(entries) for entries in topics.entries("t")] == [10] * 4
    assert topics.counts() == {"t": 80}


def test_the_table_agrees_with_a_plain_model_of_it() -> None:
    """Seeded random subscribing, unsubscribing and closing, compared with a dictionary of lists."""
    rng, changes = random.Random(7), list[Any]()
    topics = Topics(3, lambda topic, wanted: changes.append((topic, wanted)))
    boxes, model = [Mailbox[Any](name=str(n)) for n in range(9)], dict[tuple[str, str], list[Any]]()
    for step in range(3_000):
        box, topic = rng.choice(boxes), f"t{rng.randrange(5)}"
        match rng.randrange(8):
            case 0 if step % 50 == 0:
                box.close()
                boxes[boxes.index(box)] = Mailbox(name=f"new {step}")
                model = {key: given for key, given in model.items() if key[1] != box.name}
            case 1 | 2 | 3:
                topics.remove(topic, box)
                model.pop((topic, box.name), None)
            case _:
                metadata = rng.choice([None, step])
                topics.add(topic, box, metadata)
                model.setdefault((topic, box.name), []).append(metadata)
        for one in {topic for topic, _ in model} | {f"t{n}" for n in range(5)}:
            found = {
                (one, subscriber().name): list(given)  # type: ignore[union-attr]
                for entries in topics.entries(one)
                for subscriber, given in entries
            }
            assert found == {key: given for key, given in model.items() if key[0] == one}
    for n in range(5):
        told = [wanted for topic, wanted in changes if topic == f"t{n}"]
        assert told == [step % 2 == 0 for step in range(len(told))]
        assert bool(told and told[-1]) == (f"t{n}" in topics)


OPERATIONS = ["entries", "counts", "mailboxes", "add", "remove", "clear"]


@pytest.fixture
def collections() -> Iterator[None]:
    """The settings of the collector, restored."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.enable()


@pytest.mark.usefixtures("collections")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_garbage_collection_in_the_middle_of_anything_is_harmless(operation: str) -> None:
    for allocations in range(120):
        topics, mine = Topics(2, lambda *_: None), Mailbox[Any]()
        arguments = {"entries": ("t",), "add": ("t", mine, 5), "remove": ("t", mine)}.get(operation, ())
        call = getattr(topics, operation)
        gc.disable()
        topics.add("t", mine, None)
        _leave_garbage(topics)
        gc.set_threshold(gc.get_count()[0] + allocations, 1, 1)
        gc.enable()
        call(*arguments)
        gc.disable()
        gc.collect()
        assert topics.counts().get("t", 0) == {"add": 2, "remove": 0, "clear": 0}.get(operation, 1)
        assert len(topics.mailboxes()) == (operation not in ("remove", "clear"))


def _leave_garbage(topics: Topics) -> None:
    """Subscribe mailboxes that only a collection ends, because each is part of a circle."""
    for n in range(30):
        mailbox = Mailbox[Any]()
        mailbox.put_nowait(mailbox)
        topics.add("t", mailbox, n if n % 2 else None)
        topics.add(f"u{n}", mailbox, None)


@pytest.mark.parametrize("size", [2, 3, 4, 16])
async def test_tasks_use_every_shard(size: int) -> None:
    used: set[int] = set()

    class Noting(Local):
        async def broadcast(self, envelope: Envelope) -> None:
            used.add(envelope.shard)

    async with PubSub("test", Noting(), pool_size=size) as pubsub:
        await asyncio.gather(*(pubsub.broadcast("t", number) for number in range(500)))
    assert used == set(range(size))


async def test_a_subscription_outside_its_block_says_that_nothing_would_arrive(pubsub: PubSub) -> None:
    messages = pubsub.subscription("t")
    for taking in (messages.get, lambda: messages.take(1), lambda: anext(aiter(messages))):
        with pytest.raises(ConfigurationError, match="async with"):
            await taking()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pubsub: pubsub.subscription(["a", "b"]),
        lambda pubsub: pubsub.subscription("$a"),
        lambda pubsub: pubsub.direct_broadcast(1, "t", 2),
        lambda pubsub: pubsub.broadcast_from(None, "t", 2),
        lambda pubsub: pubsub.local_broadcast_from("t", "t", 2),
        lambda pubsub: pubsub.subscribe("t", []),
        lambda pubsub: pubsub.cluster_stats(within=-1),
        lambda _: PubSub("test", "postgresql://"),  # type: ignore[arg-type]
        lambda _: PubSub(1),  # type: ignore[arg-type]
        lambda _: Fastlane(asyncio.sleep, str),
    ],
)
async def test_wrong_use_is_refused_by_name(pubsub: PubSub, wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        await (wrong(pubsub) or asyncio.sleep(0))


async def test_each_reason_of_a_rejection_is_logged_the_first_time(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    for reason in ("a", "a", "a", "b", "a"):
        pubsub._reject(reason)
    told = [record.getMessage().partition(": dropped what arrived: ")[2][0] for record in caplog.records]
    assert told == list("aaba")


async def test_endlessly_many_reasons_are_logged_less_and_less(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        pubsub._reject(f"reason {number}")
    assert len(caplog.records) < MANY_REASONS + 20
    assert pubsub.stats().rejected == 10_000


async def test_senders_wait_for_all_full_mailboxes_at_once(pubsub: PubSub) -> None:
    stalled, slow = (Mailbox[int](1, "block") for _ in range(2))
    for mailbox in (stalled, slow):
        pubsub.subscribe("t", mailbox)
    await pubsub.local_broadcast("t", 1)
    sending = asyncio.create_task(pubsub.local_broadcast("t", 2))
    await asyncio.sleep(0)
    assert [slow.get_nowait(), await slow.get()] == [1, 2]
    assert not sending.done()
    assert [stalled.get_nowait(), await stalled.get()] == [1, 2]
    await sending


@pytest.mark.parametrize("ending", ["unsubscribe", "close", "collect", "close the PubSub"])
async def test_a_sender_does_not_wait_for_a_mailbox_that_ended(pubsub: PubSub, ending: str) -> None:
    mailbox: Mailbox[int] | None = Mailbox(1, "block")
    assert mailbox is not None
    pubsub.subscribe("t", mailbox)
    await pubsub.local_broadcast("t", 1)
    sending = asyncio.create_task(pubsub.local_broadcast("t", 2))
    await asyncio.sleep(0)
    if ending == "unsubscribe":
        pubsub.unsubscribe("t", mailbox)
    elif ending == "close":
        mailbox.close()
    elif ending == "collect":
        mailbox = None
        gc.collect()
    else:
        await pubsub.close()
    async with asyncio.timeout(WITHIN):
        await sending


async def test_a_cancelled_close_still_closes_everything() -> None:
    going, closed = asyncio.Event(), asyncio.Event()

    class Slow(Local):
        async def close(self) -> None:
            await going.wait()
            closed.set()

    pubsub = await PubSub("test", Slow()).__aenter__()
    closing, second = (asyncio.create_task(pubsub.close()) for _ in range(2))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    going.set()
    await asyncio.wait([closing, second])
    assert closed.is_set()


async def test_closing_while_it_is_opened_closes_the_adapter() -> None:
    going, closed = asyncio.Event(), asyncio.Event()

    class Slow(Local):
        async def start(self, deliver: Any) -> None:
            await going.wait()

        async def close(self) -> None:
            closed.set()

    pubsub = PubSub("test", Slow())
    opening = asyncio.create_task(pubsub.__aenter__())
    await asyncio.sleep(0)
    await pubsub.close()
    closed.clear()
    going.set()
    with pytest.raises(PubSubClosed):
        await opening
    assert closed.is_set()


async def test_a_subscription_is_used_once(pubsub: PubSub) -> None:
    async with (subscription := pubsub.subscription("t")):
        with pytest.raises(ConfigurationError, match="once"):
            await subscription.__aenter__()
    with pytest.raises(ConfigurationError, match="once"):
        await subscription.__aenter__()


async def test_an_abandoned_subscription_is_collected(pubsub: PubSub) -> None:
    await pubsub.subscription("t").__aenter__()
    gc.collect()
    assert not pubsub.subscribed("t")


async def test_an_interest_callback_that_fails_harms_no_subscription(pubsub: PubSub) -> None:
    pubsub.on_interest(lambda topic, wanted: 1 / 0)  # type: ignore[return-value]
    async with pubsub.subscription("t") as messages:
        await pubsub.broadcast("t", 1)
        assert await messages.get() == 1
    assert not pubsub.subscribed("t")


async def test_readiness_is_forgotten_with_the_last_subscriber(pubsub: PubSub) -> None:
    pubsub.on_interest(lambda topic, wanted: asyncio.get_running_loop().create_future() if wanted else None)
    mailbox: Mailbox[int] = Mailbox()
    assert pubsub.subscribe("t", mailbox) is not None
    mailbox.close()
    assert pubsub._ready == {}
