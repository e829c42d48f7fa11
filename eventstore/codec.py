"""JSON in and out: what may be stored, and that it comes back equal, types included.

Encoding is orjson where it is exact and the standard library where it is not: orjson knows integers of 64 bits only.
A value is walked once before it is encoded, because every JSON encoder is too lenient for an immutable log: orjson
writes NaN as null and tuples as lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from eventstore.errors import InvalidEvent

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER_DIGITS",
    "check_json",
    "check_text",
    "decode",
    "decoder_of",
    "encode",
    "printable",
]

MAX_DEPTH = 64
"""Depth 1 is the outermost container."""

MAX_INTEGER_DIGITS = 4300
"""CPython's own limit for converting between text and int; longer integers could be written but not read back."""

# Digits to "0", everything else to a space: a run of digits is then found as a substring, ten times as fast as by a
# regular expression, which tries it anew at every digit.
_RUNS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_LONG_RUN = b"0" * 19
_INT64 = 1 << 63
_HUGE = 10**MAX_INTEGER_DIGITS


def encode(value: Any, *, field: str = "data", round_trip: bool = False) -> str:
    """Return *value* as compact JSON text.

    *value* is built of dict with string keys, list, str, int, float, bool and None; a pydantic model is taken by its
    JSON form, with *round_trip* by the one it can be read from again. *field* names the value in errors.

    Raises:
        InvalidEvent: the value holds anything else, NUL, a lone surrogate, NaN, an infinity, an integer beyond
            4,300 digits, or is nested deeper than 64.
    """
    # Most data is a dict, and asking pydantic's metaclass costs more than asking for the type.
    if type(value) is not dict and isinstance(value, BaseModel):
        value = _dumped(value, field, round_trip)
    if _check(value, field, 1):
        return orjson.dumps(value).decode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _dumped(model: BaseModel, field: str, round_trip: bool) -> Any:
    try:
        return model.model_dump(mode="json", round_trip=round_trip)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InvalidEvent(f"{field}: {type(model).__name__} has no JSON form: {error}") from None


def printable(text: str) -> str:
    """Return JSON *text* with what is not printable escaped: JSON leaves controls beyond ASCII as they are, and a
    terminal obeys them.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def decode(text: str) -> Any:
    """Return the value of JSON *text*; integers of any length stay integers."""
    return json.loads(text) if _holds_long_run(text) else orjson.loads(text)


def decoder_of(texts: Iterable[str]) -> Callable[[str], Any]:
    """Return what decodes each of *texts* as `decode` does, asking all of them at once how careful it has to be."""
    return decode if _holds_long_run("".join(texts)) else orjson.loads


def _holds_long_run(text: str) -> bool:
    # orjson reads an integer beyond 64 bits, which has 19 digits at least, as a float, silently.
    return len(text) > 18 and _LONG_RUN in text.encode().translate(_RUNS)


def check_text(value: str, field: str) -> None:
    """Refuse what Postgres cannot store as text.

    Raises:
        InvalidEvent: *value* holds NUL or a lone surrogate.
    """
    if value.isascii():
        if "\0" in value:
            raise InvalidEvent(f"{field}: NUL (U+0000) cannot be stored")
        return
    if "\0" in value:
        raise InvalidEvent(f"{field}: NUL (U+0000) cannot be stored")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(f"{field}: lone surrogates cannot be stored") from None


def check_json(value: Any, field: str = "data") -> None:
    """Refuse what `encode` would refuse (`InvalidEvent`)."""
    _check(value, field, 1)


def _check(value: Any, path: str, depth: int) -> bool:
    """Refuse what must not be stored; tell whether orjson encodes the rest exactly."""
    kind = type(value)
    if kind is str:
        check_text(value, path)
        return True
    if kind is int:
        return _check_integer(value, path)
    if kind is float:
        if not math.isfinite(value):
            raise InvalidEvent(f"{path}: {value} is no JSON number")
        return True
    if value is None or kind is bool:
        return True
    if depth > MAX_DEPTH and kind in (dict, list):
        raise InvalidEvent(f"{path.split('.')[0].split('[')[0]}: nested deeper than {MAX_DEPTH}")
    if kind is dict:
        return _check_object(value, path, depth)
    if kind is list:
        exact = True
        for index, item in enumerate(value):
            exact &= _check(item, f"{path}[{index}]", depth + 1)
        return exact
    raise InvalidEvent(
        f"{path}: {kind.__name__} is not JSON; use dict with string keys, list, str, int, float, bool or None"
    )


def _check_object(value: dict[Any, Any], path: str, depth: int) -> bool:
    exact = True
    for key, item in value.items():
        if type(key) is not str:
            raise InvalidEvent(f"{path}: key {key!r} is not a string")
        check_text(key, f"{path} key")
        exact &= _check(item, f"{path}.{key}", depth + 1)
    return exact


def _check_integer(value: int, path: str) -> bool:
    if -_INT64 <= value < _INT64:
        return True
    if not -_HUGE < value < _HUGE:
        raise InvalidEvent(f"{path}: integers beyond {MAX_INTEGER_DIGITS} digits are refused")
    return False
