"""Catching up together: each member gets what is its own, wherever the others are, and joins the feed without a gap."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import All, EventStore, EventType, NewEvent, Stream, feed
from eventstore.feed import Handle
from eventstore.selectors import Selector
from eventstore.service import Clock, LoopClock
from eventstore.subscriptions import cohort, inlet
from eventstore.subscriptions.cohort import GAP, LEAST, Cohort, cohorts
from eventstore.subscriptions.inlet import Inlet
from eventstore.subscriptions.model import Claim
from tests.subscriptions.test_run import fill


class Member:
    """An emitter that only collects."""

    def __init__(self, store: EventStore, number: int, after: int, selector: Selector, pool_size: int = 1) -> None:
        self.after, self.selector, self.closed, self.woken, self.cuts = after, selector, False, 0, 0
        name, partition = f"s{number}", number % pool_size
        self.claim = Claim(number, name, partition, after, 1, pool_size, selector, 10**9, UUID(int=1))
        self.handle: Handle = (name, partition)
        self.taken: list[int] = []
        self.inlet = Inlet(self.claim, store._feed, store._database, _small(store), self)

    def wake(self) -> None:
        self.woken += 1

    def cut(self) -> None:
        self.inlet.reread(self.taken[-1] if self.taken else self.after)

    def was_cut(self) -> None:
        self.cuts += 1

    def take(self) -> list[int]:
        """Take all that is there; returns everything taken so far."""
        self.taken.extend(event.position for event in self.inlet.queue)
        self.inlet.queue.clear()
        return self.taken

    async def expected(self, store: EventStore) -> list[int]:
        share = self.claim.share
        found = store.read_all(self.selector, after=self.after)
        return [event.position async for event in found if share is None or event in share]


class Ring:
    """Who runs the members."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = {one.handle: one for one in members}

    async def publish(self, events: dict[Handle, list[Any]], source: Any) -> None:
        for handle, some in events.items():
            self.members[handle].inlet.offer(source, some)

    def scanned(self) -> None: ...

    def cut(self, handles: list[Handle]) -> None: ...

    def unroutable(self, handle: Handle, error: Exception) -> None:
        raise AssertionError from error


def _small(store: EventStore) -> Any:
    return replace(store.settings, page_size=7)


@asynccontextmanager
async def together(store: EventStore, members: list[Member]) -> AsyncIterator[Cohort]:
    """A cohort of *members*, which leave the feed in the end."""
    ring: Any = Ring(members)
    store._feed.deliver_to(ring)
    yield Cohort(members, store._feed, store._database, _small(store), ring, LoopClock())  # type: ignore[arg-type]
    for member in members:
        member.inlet.close()


async def fed(store: EventStore) -> None:
    """Wait until the feed has handed over all there is."""
    head = await store.head()
    async with asyncio.timeout(30):
        while store._feed.position is not None and store._feed.scanned < head:
            await store._feed.moments.next("read")


def at(*positions: int) -> list[Any]:
    return [SimpleNamespace(inlet=SimpleNamespace(read=position)) for position in positions]


def test_those_that_are_near_each_other_go_together_and_a_few_alone() -> None:
    near, far = at(*range(LEAST)), at(*(GAP * 3 + n * GAP for n in range(LEAST)))
    few = at(*range(GAP * 30, GAP * 30 + LEAST - 1))
    groups, alone = cohorts([*few, *reversed(near), *far])
    assert groups == [near, far]
    assert alone == few


async def test_members_at_different_positions_get_only_what_is_theirs(store: EventStore) -> None:
    await fill(store, 40)
    members = [Member(store, n, after, All()) for n, after in enumerate((0, 13, 39, 40))]
    async with together(store, members) as reading:
        await reading.run()
        assert [one.take() for one in members] == [list(range(one.after + 1, 41)) for one in members]
        assert all(one.inlet.live and one.woken for one in members)


async def test_what_comes_during_the_reading_and_after_it_comes_once(store: EventStore) -> None:
    await fill(store, 40)
    some: list[Selector] = [All(), EventType("B"), Stream("s3")]
    members = [Member(store, n, n, selector) for n, selector in enumerate(some)]
    async with together(store, members) as reading:
        await asyncio.gather(reading.run(), *(fill(store, 5) for _ in range(10)))
        await fill(store, 5)
        await fed(store)
        assert [one.take() for one in members] == [await one.expected(store) for one in members]


