"""Appending the same events again is harmless: after a lost reply, by a retry, or at the same moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventstore import (
    ANY,
    NO_STREAM,
    AppendCondition,
    AppendResult,
    DatabaseUnavailable,
    DuplicateEventId,
    EventStore,
    NewEvent,
    OutcomeUnknown,
    StreamAppend,
    Tags,
)
from eventstore.errors import TransactionConflict
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.proxy import Proxy, proxied
from tests.hunt.racing import (
    SEED,
    edit,
    forget,
    left_behind,
    locked,
    stored_ids,
    stores,
    tagged,
    times,
    unsound,
    until,
    waiting_for_locks,
)

Again = Callable[[EventStore], Awaitable[Any]]


def some(*types: str) -> list[NewEvent]:
    return [NewEvent(kind, {"type": kind}, tags=["t"]) for kind in types or ("A", "B")]


def one_stream(events: Sequence[NewEvent], expected: int = ANY) -> Again:
    return lambda store: store.append("s", events, expected=expected)


def no_stream(events: Sequence[NewEvent]) -> Again:
    return lambda store: store.append(None, events)


def on_condition(events: Sequence[NewEvent], stream: str | None = None) -> Again:
    return lambda store: store.append(stream, events, condition=AppendCondition(Tags("t")))


def several(events: Sequence[NewEvent]) -> Again:
    parts = [StreamAppend("b", events[:1]), StreamAppend("a", events[1:])]
    return lambda store: store.append_many(parts)


def mixed(events: Sequence[NewEvent]) -> Again:
    parts = [StreamAppend("z", events[:1], NO_STREAM), StreamAppend(None, events[1:])]
    return lambda store: store.append_many(parts, condition=AppendCondition(Tags("t")))


FORMS: dict[str, Callable[[Sequence[NewEvent]], Again]] = {
    "one stream": one_stream,
    "exact version": lambda events: one_stream(events, NO_STREAM),
    "no stream": no_stream,
    "condition": on_condition,
    "condition and stream": lambda events: on_condition(events, "s"),
    "several": several,
    "mixed": mixed,
}

every_form = pytest.mark.parametrize("form", FORMS)


def first_result(outcome: Any) -> Any:
    """What a result says apart from whether it was stored before."""
    many = outcome if isinstance(outcome, list) else [outcome]
    return [replace(one, idempotent=True) for one in many]


def idempotent(outcome: Any) -> set[bool]:
    return {one.idempotent for one in (outcome if isinstance(outcome, list) else [outcome])}


@every_form
async def test_repeating_an_append_of_any_form_returns_its_first_result(
    store: EventStore, sql: asyncpg.Connection, form: str
) -> None:
    events = some()
    append = FORMS[form](events)
    first = await append(store)
    for stream in ("s", "a", "b", "z"):
        await store.append(stream, tagged("t"))
    again = await append(store)
    assert (idempotent(first), idempotent(again)) == ({False}, {True})
    assert first_result(again) == first_result(first)
    assert len(await stored_ids(sql)) == 2 + 4


@every_form
async def test_the_same_ids_with_anything_else_are_refused_and_nothing_is_written(
    store: EventStore, sql: asyncpg.Connection, form: str
) -> None:
    events = some()
    await FORMS[form](events)(store)
    a, b = events
    for other in (
        [replace(a, data=7), b],
        [replace(a, type="Other"), b],
        [a, replace(b, metadata={"by": "me"})],
        [a, replace(b, tags=["t", "u"])],
        [b, a],
        [a, NewEvent("C")],
        [NewEvent("C"), b],
        [a, b, NewEvent("C")],
    ):
        with pytest.raises(DuplicateEventId) as caught:
            await FORMS[form](other)(store)
        assert set(caught.value.ids) <= {a.id, b.id}
        with pytest.raises(DuplicateEventId):
            await store.append_many([StreamAppend("other", [NewEvent("D")]), StreamAppend(None, other)])
    assert await stored_ids(sql) == [a.id, b.id]


async def test_the_same_events_in_another_stream_or_none_are_refused(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    in_stream, in_none = some(), some()
    await store.append("s", in_stream)
    await store.append(None, in_none)
    for stream, events in (("t", in_stream), (None, in_stream), ("t", in_none), ("s", in_none)):
        with pytest.raises(DuplicateEventId):
            await store.append(stream, events)
    assert len(await stored_ids(sql)) == 4


async def test_a_refused_duplicate_leaves_a_transaction_of_the_callers_usable(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    events = some()
    await store.append("s", events)
    async with sql.transaction():
        with pytest.raises(DuplicateEventId):
            await store.append("t", events, connection=sql)
        again = await store.append("s", events, expected=NO_STREAM, connection=sql)
        assert (again.idempotent, again.version) == (True, 2)
        await store.append("t", some(), connection=sql)
    assert await unsound(sql) == []


@every_form
async def test_two_stores_that_append_the_same_at_the_same_moment_get_the_same_result(
    db: str, sql: asyncpg.Connection, form: str
) -> None:
    async with stores(db, 2) as opened:
        for _ in range(times(15, 200)):
            await forget(sql)
            append = FORMS[form](some())
            results = await asyncio.gather(*(append(store) for store in opened * 2))
            assert len({str(first_result(result)) for result in results}) == 1
            assert sum(idempotent(result) == {False} for result in results) == 1
            assert len(await stored_ids(sql)) == 2


async def test_duplicates_at_the_same_moment_are_stored_once_whatever_their_order(
    db: str, sql: asyncpg.Connection
) -> None:
    """In another order they are another append: refused by name, never by a deadlock."""
    async with stores(db, 2) as opened:
        for _ in range(times(10, 100)):
            events = [NewEvent("A") for _ in range(200)]
            appends = [opened[0].append(None, events), opened[1].append(None, events[::-1])]
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            assert {type(one) for one in outcomes} == {AppendResult, DuplicateEventId}
    assert len(await stored_ids(sql)) == times(10, 100) * 200


@pytest.mark.hunt
async def test_a_reply_lost_after_the_commit_changes_nothing_for_the_caller(db: str, sql: asyncpg.Connection) -> None:
    """The store repeats it by itself: one copy, the first result."""
    rng, copies = random.Random(SEED), 0
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:
        for n in range(times(14, 1000)):
            await append_without_a_reply(store, proxy, sql, list(FORMS)[n % len(FORMS)], rng.choice([1, 1, 2]))
            copies += 1
        assert proxy.lost >= times(14, 1000)
        assert await left_behind(store, sql) == []
        note(appends=copies, replies_lost=proxy.lost, copies_too_many=0)


async def append_without_a_reply(
    store: EventStore, proxy: Proxy, sql: asyncpg.Connection, form: str, lost: int
) -> None:
    await forget(sql)
    append = FORMS[form](some())
    proxy.lose_replies = lost
    result = await append(store)
    assert idempotent(result) == {True}, f"HUNT_SEED={SEED}"
    assert first_result(await append(store)) == first_result(result)
    assert len(await stored_ids(sql)) == 2
    assert await unsound(sql) == []


@pytest.mark.parametrize("unique", [True, False], ids=["does nothing on a conflict", "stores it again"])
async def test_an_append_that_looks_for_no_ids_is_caught(db: str, sql: asyncpg.Connection, unique: bool) -> None:
    await edit(sql, "append_events_v1", "exists (select from events e where e.id = any (p_ids))", "false")
    await edit(
        sql, "write_events_v1", "order by n.id;", "order by n.id on conflict (id) do nothing;" if unique else ";"
    )
    if not unique:
        await sql.execute("alter table eventstore.events drop constraint events_id_key")
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:
        with pytest.raises(AssertionError):
            await append_without_a_reply(store, proxy, sql, "one stream", 1)


@pytest.mark.hunt
async def test_replies_lost_under_load_leave_one_copy_of_everything(db: str, sql: asyncpg.Connection) -> None:
    rng, acknowledged = random.Random(SEED), dict[UUID, int]()
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:

        async def write(n: int) -> None:
            for i in range(times(6, 150)):
                if rng.random() < 0.2:
                    proxy.lose_replies += 1
                events = [NewEvent("A"), NewEvent("B")]
                if i % 4:
                    results = [await store.append(None if i % 4 == 1 else f"s{(n + i) % 7}", events)]
                else:
                    results = await store.append_many([StreamAppend(f"s{n % 7}", events)])
                acknowledged[events[1].id] = results[0].position

        await asyncio.gather(*(write(n) for n in range(20)))
        assert proxy.lost > times(3, 100)
        assert await left_behind(store, sql) == []
    stored = dict(await sql.fetch("select id, position from eventstore.events"))
    assert len(stored) == 2 * len(acknowledged) == 2 * 20 * times(6, 150)
    assert acknowledged.items() <= stored.items()
    assert await unsound(sql) == []
    note(appends=len(acknowledged), replies_lost=proxy.lost)


@every_form
async def test_the_outcome_is_unknown_when_the_database_stays_away_too_long(
    db: str, sql: asyncpg.Connection, form: str
) -> None:
    settings = replace(QUICK, append_timeout=0.2)
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=settings) as store:
        append = FORMS[form](some())
        lost = asyncio.create_task(go_away_when_lost(proxy))
        with pytest.raises(OutcomeUnknown):
            await append(store)
        await lost
        proxy.come_back()
        assert idempotent(await append(store)) == {True}
    assert len(await stored_ids(sql)) == 2


async def go_away_when_lost(proxy: Proxy) -> None:
    proxy.lose_replies = 1
    await until(lambda: proxy.lost)
    proxy.go_away()


@every_form
async def test_a_database_that_was_never_reached_is_unavailable(db: str, sql: asyncpg.Connection, form: str) -> None:
    settings = replace(QUICK, append_timeout=0.5)
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=settings) as store:
        lost = asyncio.Event()
        store._database.on_lost(lost.set)
        proxy.go_away()
        await lost.wait()
        with pytest.raises(DatabaseUnavailable) as caught:
            await FORMS[form](some())(store)
        assert not isinstance(caught.value, OutcomeUnknown)
    assert await stored_ids(sql) == []


async def test_an_append_goes_on_when_the_database_comes_back_in_time(db: str, sql: asyncpg.Connection) -> None:
    settings = replace(QUICK, append_timeout=60.0)
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=settings) as store:
        append = asyncio.create_task(store.append("s", some()))
        await go_away_when_lost(proxy)
        refused = proxy.refused
        await until(lambda: proxy.refused > refused + 1)
        proxy.come_back()
        result = await append
        assert (result.version, result.idempotent) == (2, True)


async def test_a_connection_cut_while_the_append_waits_for_a_lock_leaves_one_copy(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt is still waiting on the server when the second one comes."""
    monkeypatch.setattr("eventstore.log.append.BRIEF", "0")
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:
        await store.append("s", some("first"))
        async with locked(db, "s") as holder:
            waiting = asyncio.create_task(store.append("s", some()))
            await waiting_for_locks(sql)
            proxy.cut()
            await waiting_for_locks(sql, 2)
            await holder.execute("commit")
            assert (await waiting).version == 3
    assert len(await stored_ids(sql)) == 3


async def test_a_lock_timeout_of_the_second_attempt_is_no_answer_about_the_first(
    db: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt holds the condition's stripes and may still commit; the caller must not be told it did not."""
    monkeypatch.setattr("eventstore.log.append.BRIEF", "0")
    name = await sql.fetchval("select quote_ident(current_database())")
    async with proxied(db) as proxy, EventStore(proxy.dsn, settings=QUICK) as store:
        await store.append("s", [NewEvent("first")])
        async with locked(db, "s") as holder:
            waiting = asyncio.create_task(store.append("s", tagged("x"), condition=AppendCondition(Tags("x"))))
            await waiting_for_locks(sql)
            await sql.execute(f"alter database {name} set lock_timeout = '50ms'")
            proxy.cut()
            await asyncio.wait([waiting], timeout=0.5)
            await holder.execute("commit")
        try:
            result: Any = await waiting
        except TransactionConflict as error:
            result = error
    assert len(await stored_ids(sql)) == 2
    assert isinstance(result, AppendResult), result
