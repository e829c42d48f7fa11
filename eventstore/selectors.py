"""Which events: one algebra for reads, subscriptions and append conditions.

::

    EventType("OrderPlaced") & Tags("customer:7") | EventPayload({"tier": "VIP", "total": {"$gt": 10000}})

A selector decides in memory (``matches``) and in SQL (``selector_sql_v1`` on the JSON that `dump` writes), and both
must decide alike for every event. `EventPayload` describes patterns; `eventstore.patterns` compares JSON values.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from eventstore.codec import MAX_DEPTH, check_text, decode
from eventstore.errors import InvalidEvent, InvalidSelector
from eventstore.events import MAX_NAME_LENGTH, MAX_TAG_LENGTH, Event
from eventstore.patterns import check_of, check_pattern, every

__all__ = [
    "All",
    "And",
    "EventPattern",
    "EventPayload",
    "EventType",
    "Or",
    "Selector",
    "Stream",
    "Tags",
    "check_selector",
    "dump",
    "load",
]

# What is asked of an event.
Matcher: TypeAlias = Callable[[Event], bool]


def _name(value: object, what: str, limit: int) -> str:
    if type(value) is not str:
        raise InvalidSelector(f"{what} must be a string, not {type(value).__name__}")
    if not 1 <= len(value) <= limit:
        raise InvalidSelector(f"{what} must have 1 to {limit} characters, this has {len(value)}")
    try:
        check_text(value, what)
    except InvalidEvent as error:
        raise InvalidSelector(str(error)) from None
    return value


def _names(value: object, what: str, limit: int) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidSelector(f"{what} must be a list of strings, and not empty")
    return tuple(sorted({_name(one, f"{what}[{index}]", limit) for index, one in enumerate(value)}))


class _Base(BaseModel):
    """What every selector can do; equality and hash go by `dump`, because to a dict True equals 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidSelector(f"{type(self).model_fields['kind'].default}: {_first_of(error)}") from None

    @cached_property
    def matches(self) -> Matcher:
        """Tell whether an event is selected: ``selector.matches(event)``."""
        # The compiled closure, not a method around it: this is called for every event and subscription.
        return self._compile()

    def _compile(self) -> Matcher:
        raise NotImplementedError

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.model_dump(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @model_serializer(mode="plain")
    def _serialize(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in fields.items() if value is not None}

    def __and__(self, other: _Base) -> And:
        return And(self, other) if isinstance(other, _Base) else NotImplemented

    def __or__(self, other: _Base) -> Or:
        return Or(self, other) if isinstance(other, _Base) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, _Base) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Any:
        # Without what was compiled: model_copy(update=…) changes fields after it.
        return load(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self._text,)


class All(_Base):
    """Every event."""

    kind: Literal["all"] = "all"

    def _compile(self) -> Matcher:
        return lambda event: True


class Stream(_Base):
    """The events of one stream."""

    kind: Literal["stream"] = "stream"
    stream: Annotated[str, BeforeValidator(lambda value: _name(value, "stream", MAX_NAME_LENGTH))]

    def __init__(self, stream: str = "", /, **fields: Any) -> None:
        super().__init__(**{"stream": stream} | fields)

    def _compile(self) -> Matcher:
        stream = self.stream
        return lambda event: event.stream == stream


class EventType(_Base):
    """Events of one of these types."""

    kind: Literal["event_type"] = "event_type"
    types: Annotated[tuple[str, ...], BeforeValidator(lambda value: _names(value, "types", MAX_NAME_LENGTH))]

    def __init__(self, /, *types: str, **fields: Any) -> None:
        super().__init__(**{"types": types} | fields)

    def _compile(self) -> Matcher:
        types = frozenset(self.types)
        return lambda event: event.type in types


