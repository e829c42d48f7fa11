"""Who is present: a task, a mailbox, or an `Owner`; and noticing that it is no more."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypeAlias

from eventstore.errors import ConfigurationError
from eventstore.mailbox import Mailbox

log = logging.getLogger(__name__)

__all__ = ["AnyOwner", "Owner", "OwnerRef", "Owners"]


class Owner:
    """An identity for presences, for as long as its ``async with`` block runs or until it is closed or collected."""

    def __init__(self, name: str = "an owner") -> None:
        self.name, self.closed = name, False
        self._ends: dict[Callable[[Any], None], None] = {}

    def __repr__(self) -> str:
        return f"<Owner {self.name}{', closed' if self.closed else ''}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its presences. Closing twice is fine."""
        ends, self._ends, self.closed = self._ends, {}, True
        for callback in tuple(ends):
            try:
                callback(self)
            except Exception:
                log.exception("what follows the end of %r failed", self)

    def on_close(self, callback: Callable[[Any], None]) -> Callable[[], object]:
        """Call *callback* with the owner when it is closed; at once if it is. Returns a function that ends that."""
        if self.closed:
            callback(self)
        else:
            self._ends[callback] = None
        ends = self._ends  # not the owner, which would then live as long as whoever may forget it
        return lambda: ends.pop(callback, None)


AnyOwner: TypeAlias = "asyncio.Task[Any] | Mailbox[Any] | Owner"


class OwnerRef(NamedTuple):
    """An owner on another node, or one of this node that is no more."""

    node: str
    id: str


class _Known:
    """One owner of this node, kept alive by others only."""

    def __init__(self, id: str, owner: AnyOwner, collected: Callable[[Any], None]) -> None:
        self.id, self.reference = id, weakref.ref(owner, collected)
        self.forget: Callable[[], object] = lambda: None


class Owners:
    """The owners of this node and the ids by which all nodes know them.

    Args:
        node: name of this node.
        life: tells this life of the node from others.
        ended: called with the id of an owner that is no more.
    """

    def __init__(self, node: str, life: str, ended: Callable[[str], None]) -> None:
        self._node, self._life, self._ended = node, life, ended
        self._known: dict[int, _Known] = {}
        self._by_id: dict[str, _Known] = {}
        self._count = 0

    def id_of(self, owner: AnyOwner) -> tuple[str, bool]:
        """Return the id of *owner*, and whether it lives; from now on its end is noticed.

        Raises:
            ConfigurationError: it is no task, mailbox or `Owner`.
        """
        known = self._known.get(id(owner))
        if known is not None and known.reference() is owner:
            return known.id, True
        if not isinstance(owner, (asyncio.Task, Mailbox, Owner)):
            raise ConfigurationError(f"an owner is a task, a Mailbox or an Owner, not {type(owner).__name__}")
        self._count += 1
        name = f"{self._life}.{self._count}"
        alive = not (owner.done() if isinstance(owner, asyncio.Task) else owner.closed)
        if alive:
            self._watch(name, owner)
        return name, alive

    def known_as(self, owner: object) -> str | None:
        """Return the id of *owner* if it has one."""
        known = self._known.get(id(owner))
        return known.id if known is not None and known.reference() is owner else None

    def of(self, node: str, name: str) -> AnyOwner | OwnerRef:
        """Return the owner with that id: itself if it lives here, else a reference."""
        known = self._by_id.get(name) if node == self._node else None
        owner = known.reference() if known is not None else None
        return OwnerRef(node, name) if owner is None else owner

    def end(self, name: str) -> None:
        """End an owner: cancel a task, close the others."""
        known = self._by_id.get(name)
        owner = known.reference() if known is not None else None
        if isinstance(owner, asyncio.Task):
            owner.cancel()
        elif owner is not None:
            owner.close()

    def clear(self) -> None:
        """Watch nobody any more."""
        watched = tuple(self._known.values())
        self._known.clear()
        self._by_id.clear()
        for known in watched:
            known.forget()

    def _watch(self, name: str, owner: AnyOwner) -> None:
        key = id(owner)

        def gone(_: object) -> None:
            known = self._by_id.pop(name, None)
            if known is not None:
                if self._known.get(key) is known:
                    del self._known[key]
                known.forget()
                self._ended(name)

        known = _Known(name, owner, gone)
        self._known[key] = self._by_id[name] = known
        if isinstance(owner, asyncio.Task):
            owner.add_done_callback(gone)
            known.forget = lambda: owner_of(known).remove_done_callback(gone) if owner_of(known) else None
        else:
            known.forget = owner.on_close(gone)


def owner_of(known: _Known) -> Any:
    """Return the owner that *known* stands for, None if it was collected."""
    return known.reference()
