"""Concurrent appends share round trips, and nothing else: no delay, no failure, no fate."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventstore import (
    ANY,
    All,
    AppendCondition,
    AppendResult,
    DatabaseUnavailable,
    DuplicateEventId,
    EventStore,
    NewEvent,
    OutcomeUnknown,
    StreamAppend,
    StreamDeleted,
    Tags,
    WrongExpectedVersion,
)
from eventstore.log import coalescing
from tests.conftest import QUICK
from tests.hunt.proxy import proxied
from tests.hunt.racing import (
    FULL,
    batch,
    connection,
    forget,
    left_behind,
    locked,
    some,
    stored_ids,
    tagged,
    until,
    waiting_for_locks,
)

ONE = [NewEvent("T")]


@pytest.fixture
def calls(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """Every call of an SQL function by the store: its name and arguments."""
    seen: list[tuple[str, list[Any]]] = []
    rows = store._database.rows

    async def spied(function: str, *args: Any, **named: Any) -> list[asyncpg.Record]:
        seen.append((function, list(args)))
        return await rows(function, *args, **named)

    monkeypatch.setattr(store._database, "rows", spied)
    return seen


async def rows_of(store: EventStore) -> list[Any]:
    return [event.id async for event in store.read_all()]


async def test_concurrent_appends_share_round_trips(store: EventStore, calls: list[tuple[str, list[Any]]]) -> None:
    for _ in range(10):
        calls.clear()
        after, names = await store.head(), [f"{uuid4()}" for _ in range(200)]
        results = await asyncio.gather(*(store.append(name, some()) for name in names))
        if "append_events_v1" not in {function for function, _ in calls}:
            break  # or another batch kept one waiting for 10 ms, which was then run one by one
    assert {function for function, _ in calls} <= {"head", "append_batch_v1", "append_one_v1"}
    assert len(calls) < 40
    assert sorted(result.position - after for result in results) == list(range(1, 201))
    assert {(result.version, result.idempotent) for result in results} == {(1, False)}


async def test_each_append_of_a_batch_gets_the_result_of_its_own_events(store: EventStore) -> None:
    sent = [(f"s{n}" if n % 3 else None, some(1 + n % 4)) for n in range(90)]
    results = await asyncio.gather(*(store.append(*one) for one in sent))
    stored = {event.position: event async for event in store.read_all()}
    for (stream, events), result in zip(sent, results, strict=True):
        span = [stored[position] for position in range(result.first_position, result.position + 1)]
        assert [event.id for event in span] == [event.id for event in events]
        assert {event.stream for event in span} == {stream} == {result.stream}
        assert (span[0].version, span[-1].version) == (result.first_version, result.version)


async def test_a_locked_stream_never_delays_its_neighbours(store: EventStore, db: str, sql: asyncpg.Connection) -> None:
    await store.append("slow", some())
    async with locked(db, "slow") as holder:
        waiting = asyncio.create_task(store.append("slow", some()))
        await waiting_for_locks(sql)
        async with asyncio.timeout(60):
            await asyncio.gather(*(store.append(f"s{n}", some()) for n in range(20)), store.append(None, some()))
        assert not waiting.done()
        await holder.execute("commit")
        assert (await waiting).version == 2


async def test_appends_waiting_for_as_many_streams_as_there_are_connections_leave_some_for_the_rest(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    slow = [f"slow{n}" for n in range(store.settings.connections)]
    await asyncio.gather(*(store.append(one, some()) for one in slow))
    async with locked(db, *slow) as holder:
        waiting = [asyncio.create_task(store.append(one, some())) for one in slow]
        await waiting_for_locks(sql, 2)
        async with asyncio.timeout(60):
            await asyncio.gather(*(store.append(f"s{n}", some()) for n in range(20)))
        await holder.execute("commit")
        assert {result.version for result in await asyncio.gather(*waiting)} == {2}


async def test_appends_to_several_streams_that_wait_leave_connections_too(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("slow", some())
    async with locked(db, "slow") as holder:
        parts = [[StreamAppend("slow", some()), StreamAppend(f"o{n}", some())] for n in range(10)]
        waiting = [asyncio.create_task(store.append_many(one)) for one in parts]
        await waiting_for_locks(sql, 2)
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*(store.append(f"s{n}", some()) for n in range(20)))
        finally:
            await holder.execute("commit")
            await asyncio.gather(*waiting)


async def test_conditions_that_wait_leave_connections_too(store: EventStore, db: str, sql: asyncpg.Connection) -> None:
    # Names in the stripe of a tag wait with it.
    apart = (
        "select name from unnest($1::text[]) name where eventstore.stripe_v1(3, name) <> eventstore.stripe_v1(1, 'x')"
    )
    names = [row["name"] for row in await sql.fetch(apart, [f"s{n}" for n in range(40)])]
    async with connection(db) as holder:
        await holder.execute("begin")
        await store.append(None, tagged("x"), connection=holder)
        condition = AppendCondition(Tags("x"))
        waiting = [asyncio.create_task(store.append(None, some(), condition=condition)) for _ in range(10)]
        await waiting_for_locks(sql, 2)
        async with asyncio.timeout(60):
            await asyncio.gather(*(store.append(name, some()) for name in names))
        await holder.execute("rollback")
        await asyncio.gather(*waiting)


async def test_a_loser_never_fails_its_neighbours(store: EventStore, sql: asyncpg.Connection) -> None:
    await store.append("closed", some())
    await sql.execute("update eventstore.streams set state = 'tombstoned'")
    stored = (await store.append("known", some()), NewEvent("T"))[1]
    await store.append(None, [stored])
    appends = [store.append(f"s{n}", some(), expected=7 if n % 5 == 0 else ANY) for n in range(60)]
    appends += [store.append("closed", some()), store.append(None, [replace(stored, type="Other")])]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds[-2:] == [StreamDeleted, DuplicateEventId]
    assert kinds[:60] == [WrongExpectedVersion if n % 5 == 0 else AppendResult for n in range(60)]
    assert len(await stored_ids(sql)) == 48 + 3


async def test_two_appends_to_one_stream_never_share_a_batch_and_keep_their_order(
    store: EventStore, calls: list[tuple[str, list[Any]]]
) -> None:
    tasks = [asyncio.create_task(store.append(f"s{n % 3}", some())) for n in range(240)]
    results = await asyncio.gather(*tasks)
    for stream in range(3):
        assert [result.version for result in results[stream::3]] == list(range(1, 81))
    for function, arguments in calls:
        if function == "append_batch_v1":
            assert len(set(arguments[0])) == len(arguments[0])


async def test_appends_to_one_stream_keep_their_order_where_one_of_them_has_to_wait(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("s", some())
    async with locked(db, "s") as holder:
        tasks = [asyncio.create_task(store.append("s", some())) for _ in range(20)]
        await waiting_for_locks(sql)
        await holder.execute("commit")
        assert [result.version for result in await asyncio.gather(*tasks)] == list(range(2, 22))


async def test_an_append_that_is_cancelled_while_it_waits_for_its_turn_passes_the_turn_on(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("s", some())
    async with locked(db, "s") as holder:
        tasks = [asyncio.create_task(store.append("s", some())) for _ in range(9)]
        await waiting_for_locks(sql)
        for task in tasks[1::2]:
            task.cancel()
        await holder.execute("commit")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes[1::2]] == [asyncio.CancelledError] * 4
    assert [one.version for one in outcomes[::2]] == [2, 3, 4, 5, 6]  # type: ignore[union-attr]
    assert await left_behind(store, sql) == []


async def test_a_batch_that_fails_whole_is_run_again_one_by_one(
    store: EventStore, sql: asyncpg.Connection, calls: list[tuple[str, list[Any]]]
) -> None:
    twins = [some() for _ in range(10)]
    appends = [store.append(None, one) for one in [*twins, *twins]]
    others = [store.append(f"s{n}", some()) for n in range(20)]
    results = await asyncio.gather(*appends, *others)
    assert "append_events_v1" in {function for function, _ in calls}
    for one, other in zip(results[:10], results[10:20], strict=True):
        assert replace(one, idempotent=True) == replace(other, idempotent=True)
    assert len(await stored_ids(sql)) == len(set(await stored_ids(sql))) == 30


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_stream_that_another_transaction_is_just_creating_is_waited_for_alone(
    store: EventStore, db: str, sql: asyncpg.Connection, end: str
) -> None:
    async with connection(db) as creator:
        await creator.execute("begin")
        await store.append("new", some(), connection=creator)
        tasks = [asyncio.create_task(store.append("new", some()))]
        tasks += [asyncio.create_task(store.append(f"s{n}", some())) for n in range(20)]
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks[1:])
        await waiting_for_locks(sql)
        assert not tasks[0].done()
        await creator.execute(end)
        assert (await tasks[0]).version == (2 if end == "commit" else 1)


async def test_a_batch_answers_busy_for_what_is_locked_and_appends_the_rest(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("slow", some())
    async with locked(db, "slow"), sql.transaction():
        parts = [StreamAppend("slow", some()), StreamAppend("free", some(2)), StreamAppend(None, some())]
        rows = await batch(sql, *parts, StreamAppend("missing", some(), 3))
    assert [row["outcome"] for row in rows] == ["busy", "appended", "appended", "refused"]
    assert [row["first_position"] for row in rows][1:3] == [rows[1]["position"] - 1, rows[1]["position"] + 1]
    assert [event.stream async for event in store.read_all(after=1)] == ["free", "free", None]


@pytest.mark.parametrize("selector", [Tags("x"), All()])
async def test_a_batch_answers_busy_while_a_condition_holds_what_it_needs(
    store: EventStore, db: str, sql: asyncpg.Connection, selector: Any
) -> None:
    async with connection(db) as holder:
        await holder.execute("begin")
        await store.append("other", some(), condition=AppendCondition(selector), connection=holder)
        async with sql.transaction():
            parts = [StreamAppend("a", tagged("x")), StreamAppend("b", tagged("y"))]
            rows = await batch(sql, *parts)
    expected = ["busy", "busy"] if isinstance(selector, All) else ["busy", "appended"]
    assert [row["outcome"] for row in rows] == expected


async def test_more_appends_than_may_wait_are_all_answered(store: EventStore, sql: asyncpg.Connection) -> None:
    count = coalescing.MAX_WAITING + 300
    tasks = [asyncio.create_task(store.append(None, some())) for _ in range(count)]
    await asyncio.sleep(0)
    assert len(store._coalescer._queue) < coalescing.MAX_WAITING
    for task in (*tasks[5000:5100], *tasks[-100:]):
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    results = [one for one in outcomes if isinstance(one, AppendResult)]
    assert len(results) == len(await stored_ids(sql)) == count - 200
    assert await left_behind(store, sql) == []


async def test_large_events_fill_a_batch_by_their_size(store: EventStore, calls: list[tuple[str, list[Any]]]) -> None:
    large = [store.append(None, [NewEvent("T", "x" * 900_000)]) for _ in range(24)]
    results = await asyncio.gather(*large, *(store.append(None, some(400)) for _ in range(8)))
    batches = [arguments for function, arguments in calls if function == "append_batch_v1"]
    assert coalescing.MAX_CHARACTERS // 2 < max(sum(map(len, one[5])) for one in batches) <= coalescing.MAX_CHARACTERS
    assert 400 < max(len(one[3]) for one in batches) <= 1000
    assert len({result.position for result in results}) == 32


async def test_every_append_gets_an_answer_when_the_store_closes(db: str, sql: asyncpg.Connection) -> None:
    sent = {f"s{n}": some() for n in range(400)}
    async with EventStore(db, settings=QUICK) as store:
        tasks = {stream: asyncio.create_task(store.append(stream, events)) for stream, events in sent.items()}
        await until(lambda: sum(task.done() for task in tasks.values()) > 50)
    async with asyncio.timeout(60):
        await asyncio.wait(tasks.values())
    stored = set(await stored_ids(sql))
    for stream, task in tasks.items():
        if not isinstance(task.exception(), OutcomeUnknown):
            assert (task.exception() is None) == (sent[stream][0].id in stored), task


@asynccontextmanager
async def locked_store(db: str) -> AsyncIterator[EventStore]:
    """A store that is closed while another transaction holds its stream ``slow``."""
    async with EventStore(db, settings=QUICK) as store:
        await store.append("slow", some())
        async with locked(db, "slow"):
            try:
                yield store
            finally:
                await store.__aexit__()


@pytest.mark.hunt
@pytest.mark.skipif(not FULL, reason="closing takes five seconds")
async def test_closing_while_an_append_waits_for_a_lock_leaves_its_outcome_unknown(
    db: str, sql: asyncpg.Connection
) -> None:
    async with locked_store(db) as store:
        waiting = asyncio.create_task(store.append("slow", some()))
        await waiting_for_locks(sql)
    with pytest.raises(OutcomeUnknown):
        await waiting


async def test_closing_while_an_append_with_a_lost_reply_is_repeated_leaves_its_outcome_unknown(db: str) -> None:
    async with proxied(db) as proxy:
        async with EventStore(proxy.dsn, settings=QUICK) as store:
            await store.append("s", some())
            proxy.lose_replies = 1
            waiting = asyncio.create_task(store.append("s", some()))
            await until(lambda: proxy.lost)
            proxy.go_away()
        with pytest.raises(OutcomeUnknown):
            await waiting


async def test_a_time_out_before_the_append_was_sent_means_that_nothing_happened(
    db: str, sql: asyncpg.Connection
) -> None:
    async with EventStore(db, settings=replace(QUICK, connections=1)) as store:
        async with store._database.acquire():
            outcomes = await asyncio.gather(
                *(store.append("s", some(), timeout=0.05) for _ in range(3)),
                *(store.append(None, some(), timeout=0.05) for _ in range(3)),
                store.append_many([StreamAppend("s", some())], timeout=0.05),
                return_exceptions=True,
            )
        assert [type(one) for one in outcomes] == [TimeoutError] * 7
        await store.append("after", some())
        assert len(await stored_ids(sql)) == 1


async def out_of_time(append: Coroutine[Any, Any, AppendResult], moment: Awaitable[None]) -> AppendResult:
    """Await *append*, whose ``timeout`` of an hour is over at *moment*, by the event loop's clock."""
    loop = asyncio.get_running_loop()
    task, time = asyncio.create_task(append), loop.time
    await moment
    loop.time = lambda: time() + 3600  # type: ignore[method-assign]
    return await task


