"""Tracker: who is here, on which node, listed alike everywhere without a leader.

Its core is pure: ``clocks`` order what replicas have seen, ``deltas`` are the pieces of state they exchange, ``state``
is the set itself, ``listing`` is what of it is shown, ``protocol`` is what replicas say and when. ``shard`` runs that
in a task, ``owners`` notices who ends, and ``tracker`` is what applications use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.lazily import lazy

if TYPE_CHECKING:
    from eventstore.errors import AlreadyTracked, NoPresence, ShardCrashed
    from eventstore.tracker.clocks import Replica
    from eventstore.tracker.owners import Owner, OwnerRef
    from eventstore.tracker.shard import Handler
    from eventstore.tracker.tracker import Tracker

__all__ = ["AlreadyTracked", "Handler", "NoPresence", "Owner", "OwnerRef", "Replica", "ShardCrashed", "Tracker"]

_HOMES = {
    "eventstore.tracker.clocks": ("Replica",),
    "eventstore.tracker.owners": ("Owner", "OwnerRef"),
    "eventstore.tracker.shard": ("Handler",),
    "eventstore.tracker.tracker": ("Tracker",),
}

if not TYPE_CHECKING:  # or checkers would take any name for one of the package
    __getattr__, __dir__ = lazy(globals(), _HOMES)
