"""Sinks: where subscriptions without Python code deliver.

A target names one: ``pubsub:<topic>``, ``https://…``, ``http://…`` or ``stdout``. It is stored with the subscription,
so it is checked when that is created (`check_sink`), and opened on each node that delivers (`open_sink`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eventstore.errors import ConfigurationError, DeliveryFailed
from eventstore.sinks.sink import Sink
from eventstore.sinks.stdout import Stdout
from eventstore.sinks.topic import Topic
from eventstore.sinks.webhook import Webhook

if TYPE_CHECKING:
    from eventstore.pubsub import PubSub

__all__ = ["DeliveryFailed", "Sink", "check_sink", "open_sink"]

NONE: Final[Mapping[str, Any]] = MappingProxyType({})


def check_sink(target: str, options: Mapping[str, Any] = NONE) -> None:
    """Refuse a target or options that no sink can be made of. Nothing is opened, imported or read.

    Raises:
        ConfigurationError: the message names what is wrong, and repeats no part that may be secret.
    """
    _kind_of(target).check(target, options)


def open_sink(target: str, options: Mapping[str, Any], pubsub: PubSub) -> Sink:
    """Return the sink of *target*; it delivers inside ``async with``, for any number of tasks at a time.

    Raises:
        ConfigurationError: as `check_sink`; or a package or an environment variable that it needs is missing here.
    """
    kind = _kind_of(target)
    kind.check(target, options)
    if kind is Topic:
        return Topic(target, pubsub)
    return Webhook(target, options) if kind is Webhook else Stdout()


def _kind_of(target: object) -> type[Topic | Webhook | Stdout]:
    if not isinstance(target, str):
        raise ConfigurationError(f"a sink's target is a text, not {type(target).__name__}")
    if target == "stdout":
        return Stdout
    if target.startswith("pubsub:"):
        return Topic
    if re.match(r"https?:", target, re.IGNORECASE):
        return Webhook
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,19}(?=:)", target)
    given = f"no sink delivers to {scheme[0]}: targets" if scheme else "that is no sink's target"
    raise ConfigurationError(f"{given}; there are pubsub:<topic>, https://…, http://… and stdout")
