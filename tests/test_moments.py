"""Times between Python and Postgres."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event, EventStore, NewEvent
from eventstore.moments import _to_wire, to_datetime

TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]))


@given(TIMES)
def test_every_time_survives_the_way_to_microseconds_and_back(time: datetime) -> None:
    try:
        utc = time.astimezone(UTC)
    except OverflowError:  # beyond the years 1 to 9999 in UTC: NewEvent refuses it
        return
    assert to_datetime(*_to_wire(time)) == utc


async def test_an_event_read_behaves_as_one_that_was_built(store: EventStore) -> None:
    created = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    await store.append("a", [NewEvent("A", created_at=created)])
    (read,) = [event async for event in store.read("a")]
    built = Event(**{field: getattr(read, field) for field in Event.__slots__})
    (untouched,) = [event async for event in store.read("a")]
    assert untouched == built == replace(read) == copy.deepcopy(read) == pickle.loads(pickle.dumps(read))
    assert read.created_at == created
    assert read.recorded_at.tzinfo is UTC
    assert "datetime" in repr(untouched)


async def test_a_copy_of_an_event_nobody_looked_at_has_its_times(store: EventStore) -> None:
    await store.append("a", [NewEvent("A")])
    (event,) = [event async for event in store.read("a")]
    assert isinstance(pickle.loads(pickle.dumps(event)).recorded_at, datetime)
