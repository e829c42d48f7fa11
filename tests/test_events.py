from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from eventstore import InvalidEvent, NewEvent
from eventstore.codec import decode, encode
from eventstore.errors import PayloadTooLarge
from eventstore.events import uuid7

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal in value and in type, signs of zero included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


@given(json_values)
def test_what_is_encoded_decodes_to_the_same_value_and_types(value: Any) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize("value", [1e16, -0.0, 2**53 + 1, 2**80, -(2**64), 10**4299, 1e308, 5e-324])
def test_numbers_keep_their_type_and_value(value: float) -> None:
    assert same(decode(encode({"n": [value]})), {"n": [value]})


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"a": "x\0y"}, r"data\.a: NUL"),
        ({"a\0": 1}, "key: NUL"),
        ("\ud800", "surrogate"),
        ({"a": [1, math.nan]}, r"data\.a\[1\]: nan"),
        (math.inf, "inf"),
        ((1, 2), "tuple"),
        ({1: 2}, "not a string"),
        (b"x", "bytes"),
        ({1, 2}, "set"),
        (datetime.now(UTC), "datetime"),
        (nested(65), "deeper than 64"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(data: Any, named: str) -> None:
    with pytest.raises(InvalidEvent, match=named):
        NewEvent(type="T", data=data)


def test_an_integer_of_more_than_4300_digits_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="4300 digits"):
        NewEvent(type="T", data=10**4300)


def test_sixty_four_levels_are_allowed() -> None:
    assert NewEvent(type="T", data=nested(64)).encoded_data == "[" * 64 + "]" * 64


def test_one_mebibyte_is_allowed_and_one_byte_more_is_not() -> None:
    most = (1 << 20) - len('""') - len("{}")
    NewEvent(type="T", data="é" * (most // 2) + "x" * (most % 2))
    with pytest.raises(PayloadTooLarge, match="1,048,577"):
        NewEvent(type="T", data="é" * (most // 2) + "x" * (most % 2 + 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"type": ""},
        {"type": "x" * 513},
        {"type": None},
        {"type": "a\0"},
        {"metadata": []},
        {"tags": "abc"},
        {"tags": [""]},
        {"tags": ["x" * 257]},
        {"tags": [str(n) for n in range(65)]},
        {"id": "not a uuid"},
        {"created_at": datetime(2026, 1, 1)},
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        NewEvent(**{"type": "T", **fields})


def test_changing_the_data_handed_in_does_not_change_the_event() -> None:
    data = {"a": 1}
    event = NewEvent(type="T", data=data)
    data["a"] = 2
    assert decode(event.encoded_data) == {"a": 1}


def test_a_pydantic_model_is_taken_by_its_json_form() -> None:
    class Placed(BaseModel):
        total: int
        at: datetime

    event = NewEvent(type="Placed", data=Placed(total=9, at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert decode(event.encoded_data) == {"total": 9, "at": "2026-01-01T00:00:00Z"}


def test_ids_are_version_7_and_sort_by_creation() -> None:
    ids = [uuid7() for _ in range(10_000)]
    assert {one.version for one in ids} == {7}
    assert ids == sorted(set(ids))
