"""What JSON values match: patterns, and the comparisons that they are made of.

What decides in memory here, ``pattern_checks_v1`` and its like decide in SQL, and both must decide alike. ``true`` is
never 1, but 1.0 is; numbers compare by the decimal value of their text, as Postgres compares ``numeric``, not by the
binary value of a float; strings compare by code point.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, TypeAlias

from eventstore.codec import encode
from eventstore.errors import InvalidEvent, InvalidSelector

__all__ = ["Check", "check_of", "check_pattern", "every"]

Check: TypeAlias = Callable[[Any], bool]
"""What is asked of one JSON value."""

_MISSING: Final = object()
"""The value of a key that is not there; equal to no JSON value."""

_EXACT: Final = 1 << 53
"""Up to here every integer is a float of the same decimal value, so Python compares both exactly by itself."""


def check_pattern(value: object) -> dict[str, Any]:
    """Return *value* in canonical form if it is a pattern (`InvalidSelector`); what was given is left alone."""
    if type(value) is not dict:
        raise InvalidSelector(f"pattern must be a dict, not {type(value).__name__}")
    try:
        encode(value, field="pattern")
    except InvalidEvent as error:
        raise InvalidSelector(str(error)) from None
    _check_operators(value, "pattern")
    return {key: _canonical(part) for key, part in value.items()}


def _check_operators(pattern: dict[str, Any], path: str) -> None:
    operators = [key for key in pattern if key.startswith("$")]
    if operators and len(operators) < len(pattern):
        raise InvalidSelector(f"{path}: mixes {operators[0]} with plain keys")
    for key, part in pattern.items():
        if not operators:
            if type(part) is dict:
                _check_operators(part, f"{path}.{key}")
        elif key not in _OPERATORS:
            raise InvalidSelector(f"{path}.{key}: unknown operator; there are {' '.join(_OPERATORS)}")
        elif type(part) is not {"$in": list, "$exists": bool}.get(key, type(part)):
            raise InvalidSelector(f"{path}.{key}: needs {'a list' if key == '$in' else 'true or false'}")


def _canonical(value: Any) -> Any:
    """Write equal numbers alike, and as they come back from a jsonb column: 1e23 becomes 10**23, -0.0 becomes 0."""
    if type(value) is float:
        return _decimal(int(value) if abs(value) <= _EXACT else value) if value.is_integer() else value
    if type(value) is list:
        return [_canonical(item) for item in value]
    return {key: _canonical(item) for key, item in value.items()} if type(value) is dict else value


def every(checks: Iterable[Check]) -> Check:
    """Return the check that all of *checks* hold."""
    several = tuple(checks)
    if len(several) == 1:
        return several[0]

    def matches(value: Any) -> bool:
        for check in several:  # noqa: SIM110 - a generator costs more than the checks
            if not check(value):
                return False
        return True

    return matches


def check_of(pattern: Any) -> Check:
    """Compile a pattern, or any part of one, that `check_pattern` returned."""
    if type(pattern) is not dict:
        return _equal_to(pattern)
    if any(key.startswith("$") for key in pattern):
        return every([_OPERATORS[key](operand) for key, operand in pattern.items()])
    checks = tuple((key, check_of(part)) for key, part in pattern.items())

    def matches(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for key, check in checks:  # noqa: SIM110 - a generator costs more than the checks
            if not check(value.get(key, _MISSING)):
                return False
        return True

    return matches


def _decimal(number: Any) -> Any:
    """Return what compares with other results of this as the decimal text of *number* would."""
    # The text of a float beyond 2**53 is an integer again, though seldom the one that its bits stand for.
    if type(number) is not float or -_EXACT <= number <= _EXACT or math.isinf(number):
        return number
    return int(Decimal(repr(number)))


def _json_type(value: Any) -> type:
    kind = type(value)
    return float if kind is int else kind


def _equal_to(operand: Any) -> Check:
    kind = type(operand)
    if kind is str:
        return lambda value: value == operand
    if kind is int or kind is float:
        return lambda value: _json_type(value) is float and _decimal(value) == operand
    if kind is list or kind is dict:
        items = operand.items() if kind is dict else enumerate(operand)
        return _equal_items(kind, {key: _equal_to(item) for key, item in items})
    return lambda value: value is operand


def _equal_items(kind: Any, items: dict[Any, Check]) -> Check:
    """Every item of a list (by index) or a dict (by key) equals, and there are no others."""

    def matches(value: Any) -> bool:
        if type(value) is not kind or len(value) != len(items):
            return False
        there = value if kind is dict else range(len(value))
        return all(key in there and check(value[key]) for key, check in items.items())

    return matches


def _unequal_to(operand: Any) -> Check:
    kind, equal = _json_type(operand), _equal_to(operand)
    return lambda value: _json_type(value) is kind and not equal(value)


def _one_of(operand: list[Any]) -> Check:
    texts = frozenset(item for item in operand if type(item) is str)
    checks = [_equal_to(item) for item in operand if type(item) is not str]
    return lambda value: value in texts if type(value) is str else any(check(value) for check in checks)


def _exists(operand: bool) -> Check:
    return lambda value: (value is not _MISSING) is operand


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Check]:
    def ordered(operand: Any) -> Check:
        kind = _json_type(operand)
        if kind is str:
            return lambda value: type(value) is str and compare(value, operand)
        return lambda value: kind is float and _json_type(value) is float and compare(_decimal(value), operand)

    return ordered


_OPERATORS: Final[dict[str, Callable[[Any], Check]]] = {
    "$eq": _equal_to,
    "$ne": _unequal_to,
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$in": _one_of,
    "$exists": _exists,
}
