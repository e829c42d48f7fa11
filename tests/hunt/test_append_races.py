"""Writers that race: on versions, on conditions, for locks, and against their own cancellation.

`make hunt` runs them at full length; the seed is printed with every failure.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from eventstore import (
    ANY,
    All,
    AppendCondition,
    AppendConditionFailed,
    AppendResult,
    EventStore,
    EventType,
    NewEvent,
    Stream,
    StreamAppend,
    Tags,
    WrongExpectedVersion,
)
from eventstore.database import Database
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.racing import (
    SEED,
    connection,
    edit,
    left_behind,
    locked,
    some,
    stored_ids,
    stores,
    tagged,
    times,
    unguarded,
    unsound,
    waiting_for_locks,
)

pytestmark = pytest.mark.hunt


@pytest.mark.parametrize("count", [1, 4])
async def test_writers_with_exact_versions_and_with_any_share_streams(
    db: str, sql: asyncpg.Connection, count: int
) -> None:
    rng, won, lost = random.Random(SEED), Counter[str](), Counter[str]()

    async def write(store: EventStore, rng: random.Random) -> None:
        seen = dict.fromkeys((f"s{n}" for n in range(5)), 0)
        for _ in range(times(20, 500)):
            stream, events = rng.choice(list(seen)), some(rng.randrange(1, 4))
            expected = rng.choice([ANY, seen[stream], seen[stream]])
            try:
                result = await store.append(stream, events, expected=expected)
            except WrongExpectedVersion as error:
                lost[error.stream] += error.expected == expected
                seen[stream] = error.actual
                continue
            assert result.first_version == (expected + 1 if expected >= 0 else result.version - len(events) + 1)
            won[stream] += len(events)
            seen[stream] = result.version

    async with stores(db, count) as opened:
        seeds = [random.Random(rng.random()) for _ in range(20)]
        await asyncio.gather(*(write(opened[n % count], one) for n, one in enumerate(seeds)))
    stored = await sql.fetch("select stream, count(*) from eventstore.events group by stream")
    assert dict(won) == {row["stream"]: row["count"] for row in stored}, f"HUNT_SEED={SEED}"
    assert lost.total() > times(20, 500)
    assert await unsound(sql) == []
    note(stores=count, appended=won.total(), refused=lost.total())


@dataclass
class Win:
    """A conditional append that was acknowledged: nothing may lie between what it knew and where it stands."""

    tag: str
    after: int
    position: int


def twice_won(wins: list[Win]) -> list[tuple[Win, Win]]:
    """Pairs of winners of which the later one had not seen the earlier one."""
    by_tag: defaultdict[str, list[Win]] = defaultdict(list)
    for win in sorted(wins, key=lambda win: win.position):
        by_tag[win.tag].append(win)
    return [(one, two) for rows in by_tag.values() for one, two in pairwise(rows) if two.after < one.position]


async def race(opened: list[EventStore], rounds: int) -> tuple[list[Win], int]:
    """Let eight racers read and append on the condition that nothing has come; returns winners and losses."""
    wins: list[Win] = []
    losses = 0

    async def run(store: EventStore, rng: random.Random) -> None:
        nonlocal losses
        known = 0
        for n in range(rounds):
            tag, seen = f"t{rng.randrange(5)}", 0
            reading = store.read_all(Tags(tag), after=known)
            async for event in reading:
                seen = event.position
            known = reading.horizon
            assert seen <= known
            stream = None if n % 2 else f"s{rng.randrange(50)}"
            try:
                result = await store.append(stream, tagged(tag), condition=AppendCondition(Tags(tag), after=known))
                wins.append(Win(tag, known, result.position))
            except AppendConditionFailed as error:
                losses += error.position > known

    seeds = [random.Random(SEED + n) for n in range(8)]
    await asyncio.gather(*(run(opened[n % len(opened)], one) for n, one in enumerate(seeds)))
    return wins, losses


@pytest.mark.parametrize("count", [1, 4])
async def test_of_racers_on_one_condition_never_two_win(db: str, sql: asyncpg.Connection, count: int) -> None:
    async with stores(db, count) as opened:
        wins, losses = await race(opened, times(30, 1000))
    assert twice_won(wins) == [], f"HUNT_SEED={SEED}"
    assert losses > times(10, 400)
    assert losses + len(wins) == 8 * times(30, 1000)
    assert len(await stored_ids(sql)) == len(wins)
    assert await unsound(sql) == []


@pytest.mark.parametrize("planted", ["lock_stripes_v1", "check then append"])
async def test_the_same_race_catches_a_condition_without_stripes(
    db: str, sql: asyncpg.Connection, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bugs: nobody takes stripes; and a condition checked in a transaction of its own."""
    if planted == "lock_stripes_v1":
        await without_locks(sql, planted)
        # Without its neighbour's locks the batch would say busy more often than not: all go alone.
        monkeypatch.setattr("eventstore.log.coalescing.Coalescer._batched", nothing)
    else:
        monkeypatch.setattr(EventStore, "append", check_then_append)
    async with stores(db, 4) as opened:
        wins: list[Win] = []
        for _ in range(20):
            wins += (await race(opened, 30))[0]
            if twice_won(wins):
                return
    pytest.fail(f"two winners were not noticed, HUNT_SEED={SEED}")