class Tags(_Base):
    """Events that carry all of these tags, or any of them."""

    kind: Literal["tags"] = "tags"
    tags: Annotated[tuple[str, ...], BeforeValidator(lambda value: _names(value, "tags", MAX_TAG_LENGTH))]
    match: Literal["all", "any"] = "all"

    def __init__(self, /, *tags: str, **fields: Any) -> None:
        super().__init__(**{"tags": tags} | fields)

    def _compile(self) -> Matcher:
        tags = frozenset(self.tags)
        if len(tags) == 1:
            (only,) = tags
            return lambda event: only in event.tags
        if self.match == "all":
            return lambda event: tags.issubset(event.tags)
        return lambda event: not tags.isdisjoint(event.tags)


class EventPattern(_Base):
    """Events by the name of their stream, or by a part of their record.

    A string is a glob for the stream name: ``*`` is any run of characters, ``?`` is one, everything else is literal.
    A dict is a pattern, as in `EventPayload`, for the record with the fields ``id``, ``stream``, ``version``,
    ``position``, ``type``, ``data``, ``metadata``, ``tags``, ``created_at`` and ``recorded_at``; times are UTC text
    like ``2026-01-02T03:04:05.000006Z``, ids lower-case text.
    """

    kind: Literal["event_pattern"] = "event_pattern"
    glob: str | None = None
    pattern: dict[str, Any] | None = None

    def __init__(self, pattern: str | dict[str, Any] | None = None, /, **fields: Any) -> None:
        # A null is given only if a caller names it, and then it is refused, as SQL does.
        given = {} if pattern is None else {"pattern" if isinstance(pattern, dict) else "glob": pattern}
        super().__init__(**given | fields)

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if ("glob" in fields) == ("pattern" in fields):
            raise InvalidSelector("needs a glob or a pattern, and not both")
        if "glob" in fields:
            return fields | {"glob": _name(fields["glob"], "glob", MAX_NAME_LENGTH)}
        checked = check_pattern(fields["pattern"])
        for field in checked.keys() - _RECORD.keys():
            raise InvalidSelector(f"pattern.{field}: events have no such field; there are {' '.join(_RECORD)}")
        return fields | {"pattern": checked}

    def _compile(self) -> Matcher:
        if self.glob is not None:
            return _glob(self.glob)
        return every([_field(name, part) for name, part in (self.pattern or {}).items()])


class EventPayload(_Base):
    """Events whose data match a pattern.

    An object matches an object that has every key of the pattern, each with a value that matches; anything else
    matches what equals it. An object of operators (``$eq $ne $gt $gte $lt $lte $in $exists``) matches if each of them
    does: ``$ne`` needs a value of the same JSON type, ``$gt`` and its like two numbers or two strings, and only
    ``{"$exists": False}`` matches a key that is not there.
    """

    kind: Literal["event_payload"] = "event_payload"
    pattern: Annotated[dict[str, Any], BeforeValidator(check_pattern)]

    def __init__(self, pattern: dict[str, Any] | None = None, /, **fields: Any) -> None:
        super().__init__(**{"pattern": pattern} | fields)

    def _compile(self) -> Matcher:
        check = check_of(self.pattern)
        return lambda event: check(event.data)


class _Combined(_Base):
    of: tuple[Selector, ...]

    @field_validator("of", mode="before")
    @classmethod
    def _check(cls, value: object) -> object:
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidSelector("of must be a list of selectors, and not empty")
        _check_levels(value, 2)
        return value

    @field_validator("of", mode="after")
    @classmethod
    def _flatten(cls, value: tuple[Selector, ...]) -> tuple[Selector, ...]:
        return tuple(one for part in value for one in (part.of if isinstance(part, cls) else (part,)))


class And(_Combined):
    """Events that all of these select: ``a & b``."""

    kind: Literal["and"] = "and"

    def __init__(self, /, *of: _Base, **fields: Any) -> None:
        super().__init__(**{"of": of} | fields)

    def _compile(self) -> Matcher:
        return every([one.matches for one in self.of])


class Or(_Combined):
    """Events that at least one of these selects: ``a | b``."""

    kind: Literal["or"] = "or"

    def __init__(self, /, *of: _Base, **fields: Any) -> None:
        super().__init__(**{"of": of} | fields)

    def _compile(self) -> Matcher:
        matchers = tuple(one.matches for one in self.of)

        def matches(event: Event) -> bool:
            for matcher in matchers:  # noqa: SIM110 - a generator costs more than the matchers
                if matcher(event):
                    return True
            return False

        return matches


