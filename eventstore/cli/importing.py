"""``eventstore import``: events from the rows of a CSV or NDJSON file."""

from __future__ import annotations

import io
import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

import click

from eventstore.cli.output import json_line, open_output, progress, result, write_line
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import NAME

if TYPE_CHECKING:
    from eventstore.importing import Imported, Mapped, Mapping, Reject, RowFile

__all__ = ["command", "file_options", "mapping_of"]

SHOWN_BY_DRY_RUN = 5

_FILE_OPTIONS = (
    click.option("--stream", metavar="COLUMN", type=NAME, help="Column of the stream's name."),
    click.option("--type", metavar="COLUMN", type=NAME, help="Column of the event's type."),
    click.option("--time", metavar="COLUMN", type=NAME, help="Column of created_at, in ISO 8601; UTC without a zone."),
    click.option("--tag", "tags", metavar="COLUMN", type=NAME, multiple=True, help="Tags COLUMN:value; repeatable."),
    click.option("--data", metavar="COLUMN|*", type=NAME, multiple=True, help="Columns of the data.  [default: *]"),
    click.option("--metadata", metavar="COLUMN|*", type=NAME, multiple=True, help="Columns of the metadata."),
    click.option("--stream-prefix", metavar="TEXT", type=NAME, default="", help="Put before each stream's name."),
    click.option("--infer-types", is_flag=True, help="CSV cells that spell numbers, true, false or null become these."),
    click.option("--exported", is_flag=True, help="The file was written by `eventstore export`; needs no columns."),
    click.option("--format", type=click.Choice(["csv", "ndjson"]), help="Of the file, if its name does not tell."),
    click.option("--delimiter", metavar="CHAR", default=",", show_default=True, help="Between the cells of a CSV row."),
)