async def test_one_that_is_full_leaves_and_reads_on_for_itself(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inlet, "MOST", 20)
    await fill(store, 60)
    members = [Member(store, 0, 0, All()), Member(store, 1, 0, Stream("s1"))]
    full, other = members
    async with together(store, members) as reading:
        await reading.run()
        assert (full.cuts, full.inlet.source, other.inlet.live) == (1, None, True)
        assert full.woken
        while not full.inlet.live:
            full.take()
            await full.inlet.fetch()
        await fill(store, 10)
        await fed(store)
        assert [one.take() for one in members] == [await one.expected(store) for one in members]


async def test_nobody_is_waited_for_longer_than_the_patience(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort, "FULL", 3)
    monkeypatch.setattr(cohort, "PATIENCE", 0.001)
    await fill(store, 40)
    members = [Member(store, n, 0, All()) for n in range(2)]
    async with together(store, members) as reading:
        await asyncio.wait_for(reading.run(), 30)
        assert [one.take() for one in members] == [list(range(1, 41))] * 2


async def test_one_that_is_closed_meanwhile_gets_nothing_more_and_does_not_join(store: EventStore) -> None:
    await fill(store, 40)
    members = [Member(store, n, 0, All()) for n in range(2)]
    async with together(store, members) as reading:
        members[0].closed = True
        members[0].inlet.close()
        await reading.run()
        assert (members[0].take(), members[0].inlet.live) == ([], False)
        assert members[1].take() == list(range(1, 41))


async def test_a_cohort_that_cannot_read_leaves_its_members_to_themselves(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreadable(*_: Any, **__: Any) -> None:
        raise ValueError("unreadable")

    await fill(store, 10)
    members = [Member(store, n, 0, All()) for n in range(2)]
    async with together(store, members) as reading:
        monkeypatch.setattr(cohort, "read_page", unreadable)
        with pytest.raises(ValueError, match="unreadable"):
            await reading.run()
        assert all(one.inlet.source is None and one.woken for one in members)
        await members[0].inlet.fetch()
        assert members[0].take() == list(range(1, 8))


class Counting(Ring):
    """Notes how many turns something else had before each handing-over."""

    def __init__(self, members: Iterable[Member]) -> None:
        super().__init__(members)
        self.turns, self.before = 0, list[int]()

    async def publish(self, events: dict[Handle, list[Any]], source: Any) -> None:
        self.before.append(self.turns)
        await super().publish(events, source)

    async def something_else(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1


@pytest.mark.parametrize(("passes", "shared"), [(1.0, False), (0.0, True)], ids=["slowly", "at once"])
@pytest.mark.parametrize("who", [feed, cohort], ids=["feed", "cohort"])
async def test_handing_over_to_many_lets_others_have_a_turn_when_it_takes_long(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, who: ModuleType, passes: float, shared: bool
) -> None:
    monkeypatch.setattr(who, "PUBLISHED_AT_ONCE", 1)
    passing = SimpleNamespace(time=itertools.count(0.0, passes).__next__, sleep=asyncio.sleep)
    ring, clock = Counting([Member(store, 0, 0, All())]), cast(Clock, passing)
    catching_up = Cohort(list(ring.members.values()), store._feed, store._database, store.settings, ring, clock)  # type: ignore[arg-type]
    store._feed.deliver_to(ring)
    store._feed._clock = clock
    others = asyncio.create_task(ring.something_else())
    if who is feed:
        await catching_up.run()
        ring.before.clear()
    await store.append_known([f"s{n}" for n in range(10)], [NewEvent("A") for _ in range(10)])
    await (fed(store) if who is feed else catching_up.run())
    others.cancel()
    assert len(ring.before) >= 10
    assert (len(set(ring.before[:10])) == 1) is shared


LEAVES: st.SearchStrategy[Any] = st.sampled_from(
    [All(), EventType("A"), EventType("B"), Stream("s1"), Stream("s2"), Stream("none")]
)
SELECTORS = LEAVES | st.builds(lambda a, b: a & b, LEAVES, LEAVES) | st.builds(lambda a, b: a | b, LEAVES, LEAVES)
MEMBERS = st.lists(st.tuples(st.integers(0, 60), SELECTORS, st.integers(1, 3)), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=MEMBERS, before=st.integers(1, 30), meanwhile=st.integers(0, 10))
async def test_every_member_gets_what_reading_the_log_gives_it(
    store: EventStore, drawn: list[tuple[int, Selector, int]], before: int, meanwhile: int
) -> None:
    await fill(store, before)
    head = await store.head()
    members = [
        Member(store, n, max(0, head - behind), selector, size) for n, (behind, selector, size) in enumerate(drawn)
    ]
    async with together(store, members) as reading:
        await asyncio.gather(reading.run(), *(fill(store, 1) for _ in range(meanwhile)))
        await fill(store, 3)
        await fed(store)
        assert [one.take() for one in members] == [await one.expected(store) for one in members]
