"""What stands around handlers, and what events that are appended inside them carry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventstore import All, Delivery, Event, EventStore, EventType, FailurePolicy, NewEvent, StreamAppend
from eventstore.errors import AlreadyStarted
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import running


async def test_the_first_one_is_outermost(store: EventStore) -> None:
    order: list[str] = []

    def named(name: str) -> Any:
        def around(call: Any) -> Any:
            async def called(events: list[Event], delivery: Delivery, transaction: Any) -> None:
                order.append(f"{name} before")
                await call(events, delivery, transaction)
                order.append(f"{name} after")

            return called

        return around

    store.use(named("a"))
    store.use(named("b"))
    store.handler("s", All())(Journal().note)
    await store.append("x", [NewEvent(type="A")])
    async with running(store):
        await settled(store, "s", 1)
        with pytest.raises(AlreadyStarted):
            store.use(named("late"))
    assert order == ["a before", "b before", "b after", "a after"]


async def test_it_sees_the_exception_and_can_turn_it_into_another(store: EventStore) -> None:
    @store.use
    def around(call: Any) -> Any:
        async def called(*args: Any) -> None:
            try:
                await call(*args)
            except ValueError as error:
                raise LookupError("turned") from error

        return called

    @store.handler("s", All(), policy=FailurePolicy(attempts=1))
    async def handler(event: Event, delivery: Delivery) -> None:
        raise ValueError

    await store.append("x", [NewEvent(type="A")])
    async with running(store):
        await settled(store, "s", 1)
    assert [one.error for one in await store.subscriptions.parked("s")] == ["LookupError"]


async def test_it_gets_the_connection_of_a_projection(store: EventStore) -> None:
    seen: list[tuple[str, bool]] = []

    @store.use
    def around(call: Any) -> Any:
        async def called(events: list[Event], delivery: Delivery, transaction: Any) -> None:
            seen.append((delivery.subscription, transaction is not None and transaction.is_in_transaction()))
            await call(events, delivery, transaction)

        return called

    async def project(events: list[Event], tx: Any) -> None: ...

    store.projection("p", All())(project)
    store.handler("h", All())(Journal().note)
    await store.append("x", [NewEvent(type="A")])
    async with running(store):
        for name in ("p", "h"):
            await settled(store, name, 1)
    assert sorted(seen) == [("h", False), ("p", True)]


async def caused_by(store: EventStore, how: Any, batch_size: int = 1, count: int = 1) -> list[dict[str, Any]]:
    """Let a handler append, and return the metadata of what came of it."""

    async def handler(event: Any, delivery: Delivery) -> None:
        await how(event)

    store.handler("s", EventType("Cause"), batch_size=batch_size)(handler)
    await store.append("cause", [NewEvent(type="Cause", metadata={"correlation_id": "c"}) for _ in range(count)])
    async with running(store):
        await settled(store, "s", count)
    return [event.metadata async for event in store.read_all(EventType("Effect"))]


@pytest.mark.parametrize("how", ["append", "append_many", "decide"])
async def test_what_a_handler_appends_carries_where_it_comes_from(store: EventStore, how: str) -> None:
    effect = [NewEvent(type="Effect")]

    async def act(event: Event) -> None:
        if how == "append":
            await store.append("effect", effect)
        elif how == "append_many":
            await store.append_many([StreamAppend("effect", effect)])
        else:
            await store.decide("effect", lambda events: effect)

    found = await caused_by(store, act)
    (cause,) = [event async for event in store.read("cause")]
    assert found == [{"correlation_id": "c", "causation_id": str(cause.id)}]


async def test_what_is_set_already_stays(store: EventStore) -> None:
    async def act(event: Event) -> None:
        await store.append("effect", [NewEvent(type="Effect", metadata={"causation_id": "mine", "user": 7})])

    assert await caused_by(store, act) == [{"correlation_id": "c", "causation_id": "mine", "user": 7}]


async def test_what_a_batch_of_several_appends_carries_nothing(store: EventStore) -> None:
    async def act(events: list[Event]) -> None:
        await store.append("effect", [NewEvent(type="Effect")])

    assert await caused_by(store, act, batch_size=10, count=2) == [{}]


async def test_outside_of_handlers_nothing_is_added(store: EventStore) -> None:
    await asyncio.create_task(store.append("effect", [NewEvent(type="Effect")]))
    assert [event.metadata async for event in store.read("effect")] == [{}]
