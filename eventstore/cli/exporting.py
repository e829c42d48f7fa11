"""``eventstore export``: events as NDJSON, every field, exactly as they are."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

import click

from eventstore.cli.failures import OutputFailed, flush
from eventstore.cli.output import event_row, json_line, open_output, progress, result, write_line
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import POSITION, TIME

if TYPE_CHECKING:
    from eventstore.log.read import Reading
    from eventstore.selectors import Selector

__all__ = ["command"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--after", type=POSITION, default=0, show_default=True, help="Begin after this position.")
@click.option("--before", type=POSITION, help="End before this position.")
@click.option(
    "--since", type=TIME, metavar="TIME", help="Recorded at this time or later; UTC unless it says otherwise."
)
@click.option("--until", type=TIME, metavar="TIME", help="Recorded before this time.")
@selector_options
@shared_options
def command(
    session: Session,
    file: str,
    selector: Selector | None,
    since: datetime | None,
    until: datetime | None,
    **bounds: Any,
) -> None:
    """Write events to FILE as NDJSON, in the order of the log; gzipped if it ends in .gz, - is stdout.

    A line holds every field of one event. FILE appears once it is complete: an export that fails leaves nothing, and
    what was there before stays. `eventstore import FILE --exported` takes it, ids included. The summary's horizon is
    where the next export begins, with --after.

    \b
    Examples:
      eventstore export backup.ndjson.gz
      eventstore export placed.ndjson --type OrderPlaced --since 2025-01-31
      eventstore export - --pattern 'order-*' | jq .data
    """
    session.run(_export(session, file, selector, since=since, until=until, **bounds))


async def _export(session: Session, file: str, selector: Selector | None, **bounds: Any) -> None:
    async with session.store() as store:
        started, last = perf_counter(), await store.head()
        if bounds["before"] is not None:
            last = min(last, bounds["before"] - 1)
        reading = store.read_all(selector, **bounds)
        with _lines_to(file) as write, _progress(file, bounds["after"], last) as reached:
            count = await _copy(reading, write, reached)
        _summarize(session, file, count, reading.horizon, perf_counter() - started)


async def _copy(reading: Reading, write: Callable[[str], None], reached: Callable[[int], None]) -> int:
    count = 0
    async for event in reading:
        write(json_line(event_row(event)))
        reached(event.position)
        count += 1
    return count


@contextmanager
def _progress(file: str, after: int, last: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the position that has been reached."""
    reached = after
    with progress(f"exporting to {file}", total=max(0, last - after)) as done:

        def move(position: int) -> None:
            nonlocal reached
            done(position - reached)
            reached = position

        yield move


def _summarize(session: Session, file: str, count: int, horizon: int, seconds: float) -> None:
    row = {"file": file, "events": count, "horizon": horizon, "seconds": round(seconds, 3)}
    sentence = f"{count:,} events written to {file} in {seconds:.1f} s; the horizon was {horizon}"
    if file == "-":  # stdout is for the events
        click.echo(json_line(row) if session.json else sentence, err=True)
    else:
        result(session.json, row, sentence)


@contextmanager
def _lines_to(file: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes one line to *file*."""
    if file == "-":
        yield write_line
        flush()
        return
    with _replaced(file) as stored, _packed(stored, file) as lines:

        def write(line: str) -> None:
            lines.write(line.encode() + b"\n")

        yield write


@contextmanager
def _packed(stored: IO[bytes], file: str) -> Iterator[IO[bytes]]:
    if not file.endswith(".gz"):
        yield stored
        return
    with gzip.GzipFile(filename="", fileobj=stored, mode="wb", compresslevel=6, mtime=0) as packed:
        yield packed  # type: ignore[misc]


@contextmanager
def _replaced(file: str) -> Iterator[IO[bytes]]:
    """Yield a file beside *file* that takes its place in the end, or vanishes on failure."""
    path = Path(file).resolve()
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device cannot be replaced
        with open_output(path, "w", name=file) as stored:
            yield stored
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    stored = open_output(beside, "x", name=file)
    try:
        with stored:
            yield stored
            stored.flush()
            _sync(stored, file)
        _rename(beside, path, file)
    finally:
        beside.unlink(missing_ok=True)


def _sync(stored: IO[bytes], file: str) -> None:
    try:
        os.fsync(stored.fileno())
    except OSError as error:
        raise OutputFailed(file, error) from None


def _rename(beside: Path, path: Path, file: str) -> None:
    try:
        beside.replace(path)
    except OSError as error:
        raise OutputFailed(file, error) from None
