from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from eventstore.analytics import Batcher, RequestLog, RequestPubSub
from eventstore.errors import ConfigurationError, PubSubClosed
from eventstore.mailbox import Mailbox
from eventstore.pubsub import Local, LocalHub, PubSub
from tests.analytics.logs import a_log


class Storage:
    """Keeps what it is given; fails as often as it is told to, or waits."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[RequestLog]] = []
        self.failures = failures
        self.asked = 0

    @property
    def logs(self) -> list[RequestLog]:
        return [one for batch in self.batches for one in batch]

    async def insert(self, logs: Sequence[RequestLog]) -> None:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise OSError("out of reach")
        self.batches.append(list(logs))


class Time:
    """A clock that stands still until it is told to go on; sleeping takes none of it."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0.0
        self._waiting: list[tuple[float, asyncio.Event]] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        over, until = asyncio.Event(), self.now + seconds
        self._waiting.append((until, over))
        both = [asyncio.ensure_future(one.wait()) for one in (event, over)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
        return event.is_set()

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        for until, over in self._waiting:
            if until <= self.now:
                over.set()


@pytest.fixture
async def requests() -> AsyncIterator[RequestPubSub]:
    async with PubSub("web") as pubsub:
        yield RequestPubSub(pubsub, shared_storage=True)


async def settle() -> None:
    """Let every task go on until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_is_broadcast_is_stored_when_there_is_enough(requests: RequestPubSub) -> None:
    storage, logs = Storage(), [a_log() for _ in range(3)]
    async with Batcher(requests, storage, batch_size=3, interval=1000) as batcher:
        stored = batcher.moments.next("stored")
        for log in logs:
            await requests.broadcast(log)
        assert await stored == 3
    assert storage.batches == [logs]


async def test_a_few_are_stored_when_the_interval_is_over_and_not_before(requests: RequestPubSub) -> None:
    storage, time = Storage(), Time()
    async with Batcher(requests, storage, interval=5, clock=time) as batcher:
        batcher.insert(a_log())
        await settle()
        time.go_on(4.9)
        await settle()
        assert storage.batches == []
        stored = batcher.moments.next("stored")
        time.go_on(0.1)
        assert await stored == 1


async def test_an_idle_batcher_asks_for_nothing(requests: RequestPubSub) -> None:
    storage, time = Storage(), Time()
    async with Batcher(requests, storage, interval=1, clock=time):
        await settle()
        time.go_on(100)
        await settle()
    assert (storage.asked, time._waiting) == (0, [])


async def test_closing_stores_what_waits(requests: RequestPubSub) -> None:
    storage, logs = Storage(), [a_log() for _ in range(5)]
    batcher = Batcher(requests, storage, batch_size=2, interval=1000)
    for log in logs:
        batcher.insert(log)
    await batcher.close()
    await batcher.close()
    assert (storage.logs, batcher.stored, batcher.dropped, len(batcher)) == (logs, 5, 0, 0)


async def test_a_batch_that_failed_is_tried_again_with_pauses_until_it_is_stored(requests: RequestPubSub) -> None:
    storage, time, log = Storage(failures=4), Time(), a_log()
    async with Batcher(requests, storage, batch_size=1, clock=time) as batcher:
        stored = batcher.moments.next("stored")
        batcher.insert(log)
        await stored
        assert (batcher.failures, batcher.dropped) == (4, 0)
    assert storage.batches == [[log]]
    assert 0.05 + 0.1 + 0.2 + 0.4 <= time.slept <= 0.1 + 0.2 + 0.4 + 0.8


async def test_a_flush_that_fails_keeps_what_it_had(requests: RequestPubSub) -> None:
    storage = Storage(failures=1)
    batcher = Batcher(requests, storage, interval=1000)
    batcher.insert(log := a_log())
    assert (await batcher.flush(), len(batcher)) == (False, 1)
    assert (await batcher.flush(), len(batcher)) == (True, 0)
    await batcher.close()
    assert storage.batches == [[log]]


async def test_a_full_buffer_drops_the_oldest_and_counts_them(requests: RequestPubSub) -> None:
    storage, logs = Storage(), [a_log() for _ in range(15)]
    batcher = Batcher(requests, storage, batch_size=100, interval=1000, max_buffer=10)
    for log in logs:
        await requests.broadcast(log)
    assert (len(batcher), batcher.dropped) == (10, 5)
    await batcher.close()
    assert storage.logs == logs[5:]


async def test_what_cannot_be_stored_before_the_end_is_counted(
    requests: RequestPubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.analytics.batching.CLOSED_WITHIN", 0.01)
    batcher = Batcher(requests, Storage(failures=10**9), interval=1000)
    for _ in range(3):
        batcher.insert(a_log())
    await batcher.close()
    batcher.insert(a_log())
    assert (batcher.dropped, len(batcher)) == (4, 0)


async def test_closing_while_a_batch_is_under_way_stores_it_again(requests: RequestPubSub) -> None:
    asked, storage = asyncio.Event(), Storage()

    class Hangs:
        async def insert(self, logs: Sequence[RequestLog]) -> None:
            if not asked.is_set():
                asked.set()
                await asyncio.Event().wait()
            await storage.insert(logs)

    batcher = Batcher(requests, Hangs(), batch_size=1)
    batcher.insert(log := a_log())
    await asked.wait()
    await batcher.close()
    assert storage.batches == [[log]]


async def test_what_else_is_said_on_the_topic_is_ignored(requests: RequestPubSub) -> None:
    storage = Storage()
    batcher = Batcher(requests, storage, interval=1000)
    for message in ("hello", ("other", 1), None, ("request_sent",), ("request_sent", "garbage"), ("other", a_log())):
        await requests._pubsub.local_broadcast("request_topic", message)
    batcher.insert(log := a_log())
    assert await batcher.flush()
    await batcher.close()
    assert (storage.batches, batcher.ignored, batcher.dropped) == ([[log]], 6, 0)


class Choosy(Storage):
    """Refuses batches with a request of /bad, or everything."""

    def __init__(self, everything: bool = False) -> None:
        super().__init__()
        self.everything = everything

    async def insert(self, logs: Sequence[RequestLog]) -> None:
        self.asked += 1
        if self.everything or any(log.path == "/bad" for log in logs):
            raise ValueError("cannot be stored")
        self.batches.append(list(logs))


@pytest.mark.parametrize("places", [[0], [999], [3, 500, 501], [*range(0, 1000, 10)]])
async def test_requests_that_the_storage_refuses_do_not_hold_up_the_others(
    requests: RequestPubSub, places: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    storage = Choosy()
    async with Batcher(requests, storage, interval=1000, clock=Time()) as batcher:
        for n in range(1000):
            batcher.insert(a_log(path="/bad" if n in places else "/"))
        while not await batcher.flush():
            assert storage.asked <= 3
        assert (batcher.stored, batcher.dropped, len(batcher)) == (1000 - len(places), len(places), 0)
    assert len({one.request_id for one in storage.logs}) == len(storage.logs) == 1000 - len(places)
    assert "'/bad'" in caplog.text


async def test_a_storage_that_refuses_everything_is_not_taken_for_bad_requests(requests: RequestPubSub) -> None:
    storage = Choosy(everything=True)
    async with Batcher(requests, storage, batch_size=10, interval=1000, clock=Time()) as batcher:
        for _ in range(25):
            batcher.insert(a_log())
        for _ in range(10):
            assert not await batcher.flush()
        assert (len(batcher), batcher.dropped) == (25, 0)
        storage.everything = False
        assert await batcher.flush()
        assert (batcher.stored, batcher.dropped) == (25, 0)


async def test_a_bad_request_alone_in_its_batch_goes_once_the_storage_takes_another(requests: RequestPubSub) -> None:
    storage = Choosy()
    async with Batcher(requests, storage, interval=1000, clock=Time()) as batcher:
        batcher.insert(a_log(path="/bad"))
        for _ in range(5):
            assert not await batcher.flush()
        batcher.insert(log := a_log())
        assert await batcher.flush()
        assert (storage.logs, batcher.dropped) == ([log], 1)


async def test_what_was_left_when_the_storage_went_away_amid_sorting_is_kept(requests: RequestPubSub) -> None:
    class Leaves(Choosy):
        async def insert(self, logs: Sequence[RequestLog]) -> None:
            if self.asked == 5:
                self.asked += 1
                raise OSError("away")
            await super().insert(logs)

    storage = Leaves()
    async with Batcher(requests, storage, interval=1000, clock=Time()) as batcher:
        for n in range(16):
            batcher.insert(a_log(path="/bad" if n == 5 else "/"))
        while not await batcher.flush():
            assert batcher.dropped == 0
        assert (batcher.stored, batcher.dropped) == (15, 1)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"interval": 0}, {"max_buffer": 0}, {"batch_size": 1.5}])
async def test_numbers_out_of_range_are_refused(requests: RequestPubSub, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Batcher(requests, Storage(), **option)


def test_a_batcher_needs_an_event_loop() -> None:
    with pytest.raises(ConfigurationError, match="event loop"):
        Batcher(RequestPubSub(PubSub("web"), shared_storage=True), Storage())


async def test_a_batcher_needs_an_open_pubsub() -> None:
    with pytest.raises(PubSubClosed):
        Batcher(RequestPubSub(PubSub("web"), shared_storage=True), Storage())


@pytest.mark.parametrize(("shared", "heard"), [(True, [1, 0]), (False, [1, 1])])
async def test_requests_reach_other_nodes_only_where_each_has_its_own_storage(shared: bool, heard: list[int]) -> None:
    hub, storages = LocalHub(), [Storage(), Storage()]
    async with PubSub("web", Local(hub, node_name="a")) as a, PubSub("web", Local(hub, node_name="b")) as b:
        nodes = [RequestPubSub(one, shared_storage=shared) for one in (a, b)]
        batchers = [Batcher(node, storage, interval=1000) for node, storage in zip(nodes, storages, strict=True)]
        await nodes[0].broadcast(log := a_log(session_id="s"))
        assert [len(one) for one in batchers] == heard
        for one in batchers:
            await one.close()
    assert all(one == log for storage in storages for one in storage.logs)


async def test_a_full_subscriber_holds_no_request_up(requests: RequestPubSub) -> None:
    mailbox: Mailbox[Any] = Mailbox(1, "block")
    requests.subscribe(mailbox)
    for _ in range(3):
        await requests.broadcast(a_log())
    assert (len(mailbox), mailbox.dropped, requests.name) == (1, 2, "web")
