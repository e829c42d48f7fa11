"""Typed events: which pydantic model stands for a type and schema version, and the upcasters between versions."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import VERSION as PYDANTIC_VERSION
from pydantic import BaseModel, ValidationError

from eventstore.codec import check_json
from eventstore.errors import ConfigurationError, UnreadableEvent

__all__ = ["EventTypes", "event_type", "event_types", "upcaster"]

Model = TypeVar("Model", bound=BaseModel)
Upcaster = TypeVar("Upcaster", bound=Callable[[Any], Any])

# A model is stored under its field names, so they are read as well as aliases; pydantic offers that from 2.11 on.
_NAMES: Final[dict[str, Any]] = (
    {"by_alias": True, "by_name": True} if tuple(map(int, PYDANTIC_VERSION.split(".")[:2])) >= (2, 11) else {}
)


class EventTypes:
    """Which pydantic model stands for an event type at a schema version, and how older data becomes newer.

    A model is registered under a type name and a schema version, which counts from 1. An upcaster leads from one
    version to the next; reading chains them. Modules may register in any order, so what is missing between them is
    found by `check` and by reading, not by the decorators.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, int], type[BaseModel]] = {}
        self._places: dict[type, tuple[str, int]] = {}
        self._newest: dict[str, int] = {}
        self._upcasters: dict[tuple[str, int], Callable[[Any], Any]] = {}

    def event_type(self, name: str | None = None, *, version: int = 1) -> Callable[[type[Model]], type[Model]]:
        """Register the decorated pydantic model under *name* (by default the class name) and schema *version*.

        Registering a class again is harmless; a class of the same module and name, as a reload makes it, replaces it.

        Raises:
            ConfigurationError: another class has that name and version, the class has another name or version, it is
                no pydantic model, or *version* is no integer from 1.
        """
        _check_place(name, version, 'write @event_type() or @event_type("Name")')

        def register(model: type[Model]) -> type[Model]:
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise ConfigurationError(f"{_called(model)} is no pydantic model, so it cannot stand for an event type")
            self._add(model, (name or model.__name__, version))
            return model

        return register

    def _add(self, model: type[BaseModel], place: tuple[str, int]) -> None:
        known, other = self._places.get(model, place), self._models.get(place, model)
        if known != place:
            raise ConfigurationError(
                f"{_called(model)} is {_shown(known)} already; it cannot be {_shown(place)} as well"
            )
        if not _same_origin(model, other):
            raise ConfigurationError(
                f"{_shown(place)} is {_called(other)} already; it cannot be {_called(model)} as well"
            )
        # A class that a reload replaced keeps its place: its instances must not be written as version 1.
        self._models[place] = model
        self._places[model] = place
        self._newest[place[0]] = max(place[1], self._newest.get(place[0], 1))

    def upcaster(self, name: str, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Register the decorated function, which turns data of *from_version* into data of the version after it.

        It takes the data as plain JSON values and returns it as such; it may change what it is given. A function of the
        same module and name, as a reload makes it, replaces it.

        Raises:
            ConfigurationError: another function is registered there, it is a coroutine function or cannot be called, or
                *from_version* is no integer from 1.
        """
        _check_place(name, from_version, 'write @upcaster("Name", from_version=1)')

        def register(function: Upcaster) -> Upcaster:
            if not callable(function) or _is_async(function):
                raise ConfigurationError(
                    f"upcaster {_called(function)} must be a plain function, not a coroutine function"
                )
            other = self._upcasters.get((name, from_version), function)
            if not _same_origin(function, other):
                raise ConfigurationError(
                    f"{_shown((name, from_version))} has the upcaster {_called(other)} already; "
                    f"{_called(function)} cannot be a second one"
                )
            self._upcasters[name, from_version] = function
            return function

        return register

    def registered(self) -> list[tuple[str, int, type[BaseModel]]]:
        """Return name, schema version and model of all that is registered, sorted."""
        return [(*place, self._models[place]) for place in sorted(self._models)]

    def registration(self, model: type) -> tuple[str, int] | None:
        """Return the type name and schema version of exactly this class, None if it is not registered."""
        return self._places.get(model)

    def check(self) -> None:
        """Refuse gaps; for a test, or for a program that has imported all its models.

        Raises:
            ConfigurationError: an upcaster is missing between two versions, or leads to a version without a model.
        """
        for name in sorted({place[0] for place in (*self._models, *self._upcasters)}):
            starts = {version for other, version in self._upcasters if other == name}
            models = {version for other, version in self._models if other == name}
            newest = max(models, default=0)
            if starts and max(starts) >= newest:
                raise ConfigurationError(
                    f"{_called(self._upcasters[name, max(starts)])} leads to {_shown((name, max(starts) + 1))}, "
                    f"but {_shown((name, newest)) if newest else 'no version'} is the newest that has a model"
                )
            for version in range(min(starts | models), newest):
                if version not in starts:
                    raise ConfigurationError(
                        f"no upcaster leads from {_shown((name, version))} to {_shown((name, version + 1))}"
                    )

    @contextmanager
    def isolated(self) -> Iterator[EventTypes]:
        """Forget, at the end of the block, what was registered within it; for tests."""
        saved = self._models, self._places, self._newest, self._upcasters
        self._models, self._places = self._models.copy(), self._places.copy()
        self._newest, self._upcasters = self._newest.copy(), self._upcasters.copy()
        try:
            yield self
        finally:
            self._models, self._places, self._newest, self._upcasters = saved

    def read(
        self, name: str, version: int, data: Any, *, position: int, model: type[BaseModel] | None = None
    ) -> BaseModel:
        """Return stored *data* as the newest model of the type, or as *model*; see `Event.as_model`.

        Raises:
            UnreadableEvent: no model is registered, the data cannot be brought to its version, or it refuses the data.
        """
        unreadable = partial(UnreadableEvent, name, version, position)
        if model is None and name not in self._newest:
            raise unreadable(
                f'no model is registered for it; decorate one with @event_type("{name}"), or import its module'
            )
        model = model or self._models[name, self._newest[name]]
        known, target = self._places.get(model, (name, version))
        if known != name:
            target = version
        if version > target:
            raise unreadable(f"it is newer than version {target}, {_called(model)}; a newer release can read it")
        chain = [self._step(name, older, unreadable) for older in range(version, target)]
        return _validated(model, _upcast(data, chain, unreadable) if chain else data, unreadable)

    def _step(self, name: str, version: int, unreadable: Callable[[str], UnreadableEvent]) -> Callable[[Any], Any]:
        step = self._upcasters.get((name, version))
        if step is None:
            raise unreadable(
                f"no upcaster leads from version {version} to {version + 1}; "
                f'decorate one with @upcaster("{name}", from_version={version})'
            )
        return step


event_types: Final = EventTypes()
"""The registry of this process: what `NewEvent` and `Event.as_model` look into."""

event_type: Final = event_types.event_type
upcaster: Final = event_types.upcaster


def _check_place(name: object, version: object, cure: str) -> None:
    if name is not None and (type(name) is not str or not name):
        raise ConfigurationError(f"an event type's name must be a string that is not empty, not {name!r}; {cure}")
    if type(version) is not int or version < 1:
        raise ConfigurationError(f"schema versions of {name!r} are integers from 1, not {version!r}")


def _shown(place: tuple[str, int]) -> str:
    return f"{place[0]!r} version {place[1]}"


def _called(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"


def _same_origin(one: Any, other: Any) -> bool:
    # Functions called _ and lambdas share their names with others, so their name is no evidence of a reload.
    return one is other or (_called(one) == _called(other) and getattr(one, "__name__", "_") not in ("_", "<lambda>"))


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _upcast(data: Any, chain: list[Callable[[Any], Any]], unreadable: Callable[[str], UnreadableEvent]) -> Any:
    # Everyone who is handed this event shares its data, and an upcaster may change what it is given.
    data = _copied(data)
    for step in chain:
        try:
            newer = step(data)
            check_json(newer)
        except Exception as error:
            raise unreadable(f"its upcaster {_called(step)} failed: {type(error).__name__}: {error}") from error
        if newer is None and data is not None:
            raise unreadable(f"its upcaster {_called(step)} returned None; an upcaster returns the newer data")
        data = newer
    return data


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) is list:
        return [_copied(item) for item in value]
    return value


def _validated(model: type[BaseModel], data: Any, unreadable: Callable[[str], UnreadableEvent]) -> BaseModel:
    # As JSON, because that is what it is: a strict model takes a time from a string only there. It copies, too.
    try:
        return model.model_validate_json(json.dumps(data), **_NAMES)
    except ValidationError as error:
        raise unreadable(f"{_called(model)} refuses its data: {_faults(error)}") from error
    except Exception as error:
        raise unreadable(f"{_called(model)} failed: {type(error).__name__}: {error}") from error


def _faults(error: ValidationError) -> str:
    # Values are left out: data may be confidential, and messages end up in logs.
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [".".join(map(str, ("data", *fault["loc"]))) + ": " + fault["msg"] for fault in faults[:3]]
    return "; ".join(shown) + ("; …" if len(faults) > 3 else "")