async def nothing(*_: Any) -> None:
    return None


async def without_locks(sql: asyncpg.Connection, function: str) -> None:
    header = await sql.fetchval(
        "select format('create or replace function %s(%s) returns %s', oid::regproc, pg_get_function_arguments(oid),"
        " pg_get_function_result(oid)) from pg_proc where proname = $1",
        function,
    )
    await sql.execute(f"{header} language plpgsql as 'begin end'")


async def check_then_append(
    store: EventStore, stream: str | None, events: list[NewEvent], *, condition: AppendCondition
) -> AppendResult:
    async for event in store.read_all(condition.selector, after=condition.after, limit=1):
        raise AppendConditionFailed(event.position)
    return (await store.append_many([StreamAppend(stream, events)]))[0]


async def deadlocks(sql: asyncpg.Connection) -> int:
    return await sql.fetchval("select deadlocks from pg_stat_database where datname = current_database()")


async def append_in_every_form(db: str, rounds: int) -> Counter[str]:
    """What became of the appends of 40 writers, "ok" or an error."""
    rng, outcomes = random.Random(SEED), Counter[str]()
    lent: asyncio.Queue[asyncpg.Connection] = asyncio.Queue()

    async def one(store: EventStore, rng: random.Random) -> None:
        streams: list[str | None] = [*rng.sample([f"s{n}" for n in range(6)], rng.randrange(4)), None]
        rng.shuffle(streams)
        parts = [StreamAppend(stream, some_tagged(rng)) for stream in streams[: rng.randrange(1, 5)]]
        conditions = [Tags(f"t{rng.randrange(4)}"), EventType("A", "B"), Stream("s1"), Tags("t0") | Stream("s2"), All()]
        condition = AppendCondition(rng.choice(conditions), await store.head()) if rng.random() < 0.4 else None
        try:
            if rng.random() < 0.4:
                borrowed = await lent.get()
                try:
                    async with borrowed.transaction():
                        await store.append_many(parts, condition=condition, connection=borrowed)
                finally:
                    lent.put_nowait(borrowed)
            elif len(parts) == 1:
                await store.append(parts[0].stream, parts[0].events, condition=condition)
            else:
                await store.append_many(parts, condition=condition)
            outcomes["ok"] += 1
        except AppendConditionFailed:
            outcomes["ok"] += 1
        except Exception as error:  # noqa: BLE001 - counted by name, and none is allowed
            outcomes[repr(error)] += 1

    async def many(store: EventStore, rng: random.Random) -> None:
        for _ in range(rounds):
            await one(store, rng)

    async with stores(db, 4) as opened:
        borrowed = [await asyncpg.connect(db) for _ in range(12)]
        for each in borrowed:
            lent.put_nowait(each)
        seeds = [random.Random(rng.random()) for _ in range(40)]
        await asyncio.gather(*(many(opened[n % 4], seed) for n, seed in enumerate(seeds)))
        await asyncio.gather(*(each.close() for each in borrowed))
    return outcomes


