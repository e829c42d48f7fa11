"""``eventstore parked``: the events that subscriptions set aside; show them, replay or discard them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from eventstore.cli.asking import confirm, yes_option
from eventstore.cli.failures import ParkedNotFound
from eventstore.cli.output import Rows, cell, json_line, progress, result, write_line
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, MAX_BIGINT, NAME, POSITION

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from eventstore.subscriptions.model import Parked

__all__ = ["command"]

log = logging.getLogger(__name__)

COLUMNS = ("position", "key", "state", "type", "attempts", "error", "message", "last_failed_at")

PAGE = 200
"""Parked events of one query; each may come with a traceback of 10,000 characters."""

FROM_ONE = click.IntRange(min=1, max=MAX_BIGINT)

NAMED = 10
"""How many of the keys that failed again are named."""


@click.group()
@shared_options
def command(_session: Session) -> None:
    """Show events that were set aside, replay or discard them."""


async def _pages(
    store: EventStore, name: str, *, state: Any = "parked", key: str | None = None, after: int = 0
) -> AsyncIterator[list[Parked]]:
    """Yield what is set aside by position, page by page; nothing is one empty page."""
    more = True
    while more:
        page = await store.subscriptions.parked(name, state=state, key=key, after=after, limit=PAGE)
        yield page
        more = len(page) == PAGE
        after = page[-1].position if page else after


# -- list


@command.command("list")
@click.argument("name", type=NAME)
@click.option(
    "--state",
    type=click.Choice(["parked", "skipped", "discarded", "all"]),
    default="parked",
    show_default=True,
    help="What became of them.",
)
@click.option("--key", type=NAME, metavar="KEY", help="Of one stream, or the one event without a stream of this id.")
@click.option("--after", type=POSITION, default=0, show_default=True, metavar="N", help="Begin after this position.")
@click.option("--limit", type=COUNT, metavar="N", help="So many at most.")
@shared_options
def list_(session: Session, name: str, state: str, key: str | None, after: int, limit: int | None) -> None:
    """List the events that a subscription set aside, by position.

    Columns: position, key (what keeps order: its stream, or its own id), state, event type, failed deliveries (0: none,
    it queues behind an earlier event of its key), the last error, and when. JSON has the events and tracebacks too.

    \b
    Examples:
      eventstore parked list billing
      eventstore parked list billing --key order-1
      eventstore parked list billing --state all --limit 100 --json
    """
    session.run(_list(session, name, None if state == "all" else state, key, after, limit))


async def _list(session: Session, name: str, state: str | None, key: str | None, after: int, limit: int | None) -> None:
    left = limit
    with Rows(session.json, COLUMNS) as rows:
        async with session.store() as store:
            async for page in _pages(store, name, state=state, key=key, after=after):
                for one in page[:left]:
                    rows.add(asdict(one))
                left = None if left is None else left - len(page)
                if left is not None and left <= 0:
                    return


# -- show


@command.command()
@click.argument("name", type=NAME)
@click.argument("position", type=FROM_ONE)
@shared_options
def show(session: Session, name: str, position: int) -> None:
    """Show one event that was set aside: what it is, how often it failed and why.

    first_failed_at and last_failed_at are when it was set aside, and when it last failed. replay is true while it waits
    to be delivered again.

    \b
    Examples:
      eventstore parked show billing 120
      eventstore parked show billing 120 --json
    """
    row = asdict(session.run(_show(session, name, position)))
    if session.json:
        write_line(json_line(row))
        return
    traceback = row.pop("traceback")
    for fact, value in row.items():
        write_line(f"{fact}\t{cell(value)}".expandtabs(20).rstrip())
    for line in (traceback or "").splitlines():
        write_line(cell(line))


async def _show(session: Session, name: str, position: int) -> Parked:
    async with session.store() as store:
        found = await store.subscriptions.parked(name, state=None, after=position - 1, limit=1)
    if not found or found[0].position != position:
        raise ParkedNotFound(name, position)
    return found[0]


# -- replay and discard


class _Chosen(NamedTuple):
    """Which parked events: one, those of a key, or all."""

    position: int | None
    key: str | None

    def __str__(self) -> str:
        if self.position is not None:
            return f"the event parked at position {self.position}"
        return "all parked events" if self.key is None else f"the parked events of {cell(self.key)}"


def _choice(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --position, --key and --all, of which one is needed; the command gets ``chosen=``."""

    @wraps(function)
    def command(*args: Any, position: int | None, key: str | None, everything: bool, **options: Any) -> Any:
        if (position is not None) + (key is not None) + everything != 1:
            raise click.UsageError("say which: --position N, --key KEY or --all; one of them")
        return function(*args, chosen=_Chosen(position, key), **options)

    for option in (
        click.option("--all", "everything", is_flag=True, help="All of the subscription."),
        click.option(
            "--key", type=NAME, metavar="KEY", help="Of one stream, or the event without a stream of this id."
        ),
        click.option("--position", type=FROM_ONE, metavar="N", help="The one at this position."),
    ):
        command = option(command)
    return command


