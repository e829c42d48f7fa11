from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore.database import connect
from eventstore.moments import hand_over_numbers
from tests import introspecting

WHEN = datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)


async def sent(connection: Any, query: str, *args: Any) -> tuple[Any, list[str]]:
    """What a query returns, and all that was sent for it."""
    queries: list[str] = []
    with connection.query_logger(lambda record: queries.append(record.query)):
        value = await connection.fetchval(query, *args)
    await connection.execute("select 1")  # they are told in a turn of their own
    return value, queries


@pytest.mark.parametrize("cache", [0, 10])
async def test_only_the_first_connection_asks_what_an_array_is(
    db: str, monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    monkeypatch.setattr(introspecting, "KNOWN", {})
    asked = []
    for _ in range(2):
        connection = await connect(db, cache=cache)
        value, queries = await sent(connection, "select $1::int8[]", [1, 2])
        asked.append(len(queries) > 1)
        assert value == [1, 2]
        await connection.close()
    assert asked == [True, False]


async def test_elements_come_as_each_connection_wants_them(db: str) -> None:
    plain, numbers = await connect(db), await connect(db)
    await hand_over_numbers(numbers)
    assert await plain.fetchval("select $1::timestamptz[]", [WHEN]) == [WHEN]
    assert await numbers.fetchval("select $1::timestamptz[]", [WHEN]) == [1_000_000]
    await plain.close()
    await numbers.close()


async def test_a_type_of_a_database_is_asked_for_on_every_connection(db: str) -> None:
    one = await connect(db)
    await one.execute("create type public.mood as enum ('ok')")
    known = dict(introspecting.KNOWN)
    assert await one.fetchval("select array['ok']::public.mood[]") == ["ok"]
    assert known == introspecting.KNOWN
    await one.close()
