"""What can be done from a page: each form is checked, done, recorded with who did it, and told in a sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.dashboard.encoding import iso
from eventstore.dashboard.parameters import Parameters, parse_place
from eventstore.dashboard.refusals import InvalidParameter, Refused
from eventstore.reports.actions import recorded
from eventstore.store import EventStore
from eventstore.subscriptions.model import MAX_POOL_SIZE

__all__ = ["ACTIONS", "Asked", "asked", "perform"]

RESIZED_WITHIN = 3.0
"""Seconds that a request waits for a resize, which goes on by itself."""

VIA = "dashboard"


@dataclass(frozen=True, slots=True)
class Asked:
    """An action that a form asks for; *do* does it and returns what happened."""

    action: str
    subject: str
    arguments: dict[str, Any]
    do: Callable[[], Awaitable[str]]


def asked(what: str, form: Parameters, store: EventStore) -> Asked:
    """Return the action that a form asks for.

    Raises:
        Refused: there is no such action, or a field is not what it should be.
    """
    if what not in ACTIONS:
        raise Refused(404, "NotFound", "there is no such action")
    return ACTIONS[what](form, store)


async def perform(asked: Asked, store: EventStore, who: str, peer: str | None = None) -> str:
    """Do what is asked and record it; what cannot be recorded is not done. Returns what happened.

    Args:
        peer: the address that it was asked from, which is recorded; None: this machine.
    """
    arguments = asked.arguments if peer is None else {**asked.arguments, "peer": peer}
    async with recorded(store.database, who, VIA, asked.action, asked.subject, arguments):
        return await asked.do()


def _pause(form: Parameters, store: EventStore) -> Asked:
    name = form.needed("name")

    async def do() -> str:
        done = await store.subscriptions.pause(name)
        return f"{name} is paused" if done else f"{name} was paused already"

    return Asked("pause", name, {}, do)


def _resume(form: Parameters, store: EventStore) -> Asked:
    name = form.needed("name")

    async def do() -> str:
        stored = await store.subscriptions.get(name)
        halted = sum(one.halted is not None for one in stored.partitions)
        done = await store.subscriptions.resume(name)
        again = f"; {halted:,} halted {'partition begins' if halted == 1 else 'partitions begin'} with what failed"
        return f"{name} goes on{again if halted else ''}" if done else f"there was nothing to resume of {name}"

    return Asked("resume", name, {}, do)


def _rewind(form: Parameters, store: EventStore) -> Asked:
    name, place = form.needed("name"), parse_place("to", form.needed("to"))

    async def do() -> str:
        done = await store.subscriptions.rewind(name, place)
        forgotten = f"; {done.parked:,} parked ones come again with them" if done.parked else ""
        return f"{name} delivers again what comes after position {done.after:,}{forgotten}"

    return Asked("rewind", name, {"after": _plain(place)}, do)


def _plain(place: int | datetime | UUID) -> int | str:
    return iso(place) if isinstance(place, datetime) else str(place) if isinstance(place, UUID) else place


def _resize(form: Parameters, store: EventStore) -> Asked:
    name, size = form.needed("name"), form.whole("pool_size", least=1, most=MAX_POOL_SIZE)
    if size is None:
        raise InvalidParameter("pool_size", "is missing")

    async def do() -> str:
        try:
            await store.subscriptions.resize(name, size, timeout=RESIZED_WITHIN)
        except TimeoutError:
            return f"{name} gets {size:,} partitions as soon as handlers are through with what they have in hand"
        return f"{name} has {size:,} partitions now"

    return Asked("resize", name, {"pool_size": size}, do)


def _replay(form: Parameters, store: EventStore) -> Asked:
    name, chosen = form.needed("name"), _chosen(form)
    seen = None if chosen else form.whole("seen")

    async def do() -> str:
        await _check_seen(store, name, seen)
        count = await store.subscriptions.replay_parked(name, **chosen)
        return f"{count:,} parked {_events(count)} of {name} will be delivered again"

    return Asked("replay", name, chosen if seen is None else {"all": seen}, do)


def _discard(form: Parameters, store: EventStore) -> Asked:
    name, chosen = form.needed("name"), _chosen(form)
    if not chosen and form.text("confirm") != "yes":
        raise InvalidParameter("confirm", "must be yes to discard all parked events")
    seen = None if chosen else form.whole("seen")

    async def do() -> str:
        await _check_seen(store, name, seen)
        count = await store.subscriptions.discard_parked(name, **chosen)
        return f"{count:,} parked {_events(count)} of {name} {'is' if count == 1 else 'are'} given up"

    return Asked("discard", name, chosen if seen is None else {"all": seen}, do)


async def _check_seen(store: EventStore, name: str, seen: int | None) -> None:
    """Refuse to replay, or give up, more parked events than somebody was shown."""
    if seen is None:
        return
    parked = (await store.database.rows("set_aside_v1", name))[0]["parked"]
    if parked > seen:
        more = f"{parked:,} events are parked by now, and not {seen:,}"
        raise Refused(409, "ParkedMeanwhile", f"{more}; nothing was done: look at the new ones, then repeat it")


def _chosen(form: Parameters) -> dict[str, Any]:
    """Return which parked events are meant: one, those of a key, or all."""
    position, key = form.whole("position", least=1), form.text("key")
    if position is not None and key:
        raise InvalidParameter("key", "does not go together with position")
    return {"position": position} if position is not None else {"key": key} if key else {}


def _events(count: int) -> str:
    return "event" if count == 1 else "events"


ACTIONS: dict[str, Callable[[Parameters, EventStore], Asked]] = {
    "pause": _pause,
    "resume": _resume,
    "rewind": _rewind,
    "resize": _resize,
    "replay": _replay,
    "discard": _discard,
}
"""By the last part of their URL."""