def file_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a file becomes events; `mapping_of` takes them."""
    for option in reversed(_FILE_OPTIONS):
        function = option(function)
    return function


def mapping_of(exported: bool, stream: str | None, type: str | None, **columns: Any) -> Mapping:
    """Return the mapping the options describe (`click.UsageError` if they do not)."""
    from eventstore.importing import ColumnMapping, Exported

    if exported:
        if stream is not None or type is not None or any(columns.values()):
            raise click.UsageError("--exported takes every field as it is; leave the columns out")
        return Exported()
    if stream is None or type is None:
        raise click.UsageError("--stream and --type say which columns name the stream and the type; both are needed")
    columns["data"] = columns["data"] or ("*",)
    return ColumnMapping(stream=stream, type=type, **columns)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@file_options
@click.option(
    "--batch-size", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Rows of one transaction."
)
@click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="What a bad row does."
)
@click.option("--rejects", type=click.Path(dir_okay=False), metavar="FILE", help="Where skipped rows go, as NDJSON.")
@click.option("--dry-run", is_flag=True, help=f"Only read and map; show the first {SHOWN_BY_DRY_RUN} events.")
@shared_options
def command(
    session: Session,
    file: str,
    format: Any,
    delimiter: str,
    batch_size: int,
    on_error: str,
    rejects: str | None,
    dry_run: bool,
    **mapping: Any,
) -> None:
    """Import the rows of a CSV or NDJSON file (plain or gzipped; - is stdin) as events.

    The order of rows becomes the order of positions. An event's id is derived from its row's content, so importing a
    file again adds nothing, and importing a longer one adds what is new. Each batch is one transaction; a malformed
    row stops the import, what is imported stays, and running it again goes on from there. With --on-error skip such
    rows are written to --rejects with their line and the reason, and the exit code is 0.

    In CSV an empty cell gives no key and no tag, and values are strings unless --infer-types. In NDJSON the top-level
    keys are the columns, values keep their types, and a list gives one tag an item.

    \b
    Examples:
      eventstore import log.csv --stream case --type activity --time timestamp --tag department
      eventstore import clicks.ndjson.gz --stream user --stream-prefix user- --type action --data url
      eventstore import log.csv --stream case --type activity --on-error skip --rejects rejects.ndjson
      eventstore export backup.ndjson.gz && eventstore import backup.ndjson.gz --exported --schema copy
    """
    chosen = mapping_of(**mapping)
    _check(file, delimiter, on_error, rejects)
    with _opened(file, format, delimiter) as rows, _rejects_to(rejects) as lines:
        work = _Import(session, rows, chosen, lines)
        if dry_run:
            work.preview()
        else:
            session.run(work.run(batch_size))


def _check(file: str, delimiter: str, on_error: str, rejects: str | None) -> None:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise click.UsageError(f"--delimiter must be one character, not {delimiter!r}")
    if (on_error == "skip") != (rejects is not None):
        raise click.UsageError("--on-error skip and --rejects FILE belong together: no row is dropped unseen")
    if rejects is not None and os.path.realpath(rejects) == os.path.realpath(file):
        raise click.UsageError("--rejects is the file to import itself")


@contextmanager
def _opened(file: str, format: Any, delimiter: str) -> Iterator[RowFile]:
    from eventstore.importing import open_rows

    with open_rows(file, format, delimiter=delimiter) as rows:
        yield rows


@contextmanager
def _rejects_to(file: str | None) -> Iterator[IO[str] | None]:
    if file is None:
        yield None
        return
    with io.TextIOWrapper(open_output(file, "w", name=file), encoding="utf-8") as lines:
        yield lines


class _Import:
    """One run: what it reads, how, and what it tells."""

    def __init__(self, session: Session, rows: RowFile, mapping: Mapping, rejects: IO[str] | None) -> None:
        self._session, self._rows, self._mapping, self._rejects = session, rows, mapping, rejects

    async def run(self, batch_size: int) -> None:
        """Import into the log."""
        from eventstore.importing import import_rows

        async with self._session.store() as store:
            started = perf_counter()
            with self._progress() as reached:
                done = await import_rows(
                    self._rows,
                    self._mapping,
                    store.append_known,
                    batch_size=batch_size,
                    on_batch=lambda batch, _: self._finish_batch(reached, batch.bytes_read),
                    on_reject=self._reject if self._rejects else None,
                )
        self._flush_rejects()
        self._summarize(done, perf_counter() - started)

    def preview(self) -> None:
        """Show the first events and count the others; nothing is written."""
        from eventstore.importing import Reject, map_rows

        counts = {"rows": 0, "rejected": 0}
        with self._progress() as reached:
            for item in map_rows(self._rows, self._mapping):
                counts["rows"] += 1
                if isinstance(item, Reject):
                    self._reject_or_fail(item)
                    counts["rejected"] += 1
                elif counts["rows"] - counts["rejected"] <= SHOWN_BY_DRY_RUN:
                    write_line(json_line(_preview(item)))
                if counts["rows"] % 1000 == 0:
                    self._finish_batch(reached, self._rows.bytes_read)
        self._flush_rejects()
        sentence = f"{counts['rows']:,} rows, {counts['rejected']:,} rejected; nothing was written to the log"
        result(self._session.json, {"file": self._rows.name, **counts, "dry_run": True}, sentence)
        self._warn_of_unseen_columns()

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """Yield a function to call with how far the file has been read."""
        reached = 0
        with progress(f"importing {self._rows.name}", total=self._rows.size, of_bytes=True) as done:

            def move(position: int) -> None:
                nonlocal reached
                done(position - reached)
                reached = position

            yield move

    def _finish_batch(self, reached: Callable[[int], None], position: int) -> None:
        self._flush_rejects()
        reached(position)

    def _flush_rejects(self) -> None:
        # A row counts as rejected once it is in the file: a full disk must not be found after the count was told.
        if self._rejects is not None:
            self._rejects.flush()

    def _reject(self, reject: Reject) -> None:
        assert self._rejects is not None
        row = {"file": self._rows.name, "line": reject.line, "reason": reject.reason, **_as_it_was(reject.raw)}
        self._rejects.write(json_line(row) + "\n")

    def _reject_or_fail(self, reject: Reject) -> None:
        from eventstore.errors import ImportFailed

        if self._rejects is None:
            raise ImportFailed(self._rows.name, reject.line, reject.reason)
        self._reject(reject)

    def _summarize(self, done: Imported, seconds: float) -> None:
        row = {
            "file": self._rows.name,
            "rows": done.rows,
            "added": done.added,
            "known": done.known,
            "rejected": done.rejected,
            "seconds": round(seconds, 3),
            "events_per_second": round(done.added / seconds),
        }
        sentence = (
            f"{done.rows:,} rows: {done.added:,} events added, {done.known:,} already known, "
            f"{done.rejected:,} rejected; {seconds:.1f} s"
        )
        if done.added:
            sentence += f", {row['events_per_second']:,} events/s"
        result(self._session.json, row, sentence)
        self._warn_of_unseen_columns()

    def _warn_of_unseen_columns(self) -> None:
        for column in sorted(self._rows.unseen):
            click.echo(f"note: no row has a column {column!r}", err=True)


def _preview(one: Mapped) -> dict[str, Any]:
    event = one.event
    return {
        "line": one.row.line,
        "id": event.id,
        "stream": one.stream,
        "type": event.type,
        "data": json.loads(event.encoded_data),
        "metadata": event.metadata,
        "tags": event.tags,
        "created_at": event.created_at,
    }


def _as_it_was(raw: str) -> dict[str, str]:
    """Return the record's text, or its bytes where they are no text."""
    stored = raw.encode("utf-8", "surrogateescape")
    try:
        return {"row": stored.decode()}
    except UnicodeDecodeError:
        return {"row_base64": b64encode(stored).decode()}
