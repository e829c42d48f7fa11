"""``eventstore top``: the overview, live in a terminal."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import cell, json_line, write_line
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import Seconds

if TYPE_CHECKING:
    import asyncio

    from eventstore.cli.frame import Look
    from eventstore.reports.overview import Overview
    from eventstore.store import EventStore

__all__ = ["command"]

REMEMBERED = 1000
"""Looks whose rates are drawn, as far as the terminal is wide."""

ANSWERED_WITHIN = 10.0
"""Seconds after which a look is given up, and the next one tried."""


@click.command()
@click.option(
    "--interval",
    type=Seconds(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between looks.",
)
@click.option("--once", is_flag=True, help="Print one look and end; it takes two, an interval apart, for the rate.")
@shared_options
def command(session: Session, interval: float, once: bool) -> None:
    """Watch the overview live, until q or Ctrl-C.

    How many events come in a second, the horizon and what holds it, what is the matter with the subscriptions and which
    are the furthest behind, the nodes, and the latest errors. A look costs the database three queries. While it does
    not answer, the last look stays and says so. Where the output is no terminal, or one that cannot be drawn on
    (TERM=dumb), it is printed once, as with --once; with --json each look is a line.

    \b
    Examples:
      eventstore top
      eventstore top --interval 5
      eventstore top --once
      eventstore top --json | jq .log.per_second
    """
    if session.json:
        session.run(_print_json(session, interval, once))
    elif once or not _drawable():
        session.run(_print_once(session, interval))
    else:
        session.run(_watch(session, interval))


def _drawable() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


async def _looks(session: Session, store: EventStore, interval: float) -> AsyncIterator[Look]:
    """Yield a look an interval without end; only the first may fail."""
    import asyncio

    from eventstore.cli.frame import Look
    from eventstore.errors import DatabaseUnavailable, TransactionConflict
    from eventstore.reports.overview import read_overview

    place, rates = _place(session), deque[float](maxlen=REMEMBERED)
    before: Overview | None = None
    problem, since = None, datetime.now(UTC)
    while True:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                before = await read_overview(store.database, before)
        except (DatabaseUnavailable, TransactionConflict, TimeoutError) as error:
            if before is None:
                raise
            since = since if problem else datetime.now(UTC)
            problem = str(error) or f"the database did not answer within {ANSWERED_WITHIN:g} s"
        else:
            problem = None
            rates.append(before.log.per_second or 0.0)
        yield Look(place, before, list(rates), problem, since)
        await asyncio.sleep(interval)


def _place(session: Session) -> str:
    from eventstore.redaction import place_of

    dsn, data_dir = session.location
    where = place_of(dsn) if dsn is not None else data_dir or "the embedded Postgres"
    whose = f"{session.tenant_name} in " if session.tenant_name else ""
    return cell(f"{whose}{session.schema_name} in {where}")


async def _print_json(session: Session, interval: float, once: bool) -> None:
    import asyncio

    async with session.store() as store:
        async for number, look in _numbered(_looks(session, store, interval)):
            if once and number == 0:
                continue
            problem: dict[str, Any] = {"problem": look.problem} if look.problem else {}
            line = json_line(asdict(look.overview) | problem)
            # In another thread: the connection is kept alive also when nobody reads the output.
            await asyncio.to_thread(write_line, line, flush=True)
            if once:
                return


async def _print_once(session: Session, interval: float) -> None:
    from eventstore.cli.frame import frame, plain

    width, height = 100, 60
    async with session.store() as store:
        async for number, look in _numbered(_looks(session, store, interval)):
            if number == 1:
                write_line(plain(frame(look, width, height, blocks=_blocks())), flush=True)
                return


async def _numbered(looks: AsyncIterator[Look]) -> AsyncIterator[tuple[int, Look]]:
    number = 0
    async for look in looks:
        yield number, look
        number += 1


def _blocks() -> bool:
    """Whether the output can hold the signs of a sparkline."""
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


# -- live


async def _watch(session: Session, interval: float) -> None:
    import asyncio

    from rich.console import Console
    from rich.live import Live

    from eventstore.service import Tasks

    console, quitting, drawing = Console(), asyncio.Event(), Tasks()
    async with session.store() as store:
        with _quiet(), Live(console=console, screen=True, auto_refresh=False) as live, _keys(quitting):
            drawn = drawing.spawn("top", _draw(session, store, interval, live))
            asked = drawing.spawn("q", quitting.wait())
            try:
                await asyncio.wait((drawn, asked), return_when=asyncio.FIRST_COMPLETED)
                if drawn.done():
                    drawn.result()
            finally:
                await drawing.stop()


async def _draw(session: Session, store: EventStore, interval: float, live: Any) -> None:
    import asyncio

    from eventstore.cli.frame import frame, styled

    async for look in _looks(session, store, interval):
        width, height = live.console.size
        text = styled(frame(look, width, height, blocks=_blocks()))
        # In another thread: a terminal that is held up must hold up nothing else.
        await asyncio.to_thread(live.update, text, refresh=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log off the screen; what is wrong stands in the picture. Elsewhere, as in a file, it goes on."""
    import logging

    if not sys.stderr.isatty():
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _keys(quitting: asyncio.Event) -> Iterator[None]:
    """Set *quitting* when q is pressed, where there is a keyboard and the system tells single keys."""
    restore = _single_keys()
    if restore is None:
        yield
        return
    import asyncio

    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
    loop.add_reader(keyboard, _pressed, keyboard, quitting)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        restore()


def _pressed(keyboard: int, quitting: asyncio.Event) -> None:
    keys = os.read(keyboard, 100)
    if not keys or b"q" in keys.lower():
        quitting.set()


def _single_keys() -> Callable[[], None] | None:
    """Let the terminal hand over keys without waiting for the end of a line; returns what undoes it."""
    try:
        import termios
        import tty
    except ModuleNotFoundError:  # Windows
        return None
    with suppress(OSError, ValueError, termios.error):
        if not sys.stdin.isatty():
            return None
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        tty.setcbreak(keyboard)
        return lambda: termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return None
