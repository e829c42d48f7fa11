"""One batcher for all applications of a process that are installed on one store: each would hear of every request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from eventstore.analytics.batching import CLOSED_WITHIN, Batcher

if TYPE_CHECKING:
    from eventstore.store import EventStore

__all__ = ["join", "leave"]


@dataclass(slots=True)
class _Shared:
    batcher: Batcher
    users: set[object] = field(default_factory=set)


_shared: WeakKeyDictionary[EventStore, _Shared] = WeakKeyDictionary()


def join(store: EventStore, user: object, make: Callable[[], Batcher]) -> Batcher:
    """Return the batcher of *store*, made by the first that asks; *user* says `leave` when it needs it no more."""
    one = _shared.get(store)
    if one is None:
        one = _shared[store] = _Shared(make())
    one.users.add(user)
    return one.batcher


async def leave(store: EventStore, user: object, batcher: Batcher) -> None:
    """Give *batcher* up: the last closes it; the others see to it that what was gathered is stored by then.

    Saying it twice is fine: the second call waits for the same end.
    """
    one = _shared.get(store)
    if one is not None and one.batcher is batcher:
        one.users.discard(user)
        if one.users:
            with suppress(TimeoutError):  # it goes on trying
                async with asyncio.timeout(CLOSED_WITHIN):
                    await batcher.flush()
            return
        del _shared[store]
    await batcher.close()
