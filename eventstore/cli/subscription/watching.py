"""``eventstore subscription watch``: what happens to subscriptions, as it happens, and how far they are behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import cell, json_line, write_line
from eventstore.cli.pubsub import STATES, WAITING
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, NAME

if TYPE_CHECKING:
    from eventstore.mailbox import Mailbox
    from eventstore.store import EventStore
    from eventstore.subscriptions.model import Lag

__all__ = ["watch"]

log = logging.getLogger(__name__)


@click.command()
@click.argument("names", type=NAME, nargs=-1, metavar="[NAME...]")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look how far they are behind.",
)
@click.option("--limit", type=COUNT, metavar="N", help="Stop after so many lines.")
@shared_options
def watch(session: Session, names: tuple[str, ...], every: float, limit: int | None) -> None:
    """Print what happens to subscriptions until Ctrl-C: those named, or all.

    Lines have time, subscription, what happened and particulars: partitions claimed, lost, released, halted; events
    parked, skipped, replayed, discarded; the subscription created, paused, resumed, rewound, resized, deleted, caught
    up, lagging. Between them stands "lag", whenever it has changed. Messages are hints: what is sent while the
    connection is lost is missed, and stderr says so; `eventstore subscription show` tells what is.

    \b
    Examples:
      eventstore subscription watch billing
      eventstore subscription watch
      eventstore subscription watch billing audit --every 1 --json
    """
    if limit != 0:
        session.run(_watch(session, list(dict.fromkeys(names)), every, limit))


async def _watch(session: Session, names: list[str], every: float, limit: int | None) -> None:
    from eventstore.mailbox import Mailbox
    from eventstore.pubsub.hub import CONNECTION
    from eventstore.service import Tasks

    inbox: Mailbox[Any] = Mailbox(WAITING, name="what waits to be printed")
    async with session.store(listen=True) as store:
        looking = Tasks()
        try:
            store.pubsub.subscribe(CONNECTION, inbox)
            await _Watched(store, inbox, names).begin()
            log.info("watching %s", ", ".join(map(cell, names)) or "all subscriptions")
            looking.supervise("lag", lambda healthy: _look(store, inbox, names, every, healthy))
            await _print(session.json, inbox, limit)
        finally:
            await looking.stop()
            if inbox.dropped:
                log.warning("%d lines came faster than they could be printed, and were dropped", inbox.dropped)


class _Watched:
    """Subscribes to the topics of what is watched; of all subscriptions, those that are created later too.

    What is told of one that was unknown comes on the topic of all, where it is met, and perhaps again on its own, which
    is subscribed to at that moment; later, what comes next would be missed.
    """

    def __init__(self, store: EventStore, inbox: Mailbox[Any], names: list[str]) -> None:
        self._store, self._inbox, self._names = store, inbox, names
        self._followed: set[str] = set()
        self._met_by: dict[str, Any] = {}

    async def begin(self) -> None:
        """Raises `SubscriptionNotFound` for a name that is not stored."""
        from eventstore.pubsub.dispatching import Fastlane

        for name in self._names:
            await self._store.subscriptions.get(name)
            self._follow(name)
        if not self._names:
            # A message does not tell its topic; the lane does.
            shared = self._store.lifecycle.subscriptions_topic()
            self._store.pubsub.subscribe(shared, self._inbox, Fastlane(self._meet, lambda message: message))
            for one in await self._store.subscriptions.list():
                self._follow(one.name)

    def _follow(self, name: str) -> None:
        from eventstore.pubsub.dispatching import Fastlane

        if name not in self._followed:  # a second time would bring everything twice
            self._followed.add(name)
            own = self._store.lifecycle.subscription_topic(name)
            self._store.pubsub.subscribe(own, self._inbox, Fastlane(self._take, lambda message: message))

    def _meet(self, message: Any) -> None:
        """Take a message of the topic of all, unless it comes on its subscription's own."""
        row = _row(message)
        if row is not None and (name := row["subscription"]) not in self._followed:
            self._follow(name)
            self._met_by[name] = message
            self._inbox.put_nowait(message)

    def _take(self, message: Any) -> None:
        """Take a message of a subscription's own topic, unless it was met by that one."""
        row = _row(message)
        if row is not None and self._met_by.get(row["subscription"]) == message:
            del self._met_by[row["subscription"]]
        else:
            self._inbox.put_nowait(message)


def _row(message: Any) -> dict[str, Any] | None:
    """Return what to print of a message; None: others broadcast it there."""
    try:
        _, kind, payload = message
        if not isinstance(payload["subscription"], str):
            return None
        return {**payload, "at": datetime.fromisoformat(payload["at"]), "kind": kind}
    except (ValueError, TypeError, KeyError):
        return None


async def _look(
    store: EventStore, inbox: Mailbox[Any], names: list[str], every: float, healthy: Callable[[], None]
) -> None:
    """Put how far subscriptions are behind into the inbox, whenever that has changed."""
    import asyncio

    # Those named begin with a line; of all, those that are behind.
    told: dict[str, int | None] = dict.fromkeys(names)
    while True:
        for lag in await _lags(store, names):
            if told.get(lag.name, 0) != lag.behind:
                told[lag.name] = lag.behind
                await inbox.put(lag)
        healthy()
        await asyncio.sleep(every)


async def _lags(store: EventStore, names: list[str]) -> list[Lag]:
    from eventstore.errors import SubscriptionNotFound

    if len(names) == 1:
        with suppress(SubscriptionNotFound):
            return await store.subscriptions.lag(names[0])
        return []
    return [lag for lag in await store.subscriptions.lag() if not names or lag.name in names]


async def _print(as_json: bool, inbox: Mailbox[Any], limit: int | None) -> None:
    """Print what comes, in another thread: the event loop must go on reading when nobody reads the output."""
    import asyncio

    left = limit
    while left is None or left > 0:
        items = await inbox.take(1000)
        rows = list(_rows(items))[:left]
        if rows:
            lines = [json_line(row) if as_json else _line(row) for row in rows]
            await asyncio.to_thread(write_line, "\n".join(lines), flush=True)
        left = None if left is None else left - len(rows)


def _rows(items: Iterable[Any]) -> Iterable[dict[str, Any]]:
    from eventstore.subscriptions.model import Lag

    for item in items:
        if isinstance(item, Lag):
            yield {
                "at": datetime.now(UTC),
                "kind": "lag",
                "subscription": item.name,
                "head": item.head,
                "behind": item.behind,
                "seconds": round(item.seconds, 3),
            }
        elif type(item) is tuple and len(item) == 1:
            log.warning(STATES[item[0]])
        elif (row := _row(item)) is not None:
            yield row


def _line(row: dict[str, Any]) -> str:
    rest = {name: value for name, value in row.items() if name not in ("at", "kind", "subscription")}
    particulars = " ".join(f"{cell(name)}={cell(value)}" for name, value in rest.items() if value is not None)
    return "\t".join(
        (f"{row['at'].astimezone(UTC):%H:%M:%S}", cell(row["subscription"]), cell(row["kind"]), particulars)
    )
