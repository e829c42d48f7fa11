"""What arrives, in its order, also behind a body that has to be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from uuid import UUID

import pytest

from eventstore.errors import ConfigurationError, DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope
from eventstore.pubsub.arrivals import FETCHES, Arrivals
from eventstore.pubsub.frames import Frames
from tests.pubsub.test_postgres import Inbox

FRAMES = Frames(b"key")
LARGE = Random(1).randbytes(10_000).hex()


class Bodies:
    """Stored bodies, fetched when told to."""

    def __init__(self) -> None:
        self.stored: dict[UUID, bytes] = {}
        self.errors: list[Exception] = []
        self.asked = 0
        self.go = asyncio.Event()

    async def fetch(self, id: UUID) -> bytes | None:
        self.asked += 1
        await self.go.wait()
        if self.errors:
            raise self.errors.pop(0)
        return self.stored.get(id)


class Place:
    def __init__(self) -> None:
        self.inbox, self.bodies = Inbox(), Bodies()
        self.counters = dict.fromkeys(("received", "frames_received", "rejected", "lost"), 0)
        self.arrivals = Arrivals(FRAMES, self.inbox, self.bodies.fetch, self.counters)

    def text(self, message: str) -> str:
        [frame] = FRAMES.pack([Envelope("except", "a", "o", "t", message)])
        if frame.spill is not None:
            self.bodies.stored[frame.spill.id] = frame.spill.body
        return frame.text

    async def messages(self, count: int) -> list[str]:
        await self.inbox.until(lambda: len(self.inbox.envelopes) >= count)
        return [envelope.message for envelope in self.inbox.envelopes]


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    opened = Place()
    task = asyncio.ensure_future(opened.arrivals.run(lambda: None))
    try:
        yield opened
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_is_small_is_handed_over_at_once() -> None:
    async with place() as here:
        here.arrivals(here.text("1"))
        assert [envelope.message for envelope in here.inbox.envelopes] == ["1"]


async def test_frames_queue_behind_a_body_that_is_fetched() -> None:
    async with place() as here:
        for message in ("1", LARGE, "2", LARGE, "3"):
            here.arrivals(here.text(message))
        assert len(here.inbox.envelopes) == 1
        here.bodies.go.set()
        assert await here.messages(5) == ["1", LARGE, "2", LARGE, "3"]
        await asyncio.sleep(0)
        here.arrivals(here.text("4"))
        assert here.inbox.envelopes[-1].message == "4"


async def test_a_backlog_that_is_full_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.MOST_BEHIND", 2)
    async with place() as here:
        here.arrivals(here.text(LARGE))
        while not here.bodies.asked:
            await asyncio.sleep(0)
        for message in "1234":
            here.arrivals(here.text(message))
        here.bodies.go.set()
        assert await here.messages(3) == [LARGE, "3", "4"]
    assert here.counters == {"received": 3, "frames_received": 5, "rejected": 0, "lost": 2}


async def test_a_backlog_is_bounded_by_its_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as here:
        here.arrivals(here.text(LARGE))
        while not here.bodies.asked:
            await asyncio.sleep(0)
        texts = [here.text("é" * 100 + each) for each in "1234"]
        monkeypatch.setattr("eventstore.pubsub.arrivals.MOST_BYTES_BEHIND", 2 * len(texts[0].encode()) + 10)
        for text in texts:
            here.arrivals(text)
        assert here.counters["lost"] == 2
        here.bodies.go.set()
        assert [message[-1] for message in (await here.messages(3))[1:]] == ["3", "4"]
        assert here.arrivals._bytes_behind == 0


async def test_a_stored_body_is_fetched_once_however_often_its_frame_is_repeated() -> None:
    async with place() as here:
        here.bodies.go.set()
        text = here.text(LARGE)
        for _ in range(100):
            here.arrivals(text)
        here.arrivals(here.text("next"))
        assert await here.messages(2) == [LARGE, "next"]
    assert here.bodies.asked == 1
    assert here.counters["rejected"] == len(here.inbox.rejections) == 99
    assert "repeated" in here.inbox.rejections[0]


async def test_of_the_stored_bodies_that_were_seen_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.MOST_SPILLS", 2)
    async with place() as here:
        texts = [here.text(LARGE + each) for each in "123"]
        for text in (*texts, texts[1], texts[2]):
            here.arrivals(text)
        assert here.counters["rejected"] == 2
        here.arrivals(texts[0])
        assert here.counters["rejected"] == 2


async def test_after_another_key_only_what_it_signed_is_taken() -> None:
    async with place() as here:
        old, other = here.text("old"), Frames(b"another key")
        here.arrivals.use(other)
        here.arrivals(old)
        here.arrivals(other.pack([Envelope("except", "a", "o", "t", "new")])[0].text)
        assert await here.messages(1) == ["new"]
    assert here.counters["rejected"] == 1


@pytest.mark.parametrize("failures", [1, FETCHES - 1])
async def test_a_fetch_that_fails_is_tried_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.Backoff", lambda *_: Quick())
    async with place() as here:
        here.bodies.errors = [DatabaseUnavailable("gone")] * failures
        here.bodies.go.set()
        here.arrivals(here.text(LARGE))
        assert await here.messages(1) == [LARGE]


class Quick:
    attempts = 0

    def next(self) -> float:
        self.attempts += 1
        return 0.0


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), ConfigurationError("no right"), ZeroDivisionError()])
async def test_a_fetch_that_keeps_failing_is_a_lost_message_and_no_more(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.Backoff", lambda *_: Quick())
    async with place() as here:
        here.bodies.errors = [error] * (FETCHES if isinstance(error, DatabaseUnavailable) else 1)
        here.bodies.go.set()
        here.arrivals(here.text(LARGE))
        here.arrivals(here.text("next"))
        assert await here.messages(1) == ["next"]
    assert here.counters["lost"] == 1


async def test_forged_frames_do_not_push_good_ones_out_of_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.MOST_BEHIND", 2)
    async with place() as here:
        here.arrivals(here.text(LARGE))
        here.arrivals(here.text("1"))
        for _ in range(100):
            here.arrivals(here.text("2") + "x")
        here.bodies.go.set()
        assert await here.messages(2) == [LARGE, "1"]
    assert here.counters["rejected"] == len(here.inbox.rejections) == 100


async def test_echoes_are_passed_over_once_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.arrivals.MOST_ECHOES", 2)
    async with place() as here:
        texts = [here.text(each) for each in "123"]
        for text in texts:
            here.arrivals.ignore(text)
        for text in texts:
            here.arrivals(text)
        assert await here.messages(1) == ["1"]  # the oldest was forgotten
        here.arrivals.ignore(texts[1])
        here.arrivals.missed()
        here.arrivals(texts[1])
        assert await here.messages(2) == ["1", "2"]
