"""What a sink is, how it fails, and an event as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from eventstore.errors import ConfigurationError
from eventstore.events import Event

__all__ = ["Sink", "check_options", "escaped", "iso", "record"]


class Sink(Protocol):
    """Delivers events to somewhere else, inside ``async with``.

    Attributes:
        batch_size: how many events a call takes at most.
    """

    batch_size: int

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    async def deliver(self, events: Sequence[Event], *, subscription: str, attempt: int) -> None:
        """Deliver *events* in their order. Returns: they were taken. Raises: they were not, or not all of them."""


def check_options(options: Mapping[str, Any], known: Iterable[str], target: str) -> None:
    """Refuse an option that *target* does not know; its value is not repeated (`ConfigurationError`)."""
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"a sink's options are a dict, not {type(options).__name__}")
    known = list(known)
    if unknown := sorted(map(str, options.keys() - set(known))):
        there_are = f"there are {', '.join(known)}" if known else "it has none"
        raise ConfigurationError(f"{target} has no option {unknown[0]!r}; {there_are}")


def record(event: Event) -> dict[str, Any]:
    """Return *event* as JSON values, in the form of ``eventstore read --json``."""
    return {
        "id": str(event.id),
        "type": event.type,
        "stream": event.stream,
        "version": event.version,
        "position": event.position,
        "data": event.data,
        "metadata": event.metadata,
        "tags": list(event.tags),
        "created_at": iso(event.created_at),
        "recorded_at": iso(event.recorded_at),
    }


def iso(moment: datetime) -> str:
    """Return *moment* in UTC as RFC 3339 has it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def escaped(text: str, most: int = 200) -> str:
    """Return the first *most* characters of *text* on one line: it comes from others, and goes to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
