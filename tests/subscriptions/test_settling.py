"""Checkpoints on their way to the database: together, again after a failure, and the quiet ones a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore.errors import DatabaseUnavailable
from eventstore.service import LoopClock, Moments, Tasks
from eventstore.subscriptions import settling
from eventstore.subscriptions.progress import Progress
from eventstore.subscriptions.settling import Settling
from tests.conftest import QUICK


class Part:
    """What is settled of an emitter."""

    def __init__(self, number: int, upto: int = 0) -> None:
        self.claim, self.closed, self.progress = SimpleNamespace(key=(1, number)), False, Progress(0)
        self.handle = ("s", number)
        self.progress.scanned(upto)

    def settleable(self) -> int:
        return self.progress.settled

    def stored(self, position: int) -> None:
        self.progress.stored(position, LoopClock().time())


class Books:
    """A database that remembers what is written, and loses what it is told to."""

    def __init__(self) -> None:
        self.writes: list[dict[int, int]] = []
        self.failures, self.gone = 0, set[int]()
        self.acquired = asyncio.Event()
        self.acquired.set()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        await self.acquired.wait()
        yield

    async def settle(self, node: UUID, moved: list[tuple[Any, int]], on: Any) -> set[tuple[int, int]]:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("away")
        self.writes.append({claim.key[1]: position for claim, position in moved})
        return {claim.key for claim, _ in moved if claim.key[1] not in self.gone}


class Desk:
    """Settles *parts* in `books`; `lost` are those whose claim did not hold."""

    def __init__(self, parts: Iterable[Part], interval: float = 0.01) -> None:
        self.books, self.lost = Books(), list[Any]()
        self.parts = {one.handle: one for one in parts}
        settings = replace(QUICK, settle_interval=interval)
        where: Any = self.books
        self.settling = Settling(where, settings, self.parts, self.lost.extend, LoopClock(), Moments())  # type: ignore[arg-type]
        self.settling._ledger = where

    async def store(self) -> None:
        await self.settling.store(uuid4(), self.parts.values())  # type: ignore[arg-type]

    def moved(self, part: Part, hurry: bool = False) -> None:
        self.settling.moved(part, hurry)  # type: ignore[arg-type]

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks, node = Tasks(), uuid4()
        tasks.supervise("settlements", lambda ok: self.settling.run(lambda: node, ok))
        yield
        await tasks.stop()

    async def written(self) -> None:
        await asyncio.wait_for(self.settling.moments.next("settled"), 30)


async def test_those_that_moved_are_written_together_and_in_one_order() -> None:
    desk = Desk([Part(3, 7), Part(1, 5), Part(2)])
    await desk.store()
    assert [list(one.items()) for one in desk.books.writes] == [[(1, 5), (3, 7)]]
    await desk.store()
    assert len(desk.books.writes) == 1


async def test_what_moves_within_an_interval_is_one_write() -> None:
    parts = [Part(n, 1) for n in range(20)]
    desk = Desk(parts, interval=1000)
    async with desk.at_work():
        for part in parts:
            desk.moved(part)
        await asyncio.sleep(0)
        assert desk.books.writes == []
        written = asyncio.create_task(desk.written())
        desk.moved(parts[0], hurry=True)
        await written
    assert desk.books.writes == [dict.fromkeys(range(20), 1)]


async def test_a_failed_write_is_written_again_with_what_moved_since() -> None:
    part, other = Part(0, 5), Part(1, 2)
    desk = Desk([part, other])
    desk.books.failures = 2
    async with desk.at_work():
        desk.moved(part)
        while desk.books.failures == 2:
            await asyncio.sleep(0)
        part.progress.scanned(6)
        desk.moved(other)
        await desk.written()
    assert desk.books.writes == [{0: 6, 1: 2}]
    assert (part.progress.checkpoint, desk.lost) == (6, [])


async def test_claims_that_did_not_hold_are_told_and_not_taken_for_stored() -> None:
    kept, lost = Part(0, 5), Part(1, 5)
    desk = Desk([kept, lost])
    desk.books.gone = {1}
    await desk.store()
    assert desk.lost == [lost]
    assert (kept.progress.checkpoint, lost.progress.checkpoint) == (5, 0)


async def test_what_is_closed_is_not_written_and_nothing_without_a_lease() -> None:
    part = Part(0, 5)
    desk = Desk([part])
    await desk.settling.store(None, [part])  # type: ignore[list-item]
    part.closed = True
    await desk.store()
    assert desk.books.writes == []


async def test_positions_are_taken_once_the_connection_is_there() -> None:
    part, closed = Part(0, 5), Part(1, 5)
    desk = Desk([part, closed])
    desk.books.acquired.clear()
    storing = asyncio.create_task(desk.store())
    await asyncio.sleep(0)
    part.progress.scanned(9)
    closed.closed = True
    desk.books.acquired.set()
    await storing
    assert desk.books.writes == [{0: 9}]


async def test_quiet_ones_are_stored_a_few_at_a_time_the_longest_waiting_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "LOOKED_EVERY", 0.01)
    monkeypatch.setattr(settling, "LOOKED_AT_ONCE", 3)
    parts = [Part(n, 5) for n in range(7)]
    desk = Desk(parts)
    async with desk.at_work():
        for _ in range(3):
            await desk.written()
        parts[5].progress.scanned(6)
        await desk.written()
    assert [len(one) for one in desk.books.writes] == [3, 3, 1, 1]
    assert sorted(number for one in desk.books.writes[:3] for number in one) == list(range(7))
    assert desk.books.writes[3] == {5: 6}


async def test_without_the_bound_all_quiet_ones_are_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "LOOKED_EVERY", 0.01)
    desk = Desk([Part(n, 5) for n in range(7)])
    async with desk.at_work():
        await desk.written()
    assert [len(one) for one in desk.books.writes] == [7]
