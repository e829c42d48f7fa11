"""What goes into the log comes back equal, types too; what cannot is refused by name, with all that goes with it."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent, NewEvent
from eventstore.errors import PayloadTooLarge
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.racing import stored_ids, times

MIB = 1 << 20

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet='\0\x01\x1f\x7f\u0080\u2028\ud800\udfff\U0001f600\\"/u0{[e9', max_size=12),
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**25), 10**25),
    st.sampled_from([2**53 - 1, 2**53 + 1, -(2**53) - 1, 2**63, -(2**63) - 1, 2**64, 2**80, -0.0, 1e16, 5e-324, 1e308]),
    st.sampled_from([float("nan"), 1e400, -1e400]),
    st.builds(lambda sign, less: sign * (10**4300 - less), st.sampled_from([1, -1]), st.integers(0, 2)),
    st.floats(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
DEEP = st.tuples(st.integers(60, 67), st.booleans()).map(lambda two: nested(*two))


def nested(depth: int, objects: bool) -> Any:
    value: Any = {} if objects else []
    for _ in range(depth - 1):
        value = {"k": value} if objects else [value]
    return value


def typed(value: Any) -> Any:
    """A form in which values are equal only if their types are, and the signs of their zeros."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value))


def storable(value: Any, depth: int = 1) -> bool:
    """The rules of the log, written down once more."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= one <= "\udfff" for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is int:
        return abs(value) < 10**4300
    if isinstance(value, (dict, list)):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return depth <= 64 and all(storable(item, depth + 1) for item in items)
    return True


@contextmanager
def opened(runner: asyncio.Runner, db: str) -> Iterator[tuple[EventStore, asyncpg.Connection]]:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(db)

    store = EventStore(db, settings=QUICK)
    runner.run(store.__aenter__())
    sql = runner.run(connect())
    try:
        yield store, sql
    finally:
        runner.run(store.__aexit__())
        runner.run(sql.close())


def often(reduced: int, full: int) -> settings:
    return settings(
        max_examples=times(reduced, full),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.hunt
def test_every_payload_comes_back_equal_types_too_or_is_refused_before_sql(db: str) -> None:
    tried: Counter[str] = Counter()
    with asyncio.Runner() as runner, opened(runner, db) as (store, _):

        @often(150, 10_000)
        @given(st.one_of(VALUES, DEEP), st.dictionaries(TEXTS, VALUES, max_size=2))
        def round_trip(data: Any, metadata: dict[str, Any]) -> None:
            tried["payloads"] += 1
            if not (storable(data) and storable(metadata)):
                tried["refused"] += 1
                with pytest.raises(InvalidEvent):
                    NewEvent("T", data, metadata)
                return
            runner.run(comes_back(store, NewEvent("T", data, metadata), data, metadata))

        round_trip()
    note(**tried)


async def comes_back(store: EventStore, new: NewEvent, data: Any, metadata: dict[str, Any]) -> None:
    result = await store.append(None, [new])
    async for event in store.read_all(after=result.position - 1, limit=1):
        assert typed([event.data, event.metadata]) == typed([data, metadata])


@pytest.mark.parametrize(("stored", "meant"), [(1.0, 1), (1, True), (0.0, -0.0), (2**53, 2**53 + 1), ([1], [1.0])])
async def test_a_payload_that_comes_back_as_something_else_is_caught(
    store: EventStore, stored: Any, meant: Any
) -> None:
    with pytest.raises(AssertionError):
        await comes_back(store, NewEvent("T", stored), meant, {})


REFUSED: dict[str, Any] = {
    "NUL": "\0",
    "NUL in a key": {"k\0": 1},
    "surrogate": "\ud800",
    "surrogate inside": {"a": ["\udfff"]},
    "NaN": math.nan,
    "infinity": -math.inf,
    "integer": 10**4300,
    "deep object": nested(65, True),
    "deep list": nested(65, False),
    "tuple": (1, 2),
    "bytes": b"x",
    "key": {1: 2},
    "set": {"a": {1}},
    "object": object(),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_stops_its_whole_append_and_nothing_else(store: EventStore, data: Any) -> None:
    await store.append("s", [NewEvent("before")])
    with pytest.raises(InvalidEvent):
        await store.append("s", [NewEvent("A"), NewEvent("B", data), NewEvent("C")])
    await store.append("s", [NewEvent("after")])
    assert [(event.type, event.version) async for event in store.read("s")] == [("before", 1), ("after", 2)]


@pytest.mark.parametrize("filler", ["x", "é", "\U0001f600", '"', "\n"])
async def test_a_payload_of_just_one_mebibyte_fits_and_a_byte_more_does_not(
    store: EventStore, sql: asyncpg.Connection, filler: str
) -> None:
    width = len(json.dumps(filler, ensure_ascii=False).encode()) - 2
    count, rest = divmod(MIB - len('""{}'), width)
    data = filler * count + "x" * rest
    await store.append("s", [NewEvent("T", data)])
    (event,) = [event async for event in store.read("s")]
    assert event.data == data
    with pytest.raises(PayloadTooLarge):
        NewEvent("T", data + "x")
    query = "select * from eventstore.append_events('s', $1)"
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.fetch(query, json.dumps([{"type": "A"}, {"type": "T", "data": data + "x"}], ensure_ascii=False))
    assert caught.value.sqlstate == "ES004"
    assert len(await stored_ids(sql)) == 1


@pytest.mark.parametrize("beyond", [0, 1])
async def test_data_and_metadata_are_measured_together(store: EventStore, beyond: int) -> None:
    metadata = {"m": "y" * 50_000}
    data = "x" * (MIB - len('""{"m":""}') - 50_000 + beyond)
    if beyond:
        with pytest.raises(PayloadTooLarge):
            NewEvent("T", data, metadata)
    else:
        await store.append("s", [NewEvent("T", data, metadata), NewEvent("T", data)])
        assert [event.metadata async for event in store.read("s")] == [metadata, {}]


async def test_of_a_key_that_stands_twice_the_last_one_counts(store: EventStore, sql: asyncpg.Connection) -> None:
    text = '[{"type": "T", "data": {"a": 1, "b": 12345678901234567890123, "a": 2}}]'
    await sql.fetch("select * from eventstore.append_events('s', $1)", text)
    await sql.fetch("select * from eventstore.append_events('s', $1)", text.replace("12345678901234567890123", "0"))
    assert [event.data["a"] async for event in store.read("s")] == [2, 2]


def json_number(rng: Random) -> str:
    digits = rng.choice([rng.randrange(1, 6), rng.randrange(1, 40), rng.randrange(200, 320), rng.randrange(4290, 4310)])
    whole = rng.choice(["0", rng.choice("123456789") * digits])
    part = rng.choice(["", "", "." + rng.choice("0019") * rng.choice([1, 5, 30, 330])])
    sign, zeros = rng.choice(["", "+", "-"]), "0" * rng.choice([0, 0, 1, 3])
    power = f"{rng.choice('eE')}{sign}{zeros}{rng.choice([rng.randrange(10), rng.randrange(99), rng.randrange(400)])}"
    return rng.choice(["", "-"]) + whole + part + rng.choice(["", power])


def json_string(rng: Random) -> str:
    parts = [*"ab{[}]e19,:-. ", "é", '\\"', "\\\\", "\\n", "\\/", "\\u0041", "\\u0000", "\\ud83d", "\\ude00"]
    return '"' + "".join(rng.choices(parts, k=rng.choice([0, 2, 6, 200]))) + '"'


def json_text(rng: Random, left: int = 4) -> str:
    """A JSON text, most of them near what the log refuses."""
    space = rng.choice(["", "", "", " ", "\n", "\t", " \r\n"])
    form = rng.randrange(10 if left else 6)
    if form < 3:
        return space + json_number(rng) + space
    if form < 6:
        return json_string(rng) if form < 5 else rng.choice(["null", "true", "false", "[]", "{}"])
    if form == 6:
        opening, closing = rng.choice([("[", "]"), ('{"k":', "}"), ('{ "k{[" :[', " ] }")])
        depth = rng.choice([30, 32, 33, 62, 63, 64, 65, 66])
        return opening * depth + json_text(rng, left - 1) + closing * depth
    items = [json_text(rng, left - 1) for _ in range(rng.randrange(4))]
    if form == 7:
        return "{" + ",".join(f"{json_string(rng)}{space}:{item}" for item in items) + "}"
    return f"[{space}" + f"{space},{space}".join(items) + "]"


def readable(text: str) -> bool:
    """Whether Python can read *text* and would write it: the rules of the log, applied to what the text means."""
    try:
        value = json.loads(text)
    except ValueError:  # an integer beyond 4,300 digits
        return False
    return storable(value)


NEAR_MISSES = [
    "[" + "9" * 250 + "e99]",
    "9" * 250 + "e99",
    " -" + "9" * 305 + "e9",
    "[" + "9" * 297 + "e9]",
    "[0." + "0" * 330 + "1]",
    '{"a":1e400}',
    "1e400",
    "[1,\n1E+0400]",
    "[" * 65 + "]" * 65,
    '["\\u0000"]',
    '["\\\\u0000"]',
    "-" + "9" * 4300,
]


@pytest.mark.hunt
def test_the_cheap_test_of_a_json_text_lets_nothing_pass_that_the_thorough_one_refuses(db: str) -> None:
    query = "select t, eventstore.json_suspect_v1(t), eventstore.json_problem_v1(t) from unnest($1::text[]) t"
    judged = 0
    with asyncio.Runner() as runner, opened(runner, db) as (_, sql):

        @often(100, 1000)
        @given(st.integers(0, 1 << 32))
        def agree(seed: int) -> None:
            nonlocal judged
            rng = Random(seed)
            texts = [*(json_text(rng) for _ in range(20)), *NEAR_MISSES]
            for text, suspect, problem in runner.run(sql.fetch(query, texts)):
                assert suspect or problem is None, text
                assert (problem is None) <= readable(text), text
            judged += len(texts)

        agree()
    note(json_texts_judged=judged)


@pytest.mark.hunt
def test_sql_takes_every_text_that_python_writes(db: str) -> None:
    with asyncio.Runner() as runner, opened(runner, db) as (_, sql):
        judged = runner.run(sql.prepare("select eventstore.json_problem_v1($1)"))

        @often(60, 10_000)
        @given(st.one_of(VALUES, DEEP).filter(storable))
        def takes(value: Any) -> None:
            for text in (NewEvent("T", value).encoded_data, json.dumps(value), json.dumps(value, indent=1)):
                assert runner.run(judged.fetchval(text)) is None, text

        takes()


@pytest.mark.parametrize("tags", ["{{{a}}}", "{{a,b},{c,d}}", "{a,a}", "{NULL}", '{""}'])
async def test_sql_refuses_tags_that_are_no_plain_list(sql: asyncpg.Connection, tags: str) -> None:
    for count in (1, 2):
        query = (
            "select * from eventstore.append_events_v1(array['s'], array[-1], array_fill(1, array[$2::int]),"
            " array(select gen_random_uuid() from generate_series(1, $2)), array_fill('T'::text, array[$2::int]),"
            " array_fill('1'::json, array[$2::int]), array_fill('{}'::json, array[$2::int]),"
            " array_fill($1::text, array[$2::int]), array_fill(now(), array[$2::int]))"
        )
        with pytest.raises(asyncpg.PostgresError) as caught:
            await sql.fetch(query, tags, count)
        assert caught.value.sqlstate == "ES003"