async def test_single_append_transactions_of_every_form_never_deadlock(db: str, sql: asyncpg.Connection) -> None:
    outcomes = await append_in_every_form(db, times(6, 250))
    assert dict(outcomes) == {"ok": 40 * times(6, 250)}, f"HUNT_SEED={SEED}"
    assert (await deadlocks(sql), await unsound(sql)) == (0, [])
    note(appends=outcomes.total(), deadlocks=0)


async def test_appends_that_lock_their_streams_in_any_order_are_caught(db: str, sql: asyncpg.Connection) -> None:
    await edit(sql, "append_events_v1", 'order by s.name collate "C"', "order by s.no")
    outcomes = Counter[str]()
    async with asyncio.timeout(300):
        while outcomes.keys() <= {"ok"} or not await deadlocks(sql):  # which a session counts when it ends, or later
            outcomes += await append_in_every_form(db, 20)


def some_tagged(rng: random.Random) -> list[NewEvent]:
    tags = [f"t{n}" for n in range(4)]
    return [
        NewEvent(rng.choice("ABC"), tags=rng.sample(tags, rng.choice([0, 0, 1, 2]))) for _ in range(rng.randrange(1, 4))
    ]


async def test_transactions_that_write_elsewhere_first_never_invert_versions(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("create table elsewhere (n int primary key)")
    rng, kept, rolled_back = random.Random(SEED), 0, 0

    async def write(n: int, rng: random.Random) -> None:
        nonlocal kept, rolled_back
        async with connection(db) as lent:
            for i in range(times(12, 1000)):
                transaction = lent.transaction()
                await transaction.start()
                await lent.execute("insert into elsewhere values ($1)", n * 1_000_000 + i)
                await asyncio.sleep(rng.choice([0, 0, 0.002]))
                names = sorted(rng.sample([f"s{m}" for m in range(4)], rng.choice([1, 1, 2])))
                await store.append_many([StreamAppend(name, some(2)) for name in names], connection=lent)
                if rng.random() < 0.1:
                    await transaction.rollback()
                    rolled_back += 1
                else:
                    await transaction.commit()
                    kept += 2 * len(names)
                if rng.random() < 0.3:
                    await store.append(f"s{rng.randrange(4)}", some())
                    kept += 1

    await asyncio.gather(*(write(n, random.Random(rng.random())) for n in range(10)))
    assert await unsound(sql) == [], f"HUNT_SEED={SEED}"
    assert len(await stored_ids(sql)) == kept
    note(transactions=10 * times(12, 1000), rolled_back=rolled_back, events=kept, inversions=0)


async def test_a_planted_inversion_gap_or_lost_tag_is_caught(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("s", [*tagged("x"), *tagged("y")])
    assert await unsound(sql) == []
    for planted in (
        "update eventstore.events set position = position + 3 * (3 - 2 * version)",
        "update eventstore.events set version = version + 1 where version = 2",
        "update eventstore.streams set version = 3",
        "delete from eventstore.event_tags where tag = 'x'",
    ):
        with suppress(LookupError):
            async with unguarded(sql):
                await sql.execute(planted)
                assert await unsound(sql), planted
                raise LookupError


@dataclass
class Cancelled:
    """A call that was cancelled, and how to repeat it."""

    again: Callable[[], Awaitable[Any]]
    ids: list[Any] = field(default_factory=list)


class Chaos:
    """Calls of every form; every other one is cancelled after a random number of turns of the event loop."""

    def __init__(self, store: EventStore, db: str) -> None:
        self.store, self.db, self.rng = store, db, random.Random(SEED)
        self.cancelled: list[Cancelled] = []
        self.count = 0
        self.finished: list[NewEvent] = []

    def call(self) -> tuple[Coroutine[Any, Any, Any], Cancelled | None, list[NewEvent]]:
        """Return a random call, how to repeat it, and its events."""
        store, rng, events = self.store, self.rng, some(self.rng.randrange(1, 3))
        stream = rng.choice([None, *(f"s{n}" for n in range(6))])
        form = rng.choice(["one", "one", "slow", "condition", "several", "lent", "read", "wait"])
        parts = [StreamAppend(stream, events)]
        again = Cancelled(lambda: store.append_many(parts), [event.id for event in events])
        if form == "one":
            return store.append(stream, events), again, events
        if form == "slow":
            parts = [StreamAppend("slow", events)]
            return store.append("slow", events), again, events
        if form == "condition":
            condition = AppendCondition(Tags(f"t{rng.randrange(3)}"))
            return store.append(stream, events, condition=condition), again, events
        if form == "several":
            parts = [StreamAppend(stream, events[:1]), StreamAppend(f"other{rng.randrange(3)}", some())]
            again.ids = [event.id for part in parts for event in part.events]
            return store.append_many(parts), again, [event for part in parts for event in part.events]
        if form == "lent":
            return self.lent(stream, events), again, events
        return (self.read() if form == "read" else store.wait_for(1 << 60 if rng.random() < 0.5 else 1)), None, []

    async def lent(self, stream: str | None, events: list[NewEvent]) -> None:
        """Append in a transaction, which stays usable after a cancellation."""
        async with connection(self.db) as own:
            transaction = own.transaction()
            await transaction.start()
            try:
                await self.store.append(stream, events, connection=own)
            finally:
                assert await own.fetchval("select 1") == 1
                await transaction.commit()

    async def read(self) -> None:
        async for _ in self.store.read_all(limit=50):
            pass

    async def round(self) -> None:
        """Start eight calls and cancel some of them; those that are not must finish."""
        tasks = []
        for n in range(8):
            work, again, events = self.call()
            cancel = n % 2 == 0 or again is None
            tasks.append((asyncio.create_task(work), again, events, self.rng.randrange(60) if cancel else None))
        for turn in range(60):
            for task, _, _, when in tasks:
                if when == turn:
                    task.cancel()
            await asyncio.sleep(0)
        self.waiting = tasks

    async def settle(self) -> None:
        """Wait for all of a round's calls."""
        for task, again, events, when in self.waiting:
            await asyncio.wait([task], timeout=120)
            assert task.done(), "a caller was lost"
            if task.cancelled():
                assert when is not None
                self.count += 1
                if again is not None:
                    self.cancelled.append(again)
            else:
                task.result()
                self.finished += events


async def test_cancelling_calls_anywhere_leaves_nothing_behind_and_loses_nobody(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("slow", some())
    chaos = Chaos(store, db)
    while chaos.count < times(100, 5000):
        async with locked(db, "slow"):
            await chaos.round()
        await chaos.settle()
    assert await left_behind(store, sql) == [], f"HUNT_SEED={SEED}"
    stored = set(await stored_ids(sql))
    assert all(event.id in stored for event in chaos.finished)
    for one in chaos.cancelled:
        happened = {identity in stored for identity in one.ids}
        assert len(happened) == 1
        results = await one.again()
        assert {result.idempotent for result in results} == happened
    assert len(await stored_ids(sql)) == len(set(await stored_ids(sql)))
    assert await unsound(sql) == []
    note(cancelled=chaos.count, finished=len(chaos.finished), left_behind=0)


async def test_a_connection_that_a_cancelled_call_keeps_is_caught(
    store: EventStore, db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep(*_: object) -> None: ...

    async with connection(db) as own:
        await own.execute("begin")
        await store.append("s", some(), connection=own)
        assert len(await left_behind(store, sql, within=0.1)) > 0
        await own.execute("rollback")
    with monkeypatch.context() as planted:
        planted.setattr(Database, "_release", keep)
        reading = asyncio.create_task(anext(aiter(store.read_all())))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert await left_behind(store, sql, within=1) == ["a connection of the pool never comes back"]


async def test_cancelling_waiting_appends_gives_their_connections_back(db: str, sql: asyncpg.Connection) -> None:
    settings = replace(QUICK, connections=2)
    async with stores(db, 1, settings) as (store,):
        await store.append("slow", some())
        for _ in range(times(10, 100)):
            async with locked(db, "slow"):
                tasks = [asyncio.create_task(store.append("slow", some())) for _ in range(3)]
                tasks += [asyncio.create_task(store.append_many([StreamAppend("slow", some())])) for _ in range(3)]
                for _ in range(random.Random(SEED).randrange(200)):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(one) for one in outcomes} == {asyncio.CancelledError}
        assert await left_behind(store, sql) == []


@pytest.mark.parametrize("start", [2**31 - 10, 2**53 - 10])
async def test_everything_holds_where_positions_outgrow_31_and_53_bits(
    store: EventStore, sql: asyncpg.Connection, start: int
) -> None:
    await sql.execute("select setval('eventstore.event_positions', $1)", start)
    first = await store.append("s", tagged("x"))
    results = await asyncio.gather(*(store.append(f"s{n}", tagged("y")) for n in range(12)))
    several = await store.append_many([StreamAppend("a", tagged("x")), StreamAppend(None, tagged("x"))])
    positions = [first.position, *sorted(result.position for result in results), *(one.position for one in several)]
    # A batch that gave up after 10 ms leaves a gap.
    assert positions[0] == start + 1
    assert positions == sorted(set(positions))
    with pytest.raises(AppendConditionFailed) as caught:
        await store.append(None, tagged("x"), condition=AppendCondition(Tags("x"), after=first.position))
    assert caught.value.position == several[0].position
    reading = store.read_all(Tags("x"), after=first.position)
    assert [event.position async for event in reading] == [one.position for one in several]
    assert reading.horizon == await store.head() == positions[-1] >= start + 15
    last = await store.append(None, tagged("x"), condition=AppendCondition(Tags("x"), reading.horizon))
    assert last.position > positions[-1]
    between = store.read_all(after=positions[8], before=positions[11])
    assert [event.position async for event in between] == positions[9:11]
    assert await unsound(sql) == []


@pytest.mark.parametrize("start", [2**31 - 10, 2**53 - 10])
async def test_an_append_in_flight_holds_the_horizon_across_such_a_boundary(
    store: EventStore, db: str, sql: asyncpg.Connection, start: int
) -> None:
    await sql.execute("select setval('eventstore.event_positions', $1)", start)
    async with connection(db) as slow:
        await slow.execute("begin")
        await store.append("slow", tagged("x"), connection=slow)
        results = await asyncio.gather(*(store.append(f"s{n}", some()) for n in range(20)))
        assert await store.head() == start
        condition = AppendCondition(Tags("x"), after=await store.head())
        waiting = asyncio.create_task(store.append(None, tagged("x"), condition=condition))
        await waiting_for_locks(sql)
        await slow.execute("commit")
        with pytest.raises(AppendConditionFailed):
            await waiting
    assert await store.head() == max(result.position for result in results) >= start + 21


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_waiting_for_ones_own_write_ends_when_the_append_that_holds_the_horizon_does(
    store: EventStore, db: str, sql: asyncpg.Connection, end: str
) -> None:
    async with connection(db) as slow:
        await slow.execute("begin")
        await store.append("slow", some(), connection=slow)
        mine = await store.append("mine", some())
        with pytest.raises(TimeoutError):
            await store.wait_for(mine.position, timeout=0.05)
        waiting = [asyncio.create_task(store.wait_for(mine.position, timeout=60)) for _ in range(5)]
        assert await store.head() == 0
        assert not any(task.done() for task in waiting)
        await slow.execute(end)
        await asyncio.gather(*waiting)
    seen = [event.stream async for event in store.read_all()]
    assert seen == (["slow", "mine"] if end == "commit" else ["mine"])


async def test_every_writer_reads_its_own_writes_while_others_hold_the_horizon_back(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    rng = random.Random(SEED)

    async def hold() -> None:
        async with connection(db) as slow:
            for n in range(times(10, 200)):
                transaction = slow.transaction()
                await transaction.start()
                await store.append(f"slow{n % 3}", some(), connection=slow)
                await asyncio.sleep(rng.random() * 0.01)
                await (transaction.rollback() if n % 3 == 0 else transaction.commit())

    async def write(n: int) -> None:
        for _ in range(times(10, 200)):
            (event,) = some()
            result = await store.append(f"s{n}", [event])
            await store.wait_for(result.position, timeout=30)
            found = [one.id async for one in store.read_all(after=result.position - 1, limit=1)]
            assert found == [event.id]

    await asyncio.gather(*(hold() for _ in range(3)), *(write(n) for n in range(6)))
    assert await unsound(sql) == []
