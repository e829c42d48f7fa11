"""Envelopes that gather while others are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest

from eventstore.errors import ConfigurationError, DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope
from eventstore.pubsub.frames import Frames
from eventstore.pubsub.outbox import BURST, SPACING, Outbox, Refused


class Wire:
    """Something that sends when told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self._go = asyncio.Semaphore(0)
        self._begun = asyncio.Semaphore(0)

    async def flush(self, envelopes: list[Envelope]) -> None:
        self.batches.append([envelope.message for envelope in envelopes])
        self._begun.release()
        await self._go.acquire()
        if self.error is not None:
            raise self.error

    def let_go(self) -> None:
        self._go.release()

    async def begun(self) -> None:
        await asyncio.wait_for(self._begun.acquire(), 60)


def running(wire: Wire, **limits: int) -> AbstractAsyncContextManager[Outbox]:
    return running_at(wire.flush, **limits)


@asynccontextmanager
async def running_at(flush: Any, **options: Any) -> AsyncIterator[Outbox]:
    outbox = Outbox(flush, **options)
    task = asyncio.ensure_future(outbox.run(lambda: None))
    try:
        yield outbox
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def send(outbox: Outbox, *messages: str) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(outbox.send(Envelope("except", "a", "o", "t", each))) for each in messages]


async def test_what_comes_during_a_flush_leaves_with_the_next_one_in_order() -> None:
    wire = Wire()
    async with running(wire) as outbox:
        first = send(outbox, "1")
        await wire.begun()
        rest = send(outbox, "2", "3", "4")
        wire.let_go()
        await asyncio.gather(*first)
        await wire.begun()
        assert not any(each.done() for each in rest)
        wire.let_go()
        await asyncio.gather(*rest)
    assert wire.batches == [["1"], ["2", "3", "4"]]


async def test_a_flush_that_fails_fails_exactly_its_envelopes() -> None:
    wire = Wire()
    async with running(wire) as outbox:
        first = send(outbox, "1")
        await wire.begun()
        rest = send(outbox, "2", "3")
        wire.error = ConfigurationError("no right")
        wire.let_go()
        await wire.begun()
        wire.error = None
        wire.let_go()
        await asyncio.gather(*rest)
        with pytest.raises(DatabaseUnavailable, match="no right"):
            await first[0]


async def test_each_sender_gets_an_error_of_its_own() -> None:
    wire = Wire()
    wire.error = DatabaseUnavailable("gone")
    async with running(wire) as outbox:
        sending = send(outbox, "1", "2")
        wire.let_go()
        one, two = await asyncio.gather(*sending, return_exceptions=True)
    assert one is not two
    assert one.__cause__ is two.__cause__ is wire.error


class Picky:
    """Something that sends nothing of what holds a word it does not know."""

    def __init__(self, *unknown: str) -> None:
        self.unknown, self.calls = unknown, 0
        self.sent: list[str] = []

    async def flush(self, envelopes: list[Envelope]) -> None:
        self.calls += 1
        messages = [envelope.message for envelope in envelopes]
        for word in self.unknown:
            if word in messages:
                raise Refused from ConfigurationError(f"{word}?")
        self.sent += messages


async def test_what_is_refused_fails_alone_and_the_order_stays() -> None:
    picky = Picky("3", "70")
    async with running_at(picky.flush) as outbox:
        results = await asyncio.gather(*send(outbox, *map(str, range(100))), return_exceptions=True)
    assert picky.sent == [str(n) for n in range(100) if n not in (3, 70)]
    assert [(n, str(error)) for n, error in enumerate(results) if error] == [(3, "3?"), (70, "70?")]
    assert all(isinstance(results[n], DatabaseUnavailable) for n in (3, 70))
    assert picky.calls < 40  # few for two culprits, however many neighbours they have


async def test_nothing_is_sent_again_once_nobody_knows_whether_it_was_sent() -> None:
    batches = []

    async def flush(envelopes: list[Envelope]) -> None:
        batches.append([envelope.message for envelope in envelopes])
        raise Refused if len(batches) == 1 else DatabaseUnavailable("gone")

    async with running_at(flush) as outbox:
        results = await asyncio.gather(*send(outbox, "1", "2", "3", "4"), return_exceptions=True)
    assert batches == [["1", "2", "3", "4"], ["1", "2"]]
    assert [str(error) for error in results] == ["gone"] * 4


async def test_a_prepared_envelope_counts_by_what_is_sent_of_it() -> None:
    wire = Wire()
    prepared = Frames(b"key").prepare(Envelope("except", "a", "o", "t", "x" * 1_000))
    async with running(wire, most_bytes=2 * len(prepared.packed) + 2) as outbox:
        sending = [asyncio.ensure_future(outbox.send(prepared)) for _ in range(4)]
        await wire.begun()
        wire.let_go()
        await wire.begun()
        wire.let_go()
        await asyncio.gather(*sending)
    assert wire.batches == [[""] * 2, [""] * 2]