async def test_a_time_out_after_the_append_was_sent_leaves_the_outcome_unknown(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("s", some())
    mine = some()
    async with locked(db, "s"):
        with pytest.raises(OutcomeUnknown):
            await out_of_time(store.append("s", mine, timeout=3600), waiting_for_locks(sql))
    assert (await store.append("s", mine)).version == 2
    assert (await store.append("s", mine)).idempotent


async def test_an_append_that_was_taken_into_a_batch_is_not_sent_after_its_time_out(
    db: str, sql: asyncpg.Connection
) -> None:
    """It says that nothing happened: the batch it is in still waits for a connection."""
    async with EventStore(db, settings=replace(QUICK, connections=1)) as store:
        async with store._database.acquire():
            first = asyncio.create_task(store.append("a", some()))
            second = asyncio.create_task(store.append("b", some(), timeout=0.1))
            third = asyncio.create_task(store.append("c", some()))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(TimeoutError):
                await second
        await third
        assert [event.stream async for event in store.read_all()] == ["c"]


async def test_a_time_out_of_what_a_batch_left_out_means_that_nothing_happened(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    """Its batch said so, and alone it was never sent: other appends that wait have taken the places."""
    slow = [f"slow{n}" for n in range(store.settings.connections // 2)]
    await asyncio.gather(*(store.append(one, some()) for one in slow))
    await store.append("last", some())
    async with locked(db, "last", *slow) as holder:
        waiting = [asyncio.create_task(store.append(one, some())) for one in slow]
        await waiting_for_locks(sql, len(slow))
        others = store._coalescer._waiting
        with pytest.raises(TimeoutError) as caught:
            await out_of_time(store.append("last", some(), timeout=3600), until(lambda: others._waiters))
        await holder.execute("commit")
        await asyncio.gather(*waiting)
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_failure_that_nobody_foresaw_answers_every_append_of_its_batch(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("planted")

    monkeypatch.setattr(store._database, "rows", broken)
    tasks = [asyncio.create_task(store.append(None, some())) for _ in range(20)]
    done, waiting = await asyncio.wait(tasks, timeout=60)
    assert not waiting
    assert {type(task.exception()) for task in done} <= {RuntimeError, OutcomeUnknown}
    monkeypatch.undo()
    async with asyncio.timeout(60):
        await asyncio.gather(*(store.append(None, some()) for _ in range(20)))


async def test_changing_the_list_handed_in_changes_the_append_no_more(
    store: EventStore, db: str, sql: asyncpg.Connection
) -> None:
    await store.append("s", some())
    async with locked(db, "s") as holder:
        events = some()
        task = asyncio.create_task(store.append("s", events))
        await waiting_for_locks(sql)
        queued = asyncio.create_task(store.append("s", events))
        given = [events[0].id]
        await asyncio.sleep(0)
        events[:] = some(3)
        await holder.execute("commit")
        assert ((await task).version, (await queued).version) == (2, 2)
    assert (await rows_of(store))[1:] == given


async def test_a_cancelled_append_leaves_no_noise_behind(store: EventStore, db: str) -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    for steps in range(60):
        task = asyncio.create_task(store.append("s", some()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    del task
    gc.collect()
    await store.append("s", some())
    assert noise == []


def test_a_store_may_be_opened_in_one_event_loop_after_another(db: str) -> None:
    store = EventStore(db, settings=replace(QUICK, connections=2))

    async def contended() -> None:
        async with store:
            await asyncio.gather(*(store.append(f"s{n}", some(), expected=0) for n in range(20)))
            losers = (store.append(f"s{n}", some(), expected=0) for n in range(20))
            outcomes = await asyncio.gather(*losers, return_exceptions=True)
            assert {type(one) for one in outcomes} == {WrongExpectedVersion}, outcomes

    async def clean() -> None:
        async with connection(db) as sql:
            await forget(sql)

    for _ in range(2):
        asyncio.run(contended())
        asyncio.run(clean())


async def test_a_store_that_was_closed_with_a_batch_about_to_start_opens_with_all_its_lanes(db: str) -> None:
    store = EventStore(db, settings=replace(QUICK, connections=1))
    async with store:
        async with store._database.acquire():
            tasks = [asyncio.create_task(store.append(None, some())) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.sleep(0)
            stopping = asyncio.create_task(store._coalescer.stop())
            await asyncio.wait(tasks)
            await stopping
        assert isinstance(tasks[2].exception(), DatabaseUnavailable)
    async with store, asyncio.timeout(60):
        await asyncio.gather(*(store.append(None, some()) for _ in range(3)))


async def test_appends_whose_database_is_gone_wait_for_it_side_by_side(db: str) -> None:
    """However many replies were lost, the outcome is known to be unknown after append_timeout."""
    async with proxied(db) as proxy:
        settings = replace(QUICK, append_timeout=0.5)
        async with EventStore(proxy.dsn, settings=settings) as store:
            await store.append("s", some())
            proxy.lose_replies, proxy.of = 1, b".append_batch_v1"
            tasks = [asyncio.create_task(store.append(None, some())) for _ in range(250)]
            await until(lambda: proxy.lost)
            proxy.go_away()
            async with asyncio.timeout(20):  # one after the other they would wait for half a minute
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(one) for one in outcomes]
    assert kinds.count(OutcomeUnknown) > 60
    assert set(kinds) <= {OutcomeUnknown, DatabaseUnavailable, AppendResult}


async def test_connections_that_were_lost_while_idle_are_replaced_unnoticed(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name = 'eventstore' and pid = any ($1)"
    )
    for form in range(3):
        await asyncio.gather(*(store.append(f"s{n}", some()) for n in range(20)))
        lost = asyncio.Queue[int]()
        store._database.on_lost(lambda: lost.put_nowait(1))  # noqa: B023
        pids = [one.get_server_pid() for one in store._database._spare]
        assert await sql.fetchval(kill, pids) == len(pids) > 0
        for _ in pids:
            await lost.get()
        if form == 0:
            await store.append_many([StreamAppend("a", some()), StreamAppend("b", some())])
        elif form == 1:
            await store.append("a", some())
        else:
            assert await store.head() > 0
