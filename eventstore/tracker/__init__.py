"""Tracker: who is here, on which node, listed alike everywhere without a leader.

Its core is pure: ``clocks`` order what replicas have seen, ``deltas`` are the pieces of state they exchange, ``state``
is the set itself, ``listing`` is what of it is shown, ``protocol`` is what replicas say and when. ``shard`` runs that
in a task, ``owners`` notices who ends, and ``tracker`` is what applications use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.errors import AlreadyTracked, NoPresence, ShardCrashed
    from eventstore.tracker.clocks import Replica
    from eventstore.tracker.owners import Owner, OwnerRef
    from eventstore.tracker.shard import Handler
    from eventstore.tracker.tracker import Tracker

_HOME_OF = {
    "AlreadyTracked": "eventstore.errors",
    "Handler": "eventstore.tracker.shard",
    "NoPresence": "eventstore.errors",
    "Owner": "eventstore.tracker.owners",
    "OwnerRef": "eventstore.tracker.owners",
    "Replica": "eventstore.tracker.clocks",
    "ShardCrashed": "eventstore.errors",
    "Tracker": "eventstore.tracker.tracker",
}

__all__ = ["AlreadyTracked", "Handler", "NoPresence", "Owner", "OwnerRef", "Replica", "ShardCrashed", "Tracker"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