Selector: TypeAlias = Annotated[
    All | Stream | EventType | EventPattern | EventPayload | Tags | And | Or, Field(discriminator="kind")
]
"""Any selector; as a field of another pydantic model it is validated and serialized by its ``kind``."""

And.model_rebuild()
Or.model_rebuild()
_adapter: TypeAdapter[Selector] = TypeAdapter(Selector)

_CLASSES: Final = (All, Stream, EventType, EventPattern, EventPayload, Tags, And, Or)
_KINDS: Final = ", ".join(one.model_fields["kind"].default for one in _CLASSES)


def check_selector(selector: object) -> Selector:
    """Return *selector* if it is one (`InvalidSelector`)."""
    if not isinstance(selector, _CLASSES):
        raise InvalidSelector(
            f"a selector is All(), Stream(…), EventType(…) or the like, not {type(selector).__name__}"
        )
    return selector


def dump(selector: Selector) -> str:
    """Return *selector* as canonical compact JSON: equal selectors give equal text."""
    return selector._text


def load(source: object) -> Selector:
    """Return the selector that *source* describes: JSON text, or what such text decodes to.

    Raises:
        InvalidSelector: it describes none; the message names the part and the rule.
    """
    try:
        given = decode(source) if isinstance(source, str) else source
    except (ValueError, RecursionError) as error:
        raise InvalidSelector(f"not JSON: {error}") from None
    try:
        return _adapter.validate_python(given)
    except ValidationError as error:
        raise InvalidSelector(_first_of(error)) from None


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where, context = first["loc"], first.get("ctx", {})
    if isinstance(context.get("error"), InvalidSelector):
        message = str(context["error"])
    elif first["type"] == "union_tag_invalid":
        message = f"unknown kind {context['tag'][:40]!r}; there are {_KINDS}"
    elif first["type"] in ("union_tag_not_found", "model_attributes_type"):
        message = f"a selector is an object with a kind: {_KINDS}"
    else:
        return ": ".join([*filter(None, [".".join(map(str, where))]), first["msg"]])
    # The one place below a field is a part of a combination.
    return f"{where[0]}[{where[1]}]: {message}" if len(where) > 1 else message


def _check_levels(parts: Iterable[object], level: int) -> None:
    # Ahead of pydantic, because an overflow of the stack inside it could not be refused by name.
    if level > MAX_DEPTH:
        raise InvalidSelector(f"nested deeper than {MAX_DEPTH}")
    for part in parts:
        inner = part.get("of") if isinstance(part, dict) else getattr(part, "of", None)
        if isinstance(inner, (list, tuple)):
            _check_levels(inner, level + 1)


def _glob(glob: str) -> Matcher:
    head, *tail = [re.escape(part).replace(r"\?", ".") for part in glob.split("*")]
    if not tail:
        expression = head
    elif tail == [""] and "?" not in glob:
        prefix = glob[:-1]
        return lambda event: event.stream is not None and event.stream.startswith(prefix)
    else:
        # Each run is taken where it is first found and never given back: no pattern is slower than linear.
        *middle, last = tail
        expression = head + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last
    fits = re.compile(expression, re.DOTALL).fullmatch
    return lambda event: event.stream is not None and fits(event.stream) is not None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_RECORD: Final[dict[str, Callable[[Event], Any]]] = {
    "id": lambda event: str(event.id),
    "stream": operator.attrgetter("stream"),
    "version": operator.attrgetter("version"),
    "position": operator.attrgetter("position"),
    "type": operator.attrgetter("type"),
    "data": operator.attrgetter("data"),
    "metadata": operator.attrgetter("metadata"),
    "tags": lambda event: list(event.tags),
    "created_at": lambda event: _iso(event.created_at),
    "recorded_at": lambda event: _iso(event.recorded_at),
}


def _field(name: str, pattern: Any) -> Matcher:
    value, check = _RECORD[name], check_of(pattern)
    return lambda event: check(value(event))