@command.command()
@click.argument("name", type=NAME)
@_choice
@click.option("--wait", is_flag=True, help="Wait until they are through; exit code 1 if one failed again.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Of --wait.  [default: none]"
)
@shared_options
def replay(session: Session, name: str, chosen: _Chosen, wait: bool, timeout: float | None) -> None:
    """Deliver parked events again, once each and in order.

    They go to whichever node runs the subscription. An event that fails again stays parked, with the later ones of its
    key; a key is open again once its queue is empty.

    \b
    Examples:
      eventstore parked replay billing --key order-1
      eventstore parked replay billing --all --wait
      eventstore parked replay billing --position 120 --json
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout says how long to --wait; give that too")
    count, again = session.run(_replay(session, name, chosen, wait, timeout))
    row: dict[str, Any] = {"name": name, "replayed": count}
    sentence = f"{_events(count)} of {cell(name)} will be delivered again"
    if wait:
        row["parked_again"] = [
            {name: getattr(one, name) for name in ("position", "key", "attempts", "error", "message")} for one in again
        ]
        sentence = f"{_events(count)} of {cell(name)} replayed, {len(again)} of them parked again"
    result(session.json, row, sentence)
    if again:
        raise click.ClickException(_told(again))


async def _replay(
    session: Session, name: str, chosen: _Chosen, wait: bool, timeout: float | None
) -> tuple[int, list[Parked]]:
    import asyncio

    async with session.store() as store:
        positions = [one.position async for one in _found(store, name, chosen)] if wait else []
        async with recorded(store.database, "replay", name, position=chosen.position, key=chosen.key):
            count = await store.subscriptions.replay_parked(name, position=chosen.position, key=chosen.key)
        if not count and chosen.key is not None:
            raise ParkedNotFound(name, key=chosen.key)
        if not wait or not count:
            return count, []
        await _warn_if_nobody_runs(store, name)
        try:
            async with asyncio.timeout(timeout):
                return count, await _drained(store, name, chosen, positions)
        except TimeoutError:
            raise TimeoutError(
                f"not all of {name!r} is replayed after {timeout:g} s, and it goes on; "
                "`eventstore subscription show` tells who runs it"
            ) from None


async def _found(store: EventStore, name: str, chosen: _Chosen, after: int = 0) -> AsyncIterator[Parked]:
    """Yield what is parked of the chosen events."""
    if chosen.position is not None:
        after = chosen.position - 1
    async for page in _pages(store, name, key=chosen.key, after=after):
        for one in page:
            if chosen.position not in (None, one.position):
                return
            yield one


async def _warn_if_nobody_runs(store: EventStore, name: str) -> None:
    stored = await store.subscriptions.get(name)
    if stored.state == "paused":
        log.warning("%s is paused: `eventstore subscription resume`", cell(name))
    elif not any(one.owner for one in stored.partitions):
        log.warning("nobody runs %s now: `eventstore work`", cell(name))


async def _drained(store: EventStore, name: str, chosen: _Chosen, positions: list[int]) -> list[Parked]:
    """Wait until none of the chosen events waits to be delivered again; return those of *positions* that stay parked.

    Each look begins at the first that waited, for an event before it is decided. What a partition that is behind adds
    there meanwhile is seen by the last look, at all of them.
    """
    import asyncio
    from bisect import bisect_left

    from eventstore.service import Backoff

    backoff, first, done = Backoff(0.05, 1.0), 1, 0
    with progress("replaying", len(positions)) as advance:
        while True:
            waits = await _first_waiting(store, name, chosen, first - 1)
            decided = len(positions) if waits is None else bisect_left(positions, waits)
            advance(max(0, decided - done))
            first, done = waits or 1, max(done, decided)
            if waits is None:
                parked = [one async for one in _found(store, name, chosen)]
                if not any(one.replay for one in parked):
                    asked = set(positions)
                    return [one for one in parked if one.position in asked]
            await asyncio.sleep(backoff.next())


async def _first_waiting(store: EventStore, name: str, chosen: _Chosen, after: int) -> int | None:
    async for one in _found(store, name, chosen, after):
        if one.replay:
            return one.position
    return None


def _told(again: list[Parked]) -> str:
    """Name the first that failed of each key; the others wait behind one."""
    first: dict[str, Parked] = {}
    for one in again:
        if one.attempts:
            first.setdefault(one.key, one)
    named = [
        f"position {one.position} of {cell(one.key)}: {one.error}: {cell(one.message)}"
        for one in list(first.values())[:NAMED]
    ]
    more = f"; and {len(first) - NAMED} keys more" if len(first) > NAMED else ""
    return f"{_events(len(again))} parked again: {'; '.join(named)}{more}"


@command.command()
@click.argument("name", type=NAME)
@_choice
@yes_option
@shared_options
def discard(session: Session, name: str, chosen: _Chosen, yes: bool) -> None:
    """Give parked events up; they stay listed as discarded.

    Later events of their key are still parked, and hold back what follows until they are replayed or discarded too.

    \b
    Examples:
      eventstore parked discard billing --position 120
      eventstore parked discard billing --key order-1 --yes
    """
    if not yes:
        confirm(f"Give up {chosen} in {cell(name)}, for good?", "discarded")
    count = session.run(_discard(session, name, chosen))
    result(session.json, {"name": name, "discarded": count}, f"discarded {_events(count)} of {cell(name)}")


async def _discard(session: Session, name: str, chosen: _Chosen) -> int:
    # It listens: that is how who watches the subscription hears of it.
    async with (
        session.store(listen=True) as store,
        recorded(store.database, "discard", name, position=chosen.position, key=chosen.key),
    ):
        count = await store.subscriptions.discard_parked(name, position=chosen.position, key=chosen.key)
    if not count and chosen.key is not None:
        raise ParkedNotFound(name, key=chosen.key)
    return count


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
