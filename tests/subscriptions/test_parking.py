"""Parked events come again in their order: replayed by key, one or all, also under a new owner; or are discarded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent, StreamMetadata
from eventstore.errors import ConfigurationError, DatabaseUnavailable
from eventstore.subscriptions.policy import KeyGate, Then
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import running


def policy(then: Then = "park_key", attempts: int | None = 1) -> FailurePolicy:
    return FailurePolicy(attempts=attempts, delay=0.01, then=then)


class Ward(Journal):
    """A handler that fails for the streams, and the positions, that are ill."""

    def __init__(self, *ill: str | int) -> None:
        super().__init__()
        self.ill: set[str | int | None] = set(ill)

    async def handle(self, event: Event, delivery: Delivery) -> None:
        if event.stream in self.ill or event.position in self.ill:
            raise ValueError("ill")
        await self.note(event, delivery)

    async def cured(
        self, store: EventStore, count: int, *, key: str | None = None, position: int | None = None
    ) -> None:
        """Cure everything, replay, and wait until *count* events came altogether."""
        self.ill.clear()
        await store.subscriptions.replay_parked("s", key=key, position=position)
        await self.has(count)


async def append(store: EventStore, streams: Iterable[str | None]) -> None:
    await store.append_known(list(streams), [NewEvent(type="A") for _ in streams])


async def parked(store: EventStore) -> list[tuple[int, int]]:
    """Position and attempts of what is parked."""
    return [(one.position, one.attempts) for one in await store.subscriptions.parked("s")]


async def until(store: EventStore, count: int) -> None:
    """Wait until so many events are left parked."""
    async with asyncio.timeout(30):
        while len(await store.subscriptions.parked("s")) != count:
            await asyncio.sleep(0.01)


async def until_nothing_is_parked(store: EventStore) -> None:
    await until(store, 0)


async def test_a_key_is_replayed_in_order(store: EventStore) -> None:
    ward = Ward("a", "b")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "b", "a", "c", "b", "a"])
    async with running(store):
        await settled(store, "s", 6)
        await ward.cured(store, 4, key="a")
        await until(store, 2)
        assert ward.positions == [4, 1, 3, 6]
        assert await parked(store) == [(2, 1), (5, 0)]


async def test_all_keys_are_replayed_in_order(store: EventStore) -> None:
    ward = Ward("a", "b")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "b"] * 120)
    async with running(store):
        await settled(store, "s", 240)
        await ward.cured(store, 240)
        await until_nothing_is_parked(store)
    assert ward.positions == list(range(1, 241))


async def test_one_event_is_replayed_and_the_rest_of_its_key_stays(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a", "a"])
    async with running(store):
        await settled(store, "s", 3)
        with pytest.raises(ConfigurationError, match="1"):
            await store.subscriptions.replay_parked("s", position=2)
        await ward.cured(store, 1, position=1)
        await until(store, 2)
    assert ward.positions == [1]


@pytest.mark.parametrize(("cured", "calls"), [(True, [1, 2, 1]), (False, [1, 2])], ids=["cured", "ill still"])
async def test_a_replay_whose_end_could_not_be_stored_is_stored_later_and_not_delivered_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, cured: bool, calls: list[int]
) -> None:
    ward, called, ledger, away = Ward("a"), list[int](), store._pools.ledger, iter([True])
    settle = ledger.settle_one

    async def settle_one(*args: Any, **named: Any) -> bool:
        if next(away, False):
            raise DatabaseUnavailable("away")
        return await settle(*args, **named)

    @store.handler("s", All(), policy=policy())
    async def handle(event: Event, delivery: Delivery) -> None:
        called.append(delivery.attempt)
        await ward.handle(event, delivery)

    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        monkeypatch.setattr(ledger, "settle_one", settle_one)
        ward.ill -= {"a"} if cured else set()
        ended = store._pools.moments.next("replayed" if cured else "parked")
        await store.subscriptions.replay_parked("s")
        await asyncio.wait_for(ended, 30)
        if cured:
            await until_nothing_is_parked(store)
        else:
            assert await parked(store) == [(1, 2), (2, 0)]
    assert called == calls


async def test_new_events_stay_behind_those_of_their_key_that_are_not_replayed(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a", "a"])
    async with running(store):
        await settled(store, "s", 3)
        await ward.cured(store, 1, position=1)
        await append(store, ["b"])
        await ward.has(2)
        await append(store, ["a", "b"])
        await settled(store, "s", 6)
        assert [(one.position, one.replay) for one in await store.subscriptions.parked("s")] == [
            (2, False), (3, False), (5, False),
        ]  # fmt: skip
        await store.subscriptions.replay_parked("s", key="a")
        await ward.has(6)
    assert ward.positions == [1, 4, 6, 2, 3, 5]


async def test_events_that_come_during_a_replay_join_the_end_of_the_queue(store: EventStore) -> None:
    ward, entered, release = Ward("a"), asyncio.Event(), asyncio.Event()

    @store.handler("s", All(), policy=policy())
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.position == 1 and not ward.ill:
            entered.set()
            await release.wait()
        await ward.handle(event, delivery)

    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        ward.ill.clear()
        await store.subscriptions.replay_parked("s")
        await asyncio.wait_for(entered.wait(), 30)
        await append(store, ["a", "b", "a"])
        release.set()
        await ward.has(5)
        await until_nothing_is_parked(store)
        await append(store, ["a"])
        await ward.has(6)
    assert [event.position for event in ward.events if event.stream == "a"] == [1, 2, 3, 5, 6]


async def test_what_fails_again_keeps_its_place_and_ends_the_replay_of_its_key(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a", "a"])
    async with running(store):
        await settled(store, "s", 3)
        again = store._pools.moments.next("parked")
        ward.ill = {2}
        await store.subscriptions.replay_parked("s")
        assert (await asyncio.wait_for(again, 30)).position == 2
        assert await parked(store) == [(2, 1), (3, 0)]
        assert not any(one.replay for one in await store.subscriptions.parked("s"))
        await ward.cured(store, 3)
    assert ward.positions == [1, 2, 3]


async def test_after_a_replay_the_key_is_open(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        await ward.cured(store, 2)
        await until_nothing_is_parked(store)
        await append(store, ["a"])
        await ward.has(3)
        assert ward.deliveries[-1].attempt == 1
        assert await parked(store) == []


async def test_the_attempt_of_a_replay_is_one_more_than_failed(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy(attempts=3))(ward.handle)
    await append(store, ["a"])
    async with running(store):
        await settled(store, "s", 1)
        await ward.cured(store, 1)
    assert ward.attempts == [4]


async def test_discarding_reopens_the_key(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        ward.ill.clear()
        assert await store.subscriptions.discard_parked("s", key="a") == 2
        (emitter,) = store._pools.of("s")
        async with asyncio.timeout(30):
            while emitter._gate is not None:
                await asyncio.sleep(0.01)
        await append(store, ["a"])
        await ward.has(1)
        assert ward.positions == [3]
        assert len(await store.subscriptions.parked("s", state="discarded")) == 2


async def test_discarding_the_first_lets_the_next_be_replayed(store: EventStore) -> None:
    ward = Ward(1)
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        await store.subscriptions.discard_parked("s", position=1)
        await store.subscriptions.replay_parked("s", position=2)
        await ward.has(1)
    assert ward.positions == [2]


async def test_a_replay_goes_on_under_a_new_owner(db: str, sql: asyncpg.Connection) -> None:
    ward, entered = Ward("a"), asyncio.Event()

    def registered(store: EventStore) -> None:
        @store.handler("s", All(), policy=policy())
        async def handler(event: Event, delivery: Delivery) -> None:
            if event.position == 2 and not ward.ill and store.node_name == "one":
                entered.set()
                await asyncio.Event().wait()
            await ward.handle(event, delivery)

    async with EventStore(db, settings=QUICK, node_name="one") as one:
        registered(one)
        await append(one, ["a", "a", "a"])
        async with running(one):
            await settled(one, "s", 3)
            ward.ill.clear()
            await one.subscriptions.replay_parked("s")
            await asyncio.wait_for(entered.wait(), 30)
    async with EventStore(db, settings=QUICK, node_name="two") as two:
        registered(two)
        async with running(two):
            await ward.has(3)
            await append(two, ["a"])
            await ward.has(4)
            await until_nothing_is_parked(two)
    assert ward.positions == [1, 2, 3, 4]
    assert ward.epochs == [1, 2, 2, 2]


async def test_what_scavenging_emptied_is_not_delivered_and_holds_back_nothing(store: EventStore) -> None:
    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
        await store.set_stream_metadata("a", StreamMetadata(max_count=1))
        assert (await store.scavenge()).events == 1
        await ward.cured(store, 1)
        await until_nothing_is_parked(store)
    assert ward.positions == [2]


async def test_an_event_parked_beyond_the_checkpoint_is_not_delivered_by_the_next_owner(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    journal = Journal()

    @store.handler("s", All(), policy=FailurePolicy(attempts=None, delay=0.01, delay_max=0.02, then="park_event"))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.position == 1 and delivery.epoch == 1:
            raise ValueError
        if event.position == 2:
            return delivery.park()
        await journal.note(event, delivery)

    parked = store._pools.moments.next("parked")
    await append(store, ["b", "a", "a"])
    async with running(store):
        assert (await asyncio.wait_for(parked, 30)).position == 2
        await journal.has(1)
        await taken_away(store, sql)
        await settled(store, "s", 3)
    assert journal.positions == [3, 1, 3]


async def taken_away(store: EventStore, sql: asyncpg.Connection) -> None:
    """Let the node lose its partitions, as if another had had them meanwhile."""
    lost = store._pools.moments.next("lost")
    await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")
    store._pools.lease.news.set()
    await asyncio.wait_for(lost, 30)


async def test_what_was_replayed_beyond_the_checkpoint_is_not_delivered_a_second_time(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    journal, ill = Journal(), True

    @store.handler("s", All(), policy=policy(attempts=None))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.stream == "slow" and ill:
            raise ValueError
        if event.stream == "a" and ill:
            return delivery.park()
        await journal.note(event, delivery)

    parked, stream = store._pools.moments.next("parked"), ["slow", "a", "b"]
    await append(store, stream)
    async with running(store):
        await asyncio.wait_for(parked, 30)
        await taken_away(store, sql)
        ill = False
        await store.subscriptions.replay_parked("s")
        await settled(store, "s", 3)
        await until_nothing_is_parked(store)
    assert journal.positions.count(2) == 1


async def test_a_key_whose_event_is_being_retried_is_replayed_after_it(store: EventStore) -> None:
    journal, ill = Journal(), {1, 2}

    @store.handler("s", All(), policy=FailurePolicy(attempts=None, delay=0.01, delay_max=0.02, then="park_event"))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.position in ill:
            if event.position == 1:
                return delivery.park()
            raise ValueError
        await journal.note(event, delivery)

    parked = store._pools.moments.next("parked")
    await append(store, ["a", "a", "b", "a"])
    async with running(store):
        await asyncio.wait_for(parked, 30)
        await journal.has(1)
        ill.discard(1)
        await store.subscriptions.replay_parked("s")
        async with asyncio.timeout(30):
            while not store._pools.of("s")[0]._gate:
                await asyncio.sleep(0.01)
        ill.clear()
        await journal.has(4)
    assert sorted(journal.positions) == [1, 2, 3, 4]
    assert journal.positions.index(2) < journal.positions.index(4)


async def test_a_gate_that_opens_too_early_is_caught(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(gate: KeyGate, key: str) -> str:
        return "open"

    ward = Ward("a")
    store.handler("s", All(), policy=policy())(ward.handle)
    await append(store, ["a", "b"])
    async with running(store):
        await settled(store, "s", 2)
        monkeypatch.setattr(KeyGate, "state", planted)
        ward.ill.clear()
        await append(store, ["a", "c"])
        await ward.has(3)
        monkeypatch.undo()
        await ward.cured(store, 4)
    assert ward.problems([]) == ["1 came after 3"]
