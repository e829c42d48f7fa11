"""What survives the wire: plain data, tuples and registered models, as JSON text that reads back equal, types included.

A tuple is written as ``{"~t": [...]}`` and a model as ``{"~m": [name, data]}``. A dict whose only key begins with ``~``
could be taken for one of these, so its key is written with one ``~`` more.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import deque
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from eventstore.codec import MAX_DEPTH, MAX_INTEGER_DIGITS, _holds_long_run
from eventstore.errors import ConfigurationError, InvalidMessage
from eventstore.event_types import _NAMES, _faults

__all__ = ["Codec", "MessageCodec"]

Model = TypeVar("Model", bound=BaseModel)

_MARK, _TUPLE, _MODEL = "~", "~t", "~m"
_MARKED_KEY = f'"{_MARK}'
_CONTAINERS = frozenset({dict, list})
_ATOMS = frozenset({str, int, float, bool, type(None)})
_INT64 = 1 << 63
_HUGE = 10**MAX_INTEGER_DIGITS


class MessageCodec(Protocol):
    """Messages to text and back; what it decodes equals what it was given."""

    def encode(self, message: Any) -> str:
        """Return *message* as text.

        Raises:
            InvalidMessage: it would not arrive as it was sent.
        """

    def decode(self, text: str) -> Any:
        """Return the message that *text* was made of.

        Raises:
            InvalidMessage: it is no such text.
        """


class Codec:
    """JSON, for None, bool, int, float, str, list, dict with string keys, tuple, and frozen pydantic models.

    Types are taken exactly: a subclass of any of them would arrive as something else, so it is refused. Models are
    registered on every node, under the same name.
    """

    def __init__(self) -> None:
        self._models: dict[str, type[BaseModel]] = {}
        self._names: dict[type, str] = {}

    def register(self, model: type[Model], name: str | None = None) -> type[Model]:
        """Let instances of *model* be sent, under *name* (by default the class name); return *model*.

        Registering the same pair again is harmless. It can be used as a decorator.

        Raises:
            ConfigurationError: *model* is no frozen pydantic model, or it or the name is registered otherwise.
        """
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ConfigurationError(f"{model!r} is no pydantic model; messages are pydantic models or plain data")
        if not model.model_config.get("frozen"):
            raise ConfigurationError(
                f"{model.__name__} is not frozen, and messages are shared by who receives them; "
                "set model_config = ConfigDict(frozen=True)"
            )
        self._add(model, model.__name__ if name is None else name)
        return model

    def _add(self, model: type[BaseModel], name: str) -> None:
        if type(name) is not str or not name or not _is_unicode(name):
            raise ConfigurationError(f"a model's name must be a string that is not empty, not {name!r}")
        known, other = self._names.get(model, name), self._models.get(name, model)
        if known != name:
            raise ConfigurationError(f"{model.__name__} is registered as {known!r} already; it cannot be {name!r} too")
        if other is not model:
            raise ConfigurationError(
                f"{name!r} is {other.__module__}.{other.__qualname__} already; "
                f'register {model.__module__}.{model.__qualname__} by codec.register({model.__name__}, "another name")'
            )
        self._models[name], self._names[model] = model, name

    # -- encoding

    def encode(self, message: Any) -> str:
        """Return *message* as compact JSON text.

        Raises:
            InvalidMessage: it holds anything else, a lone surrogate, NaN, an infinity, an integer beyond 4,300 digits,
                a model that would come back different, or is nested deeper than 64.
        """
        try:
            return _dumps(self._wire(message, 1))
        except _Refused as refused:
            raise InvalidMessage(str(refused)) from refused.__cause__

    def _wire(self, value: Any, depth: int) -> Any:
        """Return what *value* is written as: itself, unless a tag is needed somewhere in it."""
        kind = type(value)
        if kind is str:
            if not (value.isascii() or _is_unicode(value)):
                raise _Refused("lone surrogates cannot be sent")
            return value
        if kind is int:
            if not (-_INT64 <= value < _INT64 or -_HUGE < value < _HUGE):
                raise _Refused(f"integers beyond {MAX_INTEGER_DIGITS} digits are refused")
            return value
        if value is None or kind is bool:
            return value
        if kind is float:
            if not math.isfinite(value):
                raise _Refused(f"{value} is no JSON number; send None instead")
            return value
        return self._nested(value, kind, depth)

    def _nested(self, value: Any, kind: type, depth: int) -> Any:
        if kind is not dict and kind is not list and kind is not tuple and kind not in self._names:
            raise _Refused(_cure(value))
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH}; flatten it", absolute=True)
        if kind is dict:
            return self._object(value, depth)
        if kind is list:
            return self._items(value, depth)
        if kind is tuple:
            return {_TUPLE: self._items(value, depth)}
        return {_MODEL: [self._names[kind], self._dumped(value, depth)]}

    def _object(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        wire, key = value, None
        try:
            for key, item in value.items():
                if type(key) is not str:
                    raise _Refused(f"this key is {_a(type(key))}, not a string; use str() on it")
                if not (key.isascii() or _is_unicode(key)):
                    raise _Refused("lone surrogates cannot be sent")
                written = self._wire(item, depth + 1)
                if written is not item:
                    if wire is value:
                        wire = value.copy()
                    wire[key] = written
        except _Refused as refused:
            refused.steps.append(f".{_shown(key)}" if type(key) is str else f"[{key!r}]")
            raise
        if len(wire) == 1 and key is not None and key.startswith(_MARK):
            return {_MARK + key: wire[key]}
        return wire

    def _items(self, value: Any, depth: int) -> Any:
        wire, index = value, 0
        try:
            for index, item in enumerate(value):
                written = self._wire(item, depth + 1)
                if written is not item:
                    if wire is value:
                        wire = list(value)
                    wire[index] = written
        except _Refused as refused:
            refused.steps.append(f"[{index}]")
            raise
        return wire

    def _dumped(self, model: BaseModel, depth: int) -> Any:
        """Return the JSON form of *model*, once it is certain that it reads back equal."""
        name = type(model).__name__
        try:
            data = model.model_dump(mode="json", round_trip=True, by_alias=False, warnings=False)
            if type(data) in _CONTAINERS and _is_deeper(data, MAX_DEPTH - depth + 1):
                raise _Refused(f"nested deeper than {MAX_DEPTH}; flatten it", absolute=True)
            difference = _difference(model, self._read(self._names[type(model)], data))
        except ValidationError as error:
            raise _Refused(f"{name} cannot read its own JSON form: {_faults(error)}") from error
        except _Refused:
            raise
        # Serializers and validators are anybody's code.
        except Exception as error:
            raise _Refused(f"{name} has no JSON form: {type(error).__name__}: {error}") from error
        if difference is not None:
            raise _Refused(f"it would come back different: {name}{difference}; annotate the field with its type")
        return data

    # -- decoding

    def decode(self, text: str) -> Any:
        """Return the message that `encode` made *text* of.

        Raises:
            InvalidMessage: it is no JSON, is tagged as nothing this codec writes, names a model that is not registered,
                or the model refuses its data.
        """
        try:
            value = _loads(text)
            return self._untagged(value) if _MARKED_KEY in text else value
        except InvalidMessage:
            raise
        except ValidationError as error:
            raise InvalidMessage(f"a {error.title} arrived that it refuses: {_faults(error)}") from error
        # Text comes from other nodes, maybe of another release, and validators are anybody's code.
        except Exception as error:
            raise InvalidMessage(f"this is no message: {type(error).__name__}: {error}") from error

    def _untagged(self, value: Any) -> Any:
        if type(value) is dict:
            if len(value) == 1:
                ((key, item),) = value.items()
                if key.startswith(_MARK):
                    return self._tagged(key, item)
            for key, item in value.items():
                if type(item) in _CONTAINERS:
                    value[key] = self._untagged(item)
        elif type(value) is list:
            for index, item in enumerate(value):
                if type(item) in _CONTAINERS:
                    value[index] = self._untagged(item)
        return value

    def _tagged(self, tag: str, content: Any) -> Any:
        if tag.startswith(_MARK * 2):
            return {tag[1:]: self._untagged(content)}
        if tag == _TUPLE and type(content) is list:
            return tuple(self._untagged(content))
        if tag == _MODEL and type(content) is list and len(content) == 2 and type(content[0]) is str:
            return self._read(*content)
        raise InvalidMessage(f"the tag {tag!r} is unknown or holds what it cannot; is it from a newer release?")

    def _read(self, name: str, data: Any) -> BaseModel:
        model = self._models.get(name)
        if model is None:
            raise InvalidMessage(f"no model is registered as {name!r}; call codec.register(Model) on every node")
        # As JSON, because that is what it is: a strict model takes a time from a string only there.
        return model.model_validate_json(_dumps(data), **_NAMES)


class _Refused(Exception):
    """Why a value cannot be sent; who holds the value adds a step, so that the path costs nothing until needed."""

    def __init__(self, reason: str, *, absolute: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.absolute = reason, absolute
        self.steps: list[str] = []

    def __str__(self) -> str:
        # The path to what is nested too deep says little, at length.
        path = "" if self.absolute else "".join(reversed(self.steps))
        return f"message{path}: {self.reason}"


def _dumps(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _loads(text: str) -> Any:
    if not _holds_long_run(text):
        return orjson.loads(text)
    value = json.loads(text)
    # The one that reads long integers is too lenient otherwise: writing refuses the same as orjson would reading.
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(key: str) -> str:
    return key.encode(errors="backslashreplace").decode()


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[:1] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def _cure(value: Any) -> str:
    """Say what is wrong with the type of *value*, and what to do."""
    kind = type(value)
    if not isinstance(value, BaseModel):
        return (
            f"{_a(kind)} cannot be sent; use None, bool, int, float, str, list, tuple, dict with string keys "
            "(exactly these, no subclasses), or a registered model"
        )
    if kind.model_config.get("frozen"):
        return f"{kind.__name__} is not registered; call codec.register({kind.__name__}) on every node"
    return (
        f"{kind.__name__} is not frozen; set model_config = ConfigDict(frozen=True) "
        f"and call codec.register({kind.__name__}) on every node"
    )


def _is_deeper(value: Any, depth: int) -> bool:
    """Tell whether *value*, a JSON container, is nested deeper than *depth*."""
    if depth < 1:
        return True
    for item in value.values() if type(value) is dict else value:
        if type(item) in _CONTAINERS and _is_deeper(item, depth - 1):
            return True
    return False


def _difference(sent: Any, back: Any) -> str | None:
    """Return where *back* is not *sent*, types and signs of zero included, and how; None if nowhere."""
    kind = type(sent)
    if kind is not type(back):
        return f" is {_a(kind)} and would be {_a(type(back))}"
    if kind in _ATOMS or (parts := _parts(sent)) is None:
        equal = sent == back and (kind is not float or math.copysign(1, sent) == math.copysign(1, back))
        return None if equal else " would have another value"
    others = _parts(back)
    if others is None or len(parts) != len(others):
        return " would have another length"
    for (step, part), (other_step, other) in zip(parts, others, strict=True):
        if type(step) is not type(other_step) or step != other_step:
            return " would have other keys"
        if (found := _difference(part, other)) is not None:
            return f".{step}{found}"
    return None


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Return what *value* is made of, named; None for what is one piece."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return list(enumerate(sorted(value, key=lambda item: (hash(item), repr(item)))))
    # After the containers, because asking pydantic's metaclass takes longer than all of them.
    if isinstance(value, BaseModel):
        # Not all of __dict__: cached properties are in there, too.
        fields = [(name, value.__dict__.get(name)) for name in type(value).__pydantic_fields__]
        return [*fields, *(value.__pydantic_extra__ or {}).items(), *(value.__pydantic_private__ or {}).items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None
