"""Reading, deciding and appending as one."""

from __future__ import annotations

import asyncio

import pytest

from eventstore import (
    AppendConditionFailed,
    Event,
    EventPayload,
    EventStore,
    EventType,
    InvalidSelector,
    NewEvent,
    Tags,
    WrongExpectedVersion,
)
from eventstore.errors import ConfigurationError


def counted(events: list[Event]) -> list[NewEvent]:
    return [NewEvent("Counted", {"n": len(events) + 1})]


async def test_a_stream_is_decided_by_what_it_holds(store: EventStore) -> None:
    for n in (1, 2, 3):
        result = await store.decide("s", counted)
        assert result is not None
        assert result.version == n
    assert [event.data["n"] async for event in store.read("s")] == [1, 2, 3]


async def test_racing_decisions_lose_nothing(store: EventStore) -> None:
    await asyncio.gather(*(store.decide("s", counted, attempts=100) for _ in range(30)))
    assert [event.data["n"] async for event in store.read("s")] == list(range(1, 31))


async def test_racing_decisions_on_a_tag_lose_nothing(store: EventStore) -> None:
    def tagged(events: list[Event]) -> list[NewEvent]:
        return [NewEvent("Counted", {"n": len(events) + 1}, tags=["counter"])]

    await asyncio.gather(*(store.decide(Tags("counter"), tagged, attempts=100) for _ in range(12)))
    assert [event.data["n"] async for event in store.read_all(Tags("counter"))] == list(range(1, 13))


async def test_nothing_to_append_is_none(store: EventStore) -> None:
    assert await store.decide("s", lambda _: []) is None


async def test_a_decision_may_be_a_coroutine_function(store: EventStore) -> None:
    async def slowly(events: list[Event]) -> list[NewEvent]:
        await asyncio.sleep(0)
        return counted(events)

    result = await store.decide(EventType("Counted"), slowly, stream="s")
    assert result is not None
    assert (result.stream, result.version) == ("s", 1)


async def test_a_decision_that_loses_every_attempt_raises_the_conflict(store: EventStore) -> None:
    async def late(events: list[Event]) -> list[NewEvent]:
        await store.append("s", [NewEvent("Other", tags=["x"])])
        return [NewEvent("Late")]

    with pytest.raises(WrongExpectedVersion):
        await store.decide("s", late, attempts=3)
    with pytest.raises(AppendConditionFailed):
        await store.decide(Tags("x"), late, attempts=2)
    assert [event.type async for event in store.read("s")] == ["Other"] * 5


async def test_an_error_of_the_decision_appends_nothing(store: EventStore) -> None:
    def refuse(events: list[Event]) -> list[NewEvent]:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await store.decide("s", refuse)
    assert await store.head() == 0


async def test_a_decision_out_of_time_appends_nothing(store: EventStore) -> None:
    async def never(events: list[Event]) -> list[NewEvent]:
        await asyncio.Event().wait()
        return counted(events)

    with pytest.raises(TimeoutError):
        await store.decide("s", never, timeout=0.05)
    assert await store.head() == 0


async def test_what_cannot_be_a_condition_is_refused_before_reading(store: EventStore) -> None:
    with pytest.raises(InvalidSelector, match="EventPayload"):
        await store.decide(EventPayload({"a": 1}), counted)
    with pytest.raises(ConfigurationError, match="stream="):
        await store.decide("s", counted, stream="t")
    with pytest.raises(ConfigurationError, match="attempts"):
        await store.decide("s", counted, attempts=0)


async def test_a_deleted_stream_is_decided_as_none_and_goes_on(store: EventStore, sql: object) -> None:
    await store.append("s", [NewEvent("A"), NewEvent("B")])
    await store.delete_stream("s")  # type: ignore[attr-defined]
    result = await store.decide("s", counted)
    assert result is not None
    assert (result.version, [event.data["n"] async for event in store.read("s")]) == (3, [1])
