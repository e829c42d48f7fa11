"""Two tenants in one schema: what the one does, the other neither sees nor changes."""

from __future__ import annotations

from uuid import uuid4

from eventstore import All, EventStore, NewEvent


async def log_of(store: EventStore) -> list[tuple[str | None, int | None, object]]:
    return [(event.stream, event.version, event.data) async for event in store.read_all(All())]


async def test_both_have_streams_of_one_name_and_events_of_one_id(acme: EventStore, rival: EventStore) -> None:
    id = uuid4()
    for store, data in ((acme, "a"), (rival, "b")):
        result = await store.append("order-1", [NewEvent("Placed", data, id=id)], expected=0)
        assert (result.version, result.idempotent) == (1, False)
    assert await log_of(acme) == [("order-1", 1, "a")]
    assert await log_of(rival) == [("order-1", 1, "b")]