@pytest.mark.parametrize("limits", [{"most": 2}, {"most_bytes": 5}])
async def test_a_full_outbox_makes_senders_wait(limits: dict[str, int]) -> None:
    wire = Wire()
    async with running(wire, **limits) as outbox:
        sending = send(outbox, "1")
        await wire.begun()
        sending += send(outbox, "2", "3", "4", "5")
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(outbox) == 2
        for _ in range(3):
            wire.let_go()
        await asyncio.gather(*sending)
    assert wire.batches == [["1"], ["2", "3"], ["4", "5"]]


async def test_an_envelope_larger_than_the_outbox_is_sent_alone() -> None:
    wire = Wire()
    async with running(wire, most_bytes=5) as outbox:
        sending = send(outbox, "é" * 10)
        wire.let_go()
        await asyncio.gather(*sending)


async def test_a_cancelled_sender_makes_room_and_its_envelope_is_left_out() -> None:
    wire = Wire()
    async with running(wire, most=2) as outbox:
        sending = send(outbox, "1")
        await wire.begun()
        sending += send(outbox, "2", "3", "4")
        await asyncio.sleep(0)
        sending[1].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        wire.let_go()
        wire.let_go()
        await asyncio.gather(sending[0], *sending[2:])
    assert wire.batches == [["1"], ["3", "4"]]


async def test_a_sender_cancelled_while_it_waits_for_room_leaks_nothing() -> None:
    wire = Wire()
    async with running(wire, most=1) as outbox:
        sending = send(outbox, "1")
        await wire.begun()
        sending += send(outbox, "2", "3")
        await asyncio.sleep(0)
        sending[2].cancel()
        wire.let_go()
        wire.let_go()
        await asyncio.gather(*sending[:2])
        await asyncio.wait_for(outbox.drained(), 60)
    assert wire.batches == [["1"], ["2"]]


async def test_drained_waits_for_what_is_on_its_way() -> None:
    wire = Wire()
    async with running(wire) as outbox:
        await outbox.drained()
        sending = send(outbox, "1")
        await wire.begun()
        drained = asyncio.ensure_future(outbox.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        wire.let_go()
        await asyncio.wait_for(drained, 60)
        await asyncio.gather(*sending)


async def test_closing_fails_who_waits_who_waits_for_room_and_who_comes_later() -> None:
    wire = Wire()
    async with running(wire, most=1) as outbox:
        sending = send(outbox, "1")
        await wire.begun()
        sending += send(outbox, "2", "3")
        await asyncio.sleep(0)
        outbox.close()
        sending += send(outbox, "4")
        await asyncio.wait(sending[1:])
    await asyncio.wait(sending)
    assert [type(each.exception()) for each in sending] == [DatabaseUnavailable] * 4
    assert wire.batches == [["1"]]


async def delivered(outbox: Outbox, count: int) -> None:
    """Send *count* envelopes one after another, each from a task of its own."""
    for number in range(count):
        await asyncio.gather(*send(outbox, str(number)))


async def at_once(_: list[Envelope]) -> None:
    return None


async def test_many_senders_in_a_short_time_share_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    paused = []

    async def pause(_: asyncio.Event, seconds: float) -> bool:
        paused.append(seconds)
        return False

    monkeypatch.setattr("eventstore.pubsub.outbox.set_within", pause)
    async with running_at(at_once, clock=lambda: 100.0) as outbox:
        await delivered(outbox, BURST)
        assert paused == []
        await delivered(outbox, 2)
        assert paused == pytest.approx([SPACING, SPACING])


async def test_a_sender_that_waits_for_its_answers_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.outbox.set_within", None)  # to call it would fail
    async with running_at(at_once, clock=lambda: 100.0) as outbox:
        for number in range(3 * BURST):
            await outbox.send(Envelope("except", "a", "o", "t", str(number)))


async def test_flushes_that_lie_apart_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.pubsub.outbox.set_within", None)
    times = iter(range(1_000_000))
    async with running_at(at_once, clock=lambda: next(times) * SPACING) as outbox:
        await delivered(outbox, 3 * BURST)


@pytest.mark.parametrize("error", [None, DatabaseUnavailable("cut")])
async def test_sending_ends_also_if_a_flush_lost_the_cancellation(error: Exception | None) -> None:
    begun = asyncio.Event()

    async def deaf(_: list[Envelope]) -> None:
        with suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.Event().wait()
        if error is not None:
            raise error

    outbox = Outbox(deaf)
    task = asyncio.ensure_future(outbox.run(lambda: None))
    (sent,) = send(outbox, "a")
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=10)
    ended = task.cancelled()
    task.cancel()
    assert ended
    assert repr((await asyncio.gather(sent, return_exceptions=True))[0]) == repr(error)
