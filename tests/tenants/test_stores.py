"""Two stores of one schema, each of a tenant: what the one does, the other neither sees nor changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventstore import (
    All,
    AppendCondition,
    AppendConditionFailed,
    Delivery,
    Event,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    StreamMetadata,
    SubscriptionNotFound,
    Tags,
    WrongExpectedVersion,
)
from eventstore.analytics.logs import RequestLog
from eventstore.analytics.storing import RequestTable
from eventstore.errors import ConfigurationError
from eventstore.evidence.keys import PublicKey, SigningKey, create
from eventstore.evidence.sealing import seal
from eventstore.evidence.switching import turn
from eventstore.evidence.verifying import verify
from eventstore.reports.actions import list_actions, recorded
from eventstore.reports.overview import read_overview
from tests.tenants.conftest import ACME, dsn_as


async def data_of(store: EventStore, *selector: Any) -> list[object]:
    return [event.data async for event in store.read_all(*(selector or (All(),)))]


@asynccontextmanager
async def running(*stores: EventStore) -> AsyncIterator[None]:
    async with AsyncExitStack() as started, asyncio.timeout(60):
        for store in stores:
            await started.enter_async_context(store.running())
        yield


# -- the log


async def test_both_have_streams_of_one_name_and_events_of_one_id(acme: EventStore, rival: EventStore) -> None:
    id = uuid4()
    for store, data in ((acme, "a"), (rival, "b")):
        result = await store.append("order-1", [NewEvent("Placed", data, id=id)], expected=0)
        assert (result.version, result.idempotent) == (1, False)
        assert (await store.append("order-1", [NewEvent("Placed", data, id=id)])).idempotent
    assert (await data_of(acme), await data_of(rival)) == (["a"], ["b"])


async def test_versions_and_conditions_are_about_ones_own_events(acme: EventStore, rival: EventStore) -> None:
    await acme.append("s", [NewEvent("Taken", tags=["seat:1"])])
    condition = AppendCondition(EventType("Taken") & Tags("seat:1"))
    with pytest.raises(WrongExpectedVersion):
        await acme.append("s", [NewEvent("Taken")], expected=0)
    with pytest.raises(AppendConditionFailed):
        await acme.append(None, [NewEvent("Taken")], condition=condition)
    await rival.append("s", [NewEvent("Taken", tags=["seat:1"])], expected=0, condition=condition)


async def test_many_appends_at_once_stay_whose_they_are(acme: EventStore, rival: EventStore) -> None:
    await asyncio.gather(
        *(store.append(f"s-{n % 7}", [NewEvent("A", store.tenant)]) for n in range(60) for store in (acme, rival))
    )
    assert (await data_of(acme), await data_of(rival)) == (["acme"] * 60, ["rival"] * 60)


async def test_deleting_limiting_and_scavenging_touch_ones_own_streams(acme: EventStore, rival: EventStore) -> None:
    for store in (acme, rival):
        for stream in ("gone", "closed", "short"):
            await store.append(stream, [NewEvent("A", n, tags=["t"]) for n in range(3)])
    await acme.delete_stream("gone")
    await acme.tombstone_stream("closed")
    await acme.set_stream_metadata("short", StreamMetadata(max_count=1))
    await acme.scavenge()
    assert await data_of(acme) == [2]
    assert await data_of(rival, Tags("t")) == [0, 1, 2] * 3
    assert (await rival.stream_info("short")).metadata == StreamMetadata()
    await rival.append("closed", [NewEvent("A")])


async def test_who_listens_hears_ones_own_events(acme: EventStore, rival: EventStore) -> None:
    async with acme.listen(All()) as events:
        await rival.append("s", [NewEvent("A", "rival's")])
        await acme.append("s", [NewEvent("A", "acme's")])
        async with asyncio.timeout(30):
            assert (await anext(aiter(events))).data == "acme's"


async def test_two_tenants_share_a_callers_transaction(acme: EventStore, rival: EventStore, anybody: str) -> None:
    connection = await asyncpg.connect(anybody)
    for commit in (False, True):
        transaction = connection.transaction()
        await transaction.start()
        await acme.append("s", [NewEvent("A", "a")], connection=connection)
        await rival.append("s", [NewEvent("A", "b")], connection=connection)
        await acme.append("s", [NewEvent("A", "c")], connection=connection)
        await (transaction.commit() if commit else transaction.rollback())
        assert await connection.fetchval("select current_setting('eventstore.tenant', true)") in (None, "")
    await connection.close()
    assert (await data_of(acme), await data_of(rival)) == (["a", "c"], ["b"])


# -- subscriptions


async def test_handlers_of_one_name_get_ones_own_events(acme: EventStore, rival: EventStore) -> None:
    got: dict[str, list[object]] = {"acme": [], "rival": []}
    for store in (acme, rival):

        @store.handler("billing", All(), pool_size=2)
        async def handle(event: Event, delivery: Delivery, mine: list[object] = got[store.tenant or ""]) -> None:
            mine.append(event.data)

    async with running(acme, rival):
        for n in range(10):
            for store in (acme, rival):
                last = (await store.append(f"s-{n}", [NewEvent("A", [store.tenant, n])])).position
        for store in (acme, rival):
            await store.subscriptions.wait_for("billing", last)
        assert [node.name for node in await acme.nodes()] == ["acme-1"]
    assert all(sorted(got[one]) == [[one, n] for n in range(10)] for one in got)  # type: ignore[type-var]


async def test_what_the_one_parks_and_replays_is_not_the_others(acme: EventStore, rival: EventStore) -> None:
    failing, handled = True, asyncio.Event()

    @acme.handler("billing", All(), policy=FailurePolicy(attempts=1))
    async def fail(event: Event, delivery: Delivery) -> None:
        if failing:
            raise ValueError("not yet")
        handled.set()

    @rival.handler("billing", All(), policy=FailurePolicy(attempts=1))
    async def handle(event: Event, delivery: Delivery) -> None: ...

    async with running(acme, rival):
        for store in (acme, rival):
            await store.subscriptions.wait_for("billing", (await store.append("s", [NewEvent("A")])).position)
        assert [len(await store.subscriptions.parked("billing")) for store in (acme, rival)] == [1, 0]
        failing = False
        assert await rival.subscriptions.replay_parked("billing") == 0
        assert await acme.subscriptions.replay_parked("billing") == 1
        await handled.wait()


async def test_a_projection_writes_as_its_tenant_in_its_own_transaction(
    acme: EventStore, rival: EventStore, everything: asyncpg.Connection
) -> None:
    await everything.execute(
        "create table seen (tenant text default current_setting('eventstore.tenant', true), data text);"
        "grant insert on seen to public"
    )
    for store in (acme, rival):

        @store.projection("seen", All())
        async def project(events: list[Event], tx: Any) -> None:
            await tx.executemany("insert into seen (data) values ($1)", [(event.data,) for event in events])

    async with running(acme, rival):
        for store in (acme, rival):
            await store.subscriptions.wait_for(
                "seen", (await store.append("s", [NewEvent("A", store.tenant)])).position
            )
    assert sorted(map(tuple, await everything.fetch("select * from seen"))) == [("acme", "acme"), ("rival", "rival")]


async def test_what_operators_do_is_about_ones_own_subscriptions(acme: EventStore, rival: EventStore) -> None:
    for store in (acme, rival):
        await store.append("s", [NewEvent("A")])
        await store.subscribe("both", All())
    await acme.subscribe("mine", All())
    await acme.subscriptions.pause("both")
    await acme.subscriptions.resize("both", 4)
    assert ((await rival.subscriptions.get("both")).state, (await rival.subscriptions.get("both")).pool_size) == (
        "active",
        1,
    )
    theirs = rival.subscriptions
    for change in (theirs.pause, theirs.resume, theirs.get, theirs.delete):
        with pytest.raises(SubscriptionNotFound):
            await change("mine")
    assert [one.name for one in await rival.subscriptions.list()] == ["both"]


# -- beside the log


async def test_requests_actions_and_the_overview_are_ones_own(acme: EventStore, rival: EventStore) -> None:
    log = RequestLog(
        request_id=uuid4(), method="GET", path="/", status_code=200, duration_ms=1, inserted_at=datetime.now(UTC)
    )
    tables = [RequestTable(store.database) for store in (acme, rival)]
    assert [await table.insert([log]) for table in tables] == [1, 1]
    assert [await table.insert([log]) for table in tables] == [0, 0]
    keys = [await table.address_key() for table in tables]
    assert keys[0] != keys[1]
    async with recorded(acme.database, "me", "cli", "pause", "s"):
        pass
    assert (len(await list_actions(acme.database)), len(await list_actions(rival.database))) == (1, 0)
    await acme.subscribe("one", All())
    overviews = [await read_overview(store.database) for store in (acme, rival)]
    assert [sum(one.subscriptions.values()) for one in overviews] == [1, 0]


async def test_each_tenant_verifies_and_seals_its_own_log(acme: EventStore, rival: EventStore, tmp_path: Any) -> None:
    await turn(acme.database, True)
    create(str(tmp_path / "key"))
    key, public = SigningKey.read(str(tmp_path / "key")), PublicKey.read(str(tmp_path / "key.pub"))
    for n in range(3):
        for store in (acme, rival):
            await store.append("s", [NewEvent("A", [store.tenant, n])])
    for store, number in ((acme, 1), (rival, 1), (acme, 2)):
        await store.append("s", [NewEvent("A")])
        made = await seal(store.database, key, now=datetime.now(UTC))
        assert made is not None
        assert made.number == number
        assert (await verify(store.database, seals=[made], keys=[public])).intact


async def test_who_is_bound_cannot_turn_the_chain_of_all(shared: str, acme: EventStore) -> None:
    async with EventStore(dsn_as(shared, ACME)) as store:
        with pytest.raises(ConfigurationError, match="for all tenants"):
            await turn(store.database, True)
