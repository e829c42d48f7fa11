"""What survives the wire, and that nothing else is sent."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, field_serializer, field_validator

from eventstore.errors import ConfigurationError, InvalidMessage
from eventstore.pubsub.codec import Codec, _difference

FROZEN = ConfigDict(frozen=True)


class Point(BaseModel):
    model_config = FROZEN
    x: int
    y: float


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, ser_json_bytes="base64", val_json_bytes="base64")
    id: UUID
    drawn: datetime
    corners: tuple[Point, ...]
    colours: frozenset[str]
    pixels: bytes
    layers: dict[int, list[tuple[str, Decimal]]]


class Anything(BaseModel):
    model_config = FROZEN
    value: Any


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


Pair = namedtuple("Pair", "one two")

codec = Codec()
for model in (Point, Shape, Anything):
    codec.register(model)


def shape(*corners: Point) -> Shape:
    return Shape(
        id=UUID(int=7),
        drawn=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        corners=corners,
        colours=frozenset({"red", "blue"}),
        pixels=b"\x00\xff",
        layers={3: [("a", Decimal("1.50"))]},
    )


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value = None
    for _ in range(depth):
        value = wrap(value)
    return value


def survives(message: Any) -> bool:
    decoded = codec.decode(codec.encode(message))
    return bool(decoded == message) and _difference(message, decoded) is None


# Surrogates are refused and everything else, NUL included, survives.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = texts | st.sampled_from(["~", "~t", "~m", "~~", "~~t", "~x"])
finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, x=st.integers(), y=finite)
messages = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts | points | st.builds(shape, points),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, min_size=1, max_size=1)
    ),
    max_leaves=20,
)

# What survives


@settings(deadline=None)
@given(messages)
def test_every_message_arrives_equal_and_of_the_same_types(message: Any) -> None:
    assert survives(message)


@pytest.mark.parametrize(
    "number",
    [
        0,
        1.0,
        -0.0,
        True,
        2**53 + 1,
        2**63,
        -(2**63) - 1,
        2**64,
        10**400,
        10**4300 - 1,
        5e-324,
        1.5e308,
        1e16,
        0.002 / 3,
    ],
)
def test_numbers_keep_their_type_and_value(number: float) -> None:
    assert survives([number, {"n": (number,)}])


@pytest.mark.parametrize(
    "message",
    [
        {"~t": [1, 2]},
        {"~m": ["Point", {"x": 1, "y": 2.0}]},
        {"~~t": []},
        {"~": {"~": ()}},
        {"~t": [], "other": 1},
        ({"~t": ({"~m": None},)},),
        "~t",
        ["~t", []],
        {},
        (),
        [()],
    ],
)
def test_data_that_looks_like_a_tag_survives(message: Any) -> None:
    assert survives(message)


def test_models_nested_in_tuples_in_models_in_dicts_arrive_as_what_they_were() -> None:
    message = ("moved", {"shapes": [shape(Point(x=2**70, y=-0.0), Point(x=1, y=1.0))], "at": (Point(x=0, y=0.5),)})
    decoded = codec.decode(codec.encode(message))
    assert survives(message)
    assert decoded == message
    assert type(decoded[1]["shapes"][0].corners[0]) is Point


def test_a_model_keeps_fields_with_aliases_extras_and_cached_properties() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(frozen=True, extra="allow", serialize_by_alias=True)
        name: str = Field(alias="n", serialization_alias="m")

        @cached_property
        def loud(self) -> str:
            return self.name.upper()

    codec = Codec()
    codec.register(Aliased)
    message = Aliased(n="ada", more=[1, 2.0])
    assert message.loud == "ADA"
    assert codec.decode(codec.encode(message)) == message


def test_a_root_model_that_holds_a_scalar_survives_at_the_deepest_place() -> None:
    class Name(RootModel[str]):
        model_config = FROZEN

    codec = Codec()
    codec.register(Name)
    message = nested(63, lambda inner: [inner or Name("ada")])
    assert codec.decode(codec.encode(message)) == message


def test_what_is_encoded_is_not_changed() -> None:
    message = {"a": [(1,), {"~t": 2}], "b": Point(x=1, y=2)}
    codec.encode(message)
    assert message == {"a": [(1,), {"~t": 2}], "b": Point(x=1, y=2)}


def test_plain_messages_are_written_as_plain_json() -> None:
    assert codec.encode({"text": "héllo", "n": [1, 2.0, None]}) == '{"text":"héllo","n":[1,2.0,null]}'
    assert codec.encode(("a", Point(x=1, y=2))) == '{"~t":["a",{"~m":["Point",{"x":1,"y":2.0}]}]}'


# What is refused


class Loose(BaseModel):
    x: int = 1


class Stranger(BaseModel):
    model_config = FROZEN
    x: int = 1


class Near(Point):
    pass


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (Level.LOW, r"message: a Level cannot be sent"),
        ([Word.YES], r"message\[0\]: a Word cannot be sent"),
        ({"a": Text("b")}, r"message\.a: a Text cannot be sent.*no subclasses"),
        ({Text("a"): 1}, r"message\['a'\]: this key is a Text, not a string"),
        ({"a": {1: 2}}, r"message\.a\[1\]: this key is an int, not a string; use str"),
        ((1, defaultdict(int)), r"message\[1\]: a defaultdict cannot"),
        (Pair(1, 2), r"message: a Pair cannot"),
        (b"x", r"message: a bytes cannot"),
        ({"a": {1}}, r"message\.a: a set cannot"),
        (UUID(int=1), r"message: an UUID cannot"),
        (datetime.now(UTC), r"message: a datetime cannot"),
        (object, r"message: a type cannot"),
        ([{"a": float("nan")}], r"message\[0\]\.a: nan is no JSON number"),
        (float("-inf"), r"message: -inf is no JSON number"),
        ((10**4300,), r"message\[0\]: integers beyond 4300 digits"),
        ({"a": "\ud800"}, r"message\.a: lone surrogates"),
        ({"\udfff": 1}, r"message\.\\udfff: lone surrogates"),
        (["\udfff", 2**70], r"message\[0\]: lone surrogates"),
        ((Stranger(),), r"message\[0\]: Stranger is not registered; call codec\.register\(Stranger\)"),
        (Near(x=1, y=1), r"Near is not registered"),
        (Loose(), r"Loose is not frozen.*ConfigDict\(frozen=True\).*codec\.register\(Loose\)"),
    ],
)
def test_what_would_not_arrive_as_it_was_sent_is_refused_by_name(message: Any, named: str) -> None:
    with pytest.raises(InvalidMessage, match=named):
        codec.encode(message)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"~t": inner}])
def test_messages_are_nested_at_most_64_deep(wrap: Callable[[Any], Any]) -> None:
    assert survives(nested(64, wrap))
    with pytest.raises(InvalidMessage, match="message: nested deeper than 64"):
        codec.encode(nested(65, wrap))


def test_the_depth_within_a_model_counts_as_well() -> None:
    assert survives([Anything(value=nested(62))])
    with pytest.raises(InvalidMessage, match="message: nested deeper than 64"):
        codec.encode([Anything(value=nested(63))])
    with pytest.raises(InvalidMessage, match="nested deeper than 64"):
        codec.encode(nested(64, lambda inner: [inner or Point(x=1, y=1)]))


def test_a_message_that_holds_itself_is_refused() -> None:
    message: list[Any] = []
    message.append(message)
    with pytest.raises(InvalidMessage, match="nested deeper"):
        codec.encode(message)
    with pytest.raises(InvalidMessage, match="Anything has no JSON form"):
        codec.encode(Anything(value=message))


@dataclass(frozen=True)
class Plain:
    value: Any


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        [(1,)],
        {"a": (1,)},
        {1: 2},
        {1},
        Level.LOW,
        {"a": [Level.LOW]},
        Text("a"),
        b"x",
        b"\xff",
        "\ud800",
        ["\ud800", 2**70],
        [float("nan"), 2**70],
        float("nan"),
        float("inf"),
        UUID(int=1),
        Point(x=1, y=1),
        Plain(1),
        object(),
        10**4300,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_would_come_back_different_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"message\.a\[1\]: "):
        codec.encode({"a": [0, Anything(value=value)]})


def test_the_refusal_names_the_field_and_the_types() -> None:
    with pytest.raises(
        InvalidMessage, match=r"different: Anything\.value\.a\.0 is a tuple and would be a list; annotate"
    ):
        codec.encode(Anything(value={"a": [(1,)]}))


def test_a_model_whose_typed_fields_hold_subclasses_is_refused() -> None:
    class Held(BaseModel):
        model_config = FROZEN
        points: frozenset[Any] = frozenset()
        plain: Plain = Plain(1)
        _secret: Any = PrivateAttr(default_factory=object)

    class Open(Held):
        _secret: Any = PrivateAttr(default=None)

    codec = Codec()
    codec.register(Held)
    codec.register(Open)
    assert codec.decode(codec.encode(Open(points=frozenset({1, 2.5})))) == Open(points=frozenset({1, 2.5}))
    for message, named in [
        (Held(), r"Held\._secret"),
        (Open(points=frozenset({Level.LOW})), r"Open\.points\.0 is a Level and would be an int"),
        (Open(plain=Plain((1,))), r"Open\.plain\.value is a tuple and would be a list"),
        (Open.model_construct(points=[1]), r"Open\.points is a list and would be a frozenset"),
    ]:
        with pytest.raises(InvalidMessage, match=named):
            codec.encode(message)


def test_a_field_that_changes_whenever_it_is_read_is_refused() -> None:
    class Growing(BaseModel):
        model_config = FROZEN
        n: float

        @field_validator("n")
        @classmethod
        def grown(cls, n: float) -> float:
            return n + 1

    codec = Codec()
    codec.register(Growing)
    with pytest.raises(InvalidMessage, match=r"Growing\.n would have another value"):
        codec.encode(Growing(n=1))


def test_whatever_a_serializer_raises_becomes_invalid_message() -> None:
    class Broken(BaseModel):
        model_config = FROZEN
        n: int = 1

        @field_serializer("n")
        def broken(self, _: int) -> int:
            raise LookupError("no")

    codec = Codec()
    codec.register(Broken)
    with pytest.raises(InvalidMessage, match="Broken has no JSON form"):
        codec.encode(Broken())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ((), []),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1.0}),
        ([1], [1, 1]),
        ({1: 1}, {True: 1}),
        (float("nan"), float("nan")),
        (Point(x=1, y=0.0), Point(x=1, y=-0.0)),
        (Point(x=1, y=1), Near(x=1, y=1)),
        (Plain(1), Plain(True)),
    ],
    ids=repr,
)
def test_what_differs_only_in_type_or_sign_is_told_apart(one: Any, other: Any) -> None:
    assert _difference(one, other) is not None


# Registering


def test_register_returns_the_model_and_takes_the_same_pair_again() -> None:
    codec = Codec()
    assert codec.register(Point) is Point
    assert codec.register(Point, "Point") is Point
    assert codec.decode(codec.encode(Point(x=1, y=1))) == Point(x=1, y=1)


def test_a_model_travels_under_the_name_it_was_registered_by() -> None:
    codec = Codec()
    codec.register(Point, "geo.point")
    assert codec.encode(Point(x=1, y=1)) == '{"~m":["geo.point",{"x":1,"y":1.0}]}'


@pytest.mark.parametrize(
    ("model", "name", "named"),
    [
        (Point, "Place", "Point is registered as 'Point' already"),
        (Stranger, "Point", r"'Point' is .*test_codec\.Point already; .*another name"),
        (Loose, None, "Loose is not frozen"),
        (Plain, None, "no pydantic model"),
        (Point(x=1, y=1), None, "no pydantic model"),
        (Stranger, "", "must be a string"),
        (Stranger, 7, "must be a string"),
        (Stranger, "\ud800", "must be a string"),
    ],
)
def test_what_cannot_be_registered_is_refused(model: Any, name: Any, named: str) -> None:
    codec = Codec()
    codec.register(Point)
    with pytest.raises(ConfigurationError, match=named):
        codec.register(model, name)


# Decoding what nobody encoded


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "NaN",
        "1e999",
        '"\\ud800"',
        '"\ud800"',
        '["1234567890123456789",NaN]',
        '["1234567890123456789",1e999]',
        '["1234567890123456789","\\ud800"]',
        "1" * 5000,
        "[" * 100_000,
        '{"a":' * 100_000 + "1" * 20,
        '{"~t":[' * 500 + "]}" * 500,
        '{"~t":1}',
        '{"~t":{}}',
        '{"~x":1}',
        '{"~":1}',
        '{"~m":["Point"]}',
        '{"~m":[["Point"],{}]}',
        '{"~m":["Nobody",{}]}',
        '{"~m":["Point",{"x":"no","y":1}]}',
        '{"~m":["Point",null]}',
        '{"~m":["Point",' + "[" * 300 + "]" * 300 + "]}",
        '[{"~m":"Point"}]',
    ],
    ids=lambda text: text[:30].encode("ascii", "backslashreplace").decode(),
)
def test_text_that_is_no_message_is_invalid_message(text: str) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(text)


@pytest.mark.parametrize("thing", [None, 7, b"[1]", ["~"]])
def test_a_thing_that_is_no_text_is_invalid_message(thing: Any) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(thing)


tags = st.sampled_from(["~t", "~m", "~", "~~t", "~x", "a"])
wires = st.recursive(
    st.none() | st.integers() | st.sampled_from(["Point", "Shape", "Anything", "x", "y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags | st.just("x"), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.text(max_size=20) | wires.map(lambda value: repr(value).replace("'", '"').replace("None", "null")))
def test_no_text_makes_decode_raise_anything_but_invalid_message(text: str) -> None:
    try:
        message = codec.decode(text)
    except InvalidMessage:
        return
    assert survives(message)


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(InvalidMessage, match=r"registered as 'Point'; call codec\.register\(Model\) on every node"):
        Codec().decode(codec.encode(Point(x=1, y=1)))


def test_whatever_a_validator_raises_becomes_invalid_message() -> None:
    class Touchy(BaseModel):
        model_config = FROZEN
        n: int

        @field_validator("n")
        @classmethod
        def small(cls, n: int) -> int:
            if n > 1:
                raise LookupError("too large")
            return n

    codec = Codec()
    codec.register(Touchy)
    with pytest.raises(InvalidMessage, match="LookupError"):
        codec.decode('{"~m":["Touchy",{"n":2}]}')


def test_a_refused_model_does_not_show_its_values() -> None:
    with pytest.raises(InvalidMessage, match=r"a Point arrived that it refuses: data\.x") as caught:
        codec.decode('{"~m":["Point",{"x":"secret","y":1}]}')
    assert "secret" not in str(caught.value)
