"""The hashes of Postgres and of Python are the same, whatever is in an event; and no two events are written alike."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import NewEvent
from eventstore.evidence.hashing import NONE, Malformed, Stored, content, digest_of, link, record, running, stored_link
from tests.evidence.conftest import Evidence

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
EVENT = st.builds(
    lambda kind, data, metadata, tags: NewEvent(kind, data, metadata=metadata, tags=tags),
    TEXT,
    JSON,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.lists(TEXT, unique=True, max_size=4),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(streams=st.lists(st.none() | TEXT, min_size=1, max_size=3), events=st.lists(EVENT, min_size=1, max_size=3))
def test_what_postgres_hashes_is_what_python_hashes(
    many: tuple[Any, Evidence], streams: list[str | None], events: list[NewEvent]
) -> None:
    run, chain = many

    async def append() -> None:
        for stream in streams:
            fresh = [NewEvent(one.type, one.data, metadata=one.metadata, tags=one.tags) for one in events]
            await chain.store.append(stream, fresh)
        found = await chain.verify(since_seal=bool(chain.kept))
        assert found.intact, found.breaks
        assert found.chained == found.events
        await chain.seal()

    run(append())


@pytest.fixture
def many(db: str, key: Any) -> Any:
    """A runner, and a store that it opened: Hypothesis calls a plain function many times."""
    import asyncio

    import asyncpg

    from eventstore import EventStore, Settings

    async def opened() -> tuple[EventStore, asyncpg.Connection]:
        return await EventStore(db, settings=Settings(listen=False)).__aenter__(), await asyncpg.connect(db)

    with asyncio.Runner() as runner:
        store, sql = runner.run(opened())
        chain = Evidence(store, sql, key)
        runner.run(chain.turn(True))
        yield runner.run, chain
        runner.run(sql.close())
        runner.run(store.__aexit__(None, None, None))


def row(**changed: Any) -> Stored:
    fields: dict[str, Any] = {
        "position": 1, "id": UUID(int=1), "stream": "s", "version": 1, "bucket": 7, "type": "A", "data": "1",
        "metadata": "{}", "tags": "{}", "created_at": bytes(8), "recorded_at": bytes(8), "hash": bytes(48),
        "before_position": None, "before_hash": None, "stream_version": 1, "untagged": False,
    }  # fmt: skip
    return Stored(**fields | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"position": 2}, {"id": UUID(int=2)}, {"stream": "t"}, {"stream": None, "version": None}, {"version": 2},
        {"bucket": 8}, {"type": "B"}, {"created_at": b"12345678"}, {"recorded_at": b"12345678"},
        {"stream": "sA", "type": ""},
    ],
)  # fmt: skip
def test_every_column_changes_the_record(changed: dict[str, Any]) -> None:
    assert record(row(), NONE) != record(row(**changed), NONE)


@pytest.mark.parametrize("parts", [("12", "", "{}"), ("1", "2", "{}"), ("1", "", "2{}"), ("", "12", "{}")])
def test_content_does_not_move_between_columns(parts: tuple[str, str, str]) -> None:
    assert content(bytes(16), *parts) != content(bytes(16), "1", "2{", "}")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"hash": bytes(47)}, "not one of an event"),
        ({"hash": bytes(64)}, "not one of an event"),
        ({"data": None}, "digest of its content is missing"),
        ({"data": None, "metadata": '{"a": 1}', "hash": bytes(64)}, "no stub"),
        ({"data": None, "tags": "{a}", "hash": bytes(64)}, "no stub"),
    ],
)
def test_what_is_neither_an_event_nor_a_stub_is_told(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(Malformed) as caught:
        digest_of(row(**changed))
    assert what in caught.value.what


def test_a_stub_has_the_digest_of_what_it_was() -> None:
    salt = b"0123456789abcdef"
    before = digest_of(row(hash=salt + bytes(32)))
    assert digest_of(row(data=None, hash=before + bytes(32))) == before


def test_the_digest_of_a_range_depends_on_order_content_and_links() -> None:
    one, other = bytes(48), bytes(16) + b"x" * 32
    assert running(running(NONE, b"a", one), b"b", one) != running(running(NONE, b"b", one), b"a", one)
    assert len({running(NONE, b"a", stored) for stored in (None, one, other)}) == 3
    assert stored_link(other) == b"x" * 32
    assert link(None, b"a") == link(NONE, b"a") != link(b"x" * 32, b"a")
