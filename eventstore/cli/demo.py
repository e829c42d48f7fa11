"""``eventstore demo``: a history, one subscription of each kind, and a table of what they were delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import Terminated
from eventstore.cli.importing import file_options, mapping_of
from eventstore.cli.output import json_line, progress, write_line
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.demo.run import Outcome
    from eventstore.demo.source import Source

__all__ = ["SCHEMA", "command"]

SCHEMA = "eventstore_demo"


@click.command()
@click.option("--events", type=click.IntRange(100, 1_000_000), default=10_000, show_default=True, help="To generate.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same events.")
@click.option("--live", type=click.IntRange(0, 10_000), default=300, show_default=True, help="Events to append live.")
@click.option("--rate", type=click.FloatRange(1, 10_000), default=150, show_default=True, help="Live events a second.")
@click.option("--timeout", type=click.FloatRange(1), default=60, show_default=True, help="Seconds to wait for events.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False), help="Import this file instead; see `import`.")
@file_options
@shared_options
def command(session: Session, rate: float, timeout: float, **source: Any) -> int:
    """See the event store at work, on 10,000 events of a small shop or on a file of yours.

    Starts the embedded Postgres (or uses --dsn), imports the events into the schema eventstore_demo, which is made
    anew each time, creates one subscription of each kind, replays the history to them, and appends events live. In
    the end it compares what was delivered with counts made in plain Python; the exit code is 1 if a number differs.

    \b
    Examples:
      eventstore demo
      eventstore demo --seed 7 --events 50000
      eventstore demo --file log.csv --stream case --type activity --time timestamp --tag department
    """
    if session.schema is not None:
        raise click.UsageError(f"the demo has a schema of its own, {SCHEMA}; leave --schema out")
    session.of_all_tenants()
    if "" in session.location:
        raise click.UsageError("--dsn or --data-dir is empty; leave it out for the embedded Postgres")
    return session.run(_until_drained(_demo(_Show(session), _source(**source), rate, timeout)))


async def _until_drained(demo: Coroutine[Any, Any, int]) -> int:
    from eventstore.demo.run import Drained

    try:
        return await demo
    except Drained:
        raise Terminated from None


def _source(events: int, live: int, seed: int, file: str | None, format: Any, delimiter: str, **columns: Any) -> Source:
    from eventstore.demo.source import File, Shop

    if file is not None:
        return File(file, mapping_of(**columns), live, seed, format=format, delimiter=delimiter)
    if any(columns.values()):
        raise click.UsageError("the columns are those of a file; give --file too")
    return Shop(events, live, seed)


async def _demo(show: _Show, source: Source, rate: float, patience: float) -> int:
    from eventstore.demo.run import run
    from eventstore.store import EventStore

    async with _empty_schema(show) as dsn, EventStore(dsn, schema=SCHEMA) as store:
        started = perf_counter()
        await source.append_to(store, progress)
        seconds = perf_counter() - started
        show.say(f"Imported {len(source.history):,} events in {seconds:.1f} s.")
        plan = source.plan()
        live = source.live(plan)
        show.say(f"Subscribed {len(plan)} handlers; replaying the log to them, then appending {len(live):,} live.")
        outcome = await run(store, plan, source.history, live, rate=rate, patience=patience, stage=progress)
    show.outcome(outcome, source, seconds, patience)
    return 0 if outcome.ok else 1


@asynccontextmanager
async def _empty_schema(show: _Show) -> AsyncIterator[str]:
    """Yield the DSN of a database in which the demo's schema is new."""
    from eventstore.demo.schema import recreate

    async with _database(show) as dsn:
        started = perf_counter()
        await recreate(dsn, SCHEMA)
        show.say(f"Created the schema {SCHEMA} in {perf_counter() - started:.1f} s.")
        yield dsn


@asynccontextmanager
async def _database(show: _Show) -> AsyncIterator[str]:
    import asyncio

    from eventstore.embedded import EmbeddedPostgres

    dsn, data_dir = show.session.location
    if dsn is not None:
        yield dsn
        return
    started = perf_counter()
    server = EmbeddedPostgres(data_dir)
    await asyncio.to_thread(server.start)
    try:
        show.say(f"Started Postgres in {server.data_dir} in {perf_counter() - started:.1f} s.")
        yield server.dsn
    finally:
        await asyncio.to_thread(server.stop)


class _Show:
    """Tells what happens; with ``--json`` only what came of it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def say(self, line: str) -> None:
        """Print a line for people."""
        if not self.session.json:
            write_line(line, flush=True)

    def outcome(self, outcome: Outcome, source: Source, import_seconds: float, patience: float) -> None:
        """Print the one JSON object, or the table and what to try next."""
        from eventstore.demo import report

        if self.session.json:
            row = report.as_json(outcome, len(source.history), import_seconds, SCHEMA)
            write_line(json_line(row), flush=True)
            return
        self.say(f"Replayed in {outcome.replay_seconds:.1f} s, live for {outcome.live_seconds:.1f} s.")
        table, hints = report.table(outcome), report.what_next(source, self._options())
        for line in ("", *table, "", report.judgement(outcome, patience), "", *hints):
            self.say(line)

    def _options(self) -> list[str]:
        """Return what leads another command to the demo's log, as far as the environment does not."""
        from eventstore.database import redacted

        dsn = None if self.session.dsn is None else redacted(self.session.dsn)
        options = ["--schema", SCHEMA]
        for name, value in (("--dsn", dsn), ("--data-dir", self.session.data_dir)):
            options += [name, value] if value is not None else []
        return options
