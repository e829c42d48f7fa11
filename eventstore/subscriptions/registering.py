"""From the functions of an application to what emitters call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

from eventstore.errors import ConfigurationError
from eventstore.events import Event
from eventstore.subscriptions.delivery import Call, Delivery, Middleware, Registration

__all__ = ["batches", "check_batch_size", "check_callable", "projections", "singles", "wrapped"]

MOST_IN_A_BATCH = 10_000


def check_callable(name: str, function: object, arguments: int | tuple[int, ...], shape: str) -> int:
    """Refuse what is no async function of so many arguments (`ConfigurationError`); return how many it takes."""
    if not asyncio.iscoroutinefunction(function) and not asyncio.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - it may be an object whose __call__ is async
    ):
        raise ConfigurationError(f"the handler of {name!r} must be an async function")
    problem: TypeError | None = None
    for count in sorted((arguments,) if isinstance(arguments, int) else arguments, reverse=True):
        try:
            inspect.signature(function).bind(*[None] * count)  # type: ignore[arg-type]
        except TypeError as error:
            problem = error
        else:
            return count
    raise ConfigurationError(f"the handler of {name!r} is called with {shape}: {problem}") from None


def check_batch_size(name: str, batch_size: object) -> None:
    """Refuse what is no number of events (`ConfigurationError`)."""
    if type(batch_size) is not int or not 1 <= batch_size <= MOST_IN_A_BATCH:
        raise ConfigurationError(f"batch_size of {name!r} must be between 1 and {MOST_IN_A_BATCH}, not {batch_size!r}")


def singles(function: Callable[..., Awaitable[object]]) -> Call:
    """Return the call of a handler of one event."""

    def call(events: list[Event], delivery: Delivery, _transaction: Any) -> Awaitable[object]:
        return function(events[0], delivery)

    return call


def batches(function: Callable[..., Awaitable[object]]) -> Call:
    """Return the call of a handler of several events."""

    def call(events: list[Event], delivery: Delivery, _transaction: Any) -> Awaitable[object]:
        return function(events, delivery)

    return call


def projections(function: Callable[..., Awaitable[object]], arguments: int) -> Call:
    """Return the call of a projection that takes the connection, and perhaps the delivery."""

    def call(events: list[Event], delivery: Delivery, transaction: Any) -> Awaitable[object]:
        return function(events, transaction, delivery) if arguments == 3 else function(events, transaction)

    return call


def wrapped(registration: Registration, middleware: Iterable[Middleware]) -> Registration:
    """Return *registration* with the middleware around it, the first one outermost."""
    around = list(middleware)
    if not around:
        return registration
    return replace(registration, call=reduce(lambda call, one: one(call), reversed(around), registration.call))
