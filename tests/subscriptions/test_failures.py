"""What follows when a handler fails: again, parked, skipped or halted; and what others notice of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent
from eventstore.subscriptions import pool
from eventstore.subscriptions.emitter import Emitter
from eventstore.subscriptions.policy import Then
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, log_of, settled
from tests.subscriptions.test_run import running


def policy(attempts: int | None = 2, then: Then = "park_key", timeout: float | None = None) -> FailurePolicy:
    return FailurePolicy(attempts=attempts, delay=0.01, delay_max=0.02, timeout=timeout, then=then)


async def append(store: EventStore, streams: Iterable[str | None]) -> None:
    """Append one event to each, in this order."""
    await store.append_known(list(streams), [NewEvent(type="A") for _ in streams])


def failing(journal: Journal, fails: Callable[[Event], bool]) -> Any:
    async def handler(event: Event, delivery: Delivery) -> None:
        if fails(event):
            raise ValueError(f"no {event.stream}")
        await journal.note(event, delivery)

    return handler


async def test_an_event_is_delivered_as_often_as_the_policy_says(store: EventStore) -> None:
    attempts: list[int] = []

    @store.handler("s", All(), policy=policy(3))
    async def handler(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise ValueError

    await append(store, ["a"])
    async with running(store):
        await settled(store, "s", 1)
    assert attempts == [1, 2, 3]
    assert [(one.attempts, one.error) for one in await store.subscriptions.parked("s")] == [(3, "ValueError")]


async def test_attempts_without_end_go_on_until_the_handler_succeeds(store: EventStore) -> None:
    journal, left = Journal(), 12

    def fails(_: Event) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    store.handler("s", All(), policy=policy(None))(failing(journal, fails))
    await append(store, ["a"])
    async with running(store):
        await journal.has(1)
    assert journal.attempts == [13]


async def test_pauses_grow_by_the_factor_and_are_half_chance(store: EventStore) -> None:
    times: list[float] = []
    store._pools.rng = lambda: 1.0

    @store.handler("s", All(), policy=FailurePolicy(attempts=3, delay=0.1, factor=3))
    async def handler(event: Event, delivery: Delivery) -> None:
        times.append(asyncio.get_running_loop().time())
        raise ValueError

    await append(store, ["a"])
    async with running(store):
        await settled(store, "s", 1)
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.3


async def test_an_error_can_ask_for_its_own_pause(store: EventStore) -> None:
    journal, failed = Journal(), False

    class Busy(Exception):
        retry_after = 0.01

    @store.handler("s", All(), policy=FailurePolicy(delay=1000.0, delay_max=1000.0))
    async def handler(event: Event, delivery: Delivery) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise Busy
        await journal.note(event, delivery)

    await append(store, ["a"])
    async with running(store):
        await journal.has(1)
    assert journal.attempts == [2]


async def test_park_key_holds_back_the_later_events_of_the_key_and_no_others(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), policy=policy())(failing(journal, lambda event: event.position == 1))
    await append(store, ["a", "b", "a", "b", "a"])
    async with running(store):
        await settled(store, "s", 5)
    assert journal.positions == [2, 4]
    found = await store.subscriptions.parked("s")
    assert [(one.position, one.attempts, one.blocking) for one in found] == [(1, 2, True), (3, 0, True), (5, 0, True)]


async def test_park_event_lets_the_later_ones_of_the_key_overtake(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), policy=policy(then="park_event"))(failing(journal, lambda event: event.position == 1))
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
    assert journal.positions == [2]
    assert [(one.position, one.blocking) for one in await store.subscriptions.parked("s")] == [(1, False)]


async def test_what_was_skipped_is_recorded(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), policy=policy(then="skip"))(failing(journal, lambda event: event.position == 1))
    await append(store, ["a", "a"])
    async with running(store):
        await settled(store, "s", 2)
    assert journal.positions == [2]
    assert await store.subscriptions.parked("s") == []
    (skipped,) = await store.subscriptions.parked("s", state="skipped")
    assert (skipped.position, skipped.message) == (1, "no a")


async def test_halt_stops_the_partition_with_what_an_operator_has_to_know(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), policy=policy(then="halt"))(failing(journal, lambda event: event.position == 2))
    await append(store, ["a", "b", "c"])
    async with running(store):
        await asyncio.wait_for(store._pools.moments.next("halted"), 30)
        (partition,) = (await store.subscriptions.get("s")).partitions
    assert journal.positions == [1, 3] or journal.positions == [1]
    assert (partition.state, partition.owner) == ("halted", None)
    assert partition.halted is not None
    assert (partition.halted["error"], partition.halted["message"]) == ("ValueError", "no b")
    assert "in handler" in partition.halted["traceback"]
    assert [partition.halted[name] for name in ("position", "type", "stream")] == [2, "A", "b"]


async def test_a_halt_settles_what_was_handled_before(store: EventStore) -> None:
    journal, bad = Journal(), True
    store.handler("s", All(), policy=policy(1, then="halt"))(failing(journal, lambda e: bad and e.position == 3))
    await append(store, ["a", "b", "c", "d"])
    async with running(store):
        await asyncio.wait_for(store._pools.moments.next("halted"), 30)
        bad = False
        await store.subscriptions.resume("s")
        await journal.has(4)
        await settled(store, "s", 4)
    assert journal.positions == [1, 2, 3, 4]


async def test_a_halted_partition_leaves_the_others_running(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), pool_size=8, policy=policy(1, then="halt"))(failing(journal, lambda e: e.stream == "s0"))
    streams = [f"s{n}" for n in range(20)]
    bucket = {}
    await append(store, streams)
    async for event in store.read_all():
        bucket[event.stream] = event.bucket % 8
    free = [stream for stream in streams if bucket[stream] != bucket["s0"]]
    async with running(store):
        await journal.has(len(free))
        assert set(free) <= {event.stream for event in journal.events}


async def test_a_hanging_handler_counts_as_failed_after_the_timeout(store: EventStore) -> None:
    journal = Journal()

    @store.handler("s", All(), policy=policy(2, timeout=0.05))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.position == 1:
            await asyncio.Event().wait()
        await journal.note(event, delivery)

    await append(store, ["a", "b"])
    async with running(store):
        await settled(store, "s", 2)
    (parked,) = await store.subscriptions.parked("s")
    assert (parked.error, parked.message) == ("TimeoutError", "no answer within 0.05 s")
    assert journal.positions == [2]


async def test_a_handler_that_returns_something_has_failed(store: EventStore) -> None:
    @store.handler("s", All(), policy=policy())
    async def handler(event: Event, delivery: Delivery) -> str:
        return "done"

    await append(store, ["a"])
    async with running(store):
        await settled(store, "s", 1)
    (parked,) = await store.subscriptions.parked("s")
    assert parked.error == "TypeError"
    assert "returned str" in str(parked.message)


async def test_later_events_of_a_key_wait_for_its_retry_while_others_flow(store: EventStore) -> None:
    journal, failing_now = Journal(), True

    @store.handler("s", All(), policy=policy(None))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.stream == "a" and failing_now:
            raise ValueError
        await journal.note(event, delivery)

    await append(store, ["a", "b", "a", "c", "a", "b"])
    async with running(store):
        assert await journal.has(3) == [2, 4, 6]
        failing_now = False
        await journal.has(6)
    assert journal.problems(await log_of(store)) == []
    assert journal.positions == [2, 4, 6, 1, 3, 5]


async def test_an_event_without_a_stream_holds_back_nothing(store: EventStore) -> None:
    journal = Journal()
    store.handler("s", All(), policy=policy())(failing(journal, lambda event: event.position == 1))
    for _ in range(3):
        await store.append(None, [NewEvent(type="A")])
    async with running(store):
        await settled(store, "s", 3)
    assert journal.positions == [2, 3]


async def test_a_key_parked_at_a_restart_is_parked_after_it(db: str) -> None:
    journal = Journal()
    for round in range(2):
        async with EventStore(db, settings=QUICK) as store:
            store.handler("s", All(), policy=policy(1))(failing(journal, lambda event: event.position == 1))
            await append(store, ["a", "b"])
            async with running(store):
                await settled(store, "s", 2 + 2 * round)
            found = [one.position for one in await store.subscriptions.parked("s")]
    assert journal.positions == [2, 4]
    assert found == [1, 3]


async def test_a_parked_event_is_written_down_while_others_are_tried_again(store: EventStore) -> None:
    store._pools.settings = replace(store.settings, window=4)

    @store.handler("s", All(), policy=policy(None))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.stream == "bad":
            raise ValueError
        if event.stream == "parked":
            delivery.park()

    parked = store._pools.moments.next("parked")
    await append(store, ["bad", "parked", "c", "d", "e", "f"])
    async with running(store):
        assert (await asyncio.wait_for(parked, 30)).position == 2


async def test_what_holds_up_a_full_partition_is_named_once(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    store._pools.settings, ill = replace(store.settings, window=4), True
    store.handler("s", All(), policy=policy(None))(failing(Journal(), lambda event: ill and event.position == 1))
    await append(store, "abcdef")
    async with running(store):
        for _ in range(3):  # once it is named, it fails a few times more
            async with asyncio.timeout(30):
                await store._pools.moments.next("failed")
                while not any("waits for the event" in one for one in caplog.messages):
                    await store._pools.moments.next("failed")
        ill = False
        await settled(store, "s", 6)
    assert [one for one in caplog.messages if "waits for the event" in one] == [
        "s, partition 0 waits for the event at 1, which is neither settled nor given up: "
        "3 later ones are handled and cannot be settled before it"
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 10])
async def test_a_full_partition_that_only_waits_for_its_checkpoint_is_no_matter(
    store: EventStore, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    store._pools.settings = replace(store.settings, window=4)

    @store.handler("s", All(), batch_size=batch_size)
    async def handler(given: Any, delivery: Delivery) -> None: ...

    await append(store, "abcdef" * 5)
    async with running(store):
        await settled(store, "s", 30)
    assert not [one for one in caplog.messages if "waits for the event" in one]


async def test_what_queues_behind_a_replay_that_its_emitter_does_not_know_of_is_replayed(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    journal, ill = Journal(), True
    store.handler("s", All(), policy=policy(1))(failing(journal, lambda _: ill))
    await append(store, "a")
    async with running(store):
        await settled(store, "s", 1)
        await sql.execute("update eventstore.parked set replay = true")  # and nobody is told
        ill = False
        await append(store, "a")
        await settled(store, "s", 2)
        store._pools.of("s")[0].parked_changed()
        assert await journal.has(2) == [1, 2]


class NoRest:
    """A clock that does not wait between crashes."""

    def __init__(self, clock: Any) -> None:
        self.time, self.wait = clock.time, clock.wait

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_a_crash_of_the_emitter_itself_is_survived(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, planted = Journal(), 3
    settle = Emitter._settle

    def crash(emitter: Emitter, event: Event) -> None:
        nonlocal planted
        if event.position == 5 and planted:
            planted -= 1
            raise ZeroDivisionError("planted")
        settle(emitter, event)

    monkeypatch.setattr(Emitter, "_settle", crash)
    store._pools.clock = NoRest(store._pools.clock)
    store.handler("s", All())(journal.note)
    await append(store, [f"s{n % 3}" for n in range(10)])
    async with running(store):
        await settled(store, "s", 10)
    assert journal.problems(await log_of(store), repeats=True) == []
    assert set(journal.epochs) == {1, 2, 3, 4}


async def test_more_than_ten_crashes_within_a_minute_halt_the_partition(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0

    def crash(emitter: Emitter, event: Event) -> None:
        nonlocal crashes
        crashes += 1
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Emitter, "_settle", crash)
    store._pools.clock = NoRest(store._pools.clock)
    store.handler("s", All())(Journal().note)
    await append(store, ["a"])
    async with running(store):
        await asyncio.wait_for(store._pools.moments.next("halted"), 30)
        (partition,) = (await store.subscriptions.get("s")).partitions
    assert crashes == pool.CRASHES + 1
    assert partition.halted is not None
    assert partition.halted["error"] == "ZeroDivisionError"


async def test_what_is_stored_and_cannot_be_read_halts_and_is_not_skipped(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventstore.subscriptions import inlet

    async def unreadable(*_: Any, **__: Any) -> None:
        raise ValueError("unreadable")

    monkeypatch.setattr(inlet, "read_page", unreadable)
    store.handler("s", All())(Journal().note)
    await append(store, ["a"])
    async with running(store):
        await asyncio.wait_for(store._pools.moments.next("halted"), 30)
        assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 0


async def test_a_checkpoint_before_the_acknowledgement_is_caught(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, settle = Journal(), Emitter.settleable

    def planted(emitter: Emitter) -> int:
        settle(emitter)
        return emitter.progress._read  # as if everything read were handled

    monkeypatch.setattr(Emitter, "settleable", planted)

    @store.handler("s", All(), policy=policy(None))
    async def handler(event: Event, delivery: Delivery) -> None:
        if event.stream == "a" and delivery.epoch == 1:
            raise ValueError
        await journal.note(event, delivery)

    await append(store, ["a", "b"])
    async with running(store):
        await journal.has(1)
        crashed = store._pools.of("s")[0]
        with pytest.raises(Exception, match="is stored, but only 0 is settled"):
            crashed.stored(crashed.settleable())
        position = planted(crashed)
        assert await store._ledger.settle(store._pools.lease.node, [(crashed.claim, position)])  # type: ignore[arg-type]
        store._pools._claim_anew(crashed)
        claimed = store._pools.moments.next("claimed")
        await asyncio.wait_for(claimed, 30)
        await append(store, ["c"])
        await journal.has(2)
    assert journal.problems(await log_of(store)) == ["1 was lost"]
