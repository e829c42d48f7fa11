"""``eventstore append``: one event from options, or several as NDJSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import click

from eventstore.cli.output import cell, result
from eventstore.cli.selecting import condition_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import JSON, POSITION, TIME, ParamType, parse_json

if TYPE_CHECKING:
    from eventstore.conditions import AppendCondition
    from eventstore.events import AppendResult, NewEvent

__all__ = ["command"]

TAKEN = {"id", "type", "data", "metadata", "tags", "created_at"}
GIVEN_BY_THE_LOG = {"stream", "version", "position", "recorded_at"}


class _Expected(ParamType):
    name = "expected"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from eventstore.events import ANY, NO_STREAM, STREAM_EXISTS

        named = {"any": ANY, "none": NO_STREAM, "exists": STREAM_EXISTS}
        if value in named:
            return named[value]
        if not value.isdecimal():
            self.fail(f"{value!r} is none of any, none, exists, or a version", param, ctx)
        return POSITION.convert(value, param, ctx)


SECONDS = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("stream", required=False)
@click.option("--no-stream", is_flag=True, help="The events belong to no stream; instead of STREAM.")
@click.option("--type", "type_", metavar="TYPE", help="Append one event of this type.")
@click.option("--data", type=JSON, metavar="JSON", help="Its data.  [default: null]")
@click.option("--metadata", type=JSON, metavar="JSON", help="Its metadata, a JSON object.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="One of its tags; repeatable.")
@click.option("--id", "id_", type=click.UUID, metavar="UUID", help="Its id; makes repeating the append harmless.")
@click.option("--file", type=click.File("rb"), metavar="FILE", help="Append events from NDJSON; - is stdin.")
@click.option(
    "--expected",
    type=_Expected(),
    default="any",
    show_default=True,
    metavar="any|none|exists|N",
    help="What the stream must be at.",
)
@condition_options
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Give up after so long.  [default: never]")
@shared_options
def command(
    session: Session,
    stream: str | None,
    no_stream: bool,
    file: IO[bytes] | None,
    expected: int,
    condition: AppendCondition | None,
    timeout: float | None,
    **event: Any,
) -> None:
    """Append events to a stream.

    One event from --type and its options, or up to 1,000 as NDJSON from a file or stdin: a line is
    {"type": …, "data": …, "metadata": …, "tags": […], "id": …, "created_at": …}, of which only the type is needed.
    Lines written by `eventstore read --json` are taken too; where they stood is left out. All or nothing.

    With --no-stream the events are ordered by position only. The --unless options are a selector as `eventstore read`
    takes it: if a stored event matches, nothing is appended, and the exit code is 5. To append only if nothing has
    changed since you read, select what you read, and give the position of its last event as --after.

    \b
    Examples:
      eventstore append order-1 --type OrderPlaced --data '{"total": 9}' --tag customer:7
      eventstore append order-1 --type OrderPaid --expected 1
      eventstore append order-1 --file events.ndjson --expected none
      eventstore append --no-stream --type NameTaken --tag name:ada --unless-tag name:ada
      eventstore append --no-stream --type SeatTaken --tag show:7 --unless-tag show:7 --after 4711
      eventstore read order-1 --json | eventstore append order-1 --dsn postgresql://other/db
    """
    _check_place(stream, no_stream, expected)
    events = list(_events(file, **event))
    if not events:
        where = "standard input" if file is None else file.name
        raise click.UsageError(f"nothing to append, {where} is empty: give --type, or NDJSON on standard input")
    done = session.run(_append(session, stream, events, expected=expected, condition=condition, timeout=timeout))
    _print(session, len(events), done)


def _check_place(stream: str | None, no_stream: bool, expected: int) -> None:
    from eventstore.events import ANY

    if (stream is None) != no_stream:
        raise click.UsageError("name the STREAM to append to, or give --no-stream; one of them")
    if stream is None and expected != ANY:
        raise click.UsageError("--expected is about a stream; without one a condition will do, such as --unless-tag")


async def _append(session: Session, stream: str | None, events: list[NewEvent], **options: Any) -> AppendResult:
    from eventstore.errors import OutcomeUnknown

    async with session.store() as store:
        try:
            return await store.append(stream, events, **options)
        except OutcomeUnknown as error:
            # Only who knows the ids can repeat the append, and these may have been made here.
            whose = "its id is" if len(events) == 1 else "the first event's id is"
            raise OutcomeUnknown(f"{error}; {whose} {events[0].id}") from error


def _print(session: Session, count: int, done: AppendResult) -> None:
    row = {
        "stream": done.stream,
        "version": done.version,
        "position": done.position,
        "first_version": done.first_version,
        "first_position": done.first_position,
        "idempotent": done.idempotent,
    }
    verb = "had already appended" if done.idempotent else "appended"
    events = "1 event" if count == 1 else f"{count} events"
    place = "without a stream:" if done.stream is None else f"to {cell(done.stream)}: version {done.version},"
    result(session.json, row, f"{verb} {events} {place} position {done.position}")


def _events(file: IO[bytes] | None, type_: str | None, **options: Any) -> Iterator[NewEvent]:
    if type_ is not None:
        if file is not None:
            raise click.UsageError("--type makes one event, --file reads several; give one of them")
        yield _event(type_, **options)
        return
    if any(value not in (None, ()) for value in options.values()):
        raise click.UsageError("--data, --metadata, --tag and --id describe one event; give its --type")
    if file is None and sys.stdin.isatty():
        raise click.UsageError("nothing to append: give --type, or NDJSON with --file or on stdin")
    yield from _read(file or sys.stdin.buffer)


def _event(type_: str, data: Any, metadata: Any, tags: tuple[str, ...], id_: UUID | None) -> NewEvent:
    from eventstore.events import NewEvent, uuid7

    return NewEvent(type_, data, {} if metadata is None else metadata, tags, id_ or uuid7())


def _read(file: IO[bytes]) -> Iterator[NewEvent]:
    from eventstore.errors import InvalidEvent
    from eventstore.log.append import MAX_EVENTS

    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    for number, line in islice(lines, MAX_EVENTS):
        try:
            yield _from_json(line)
        except InvalidEvent as error:
            raise type(error)(f"line {number}: {error}") from None
        except ValueError as error:
            raise InvalidEvent(f"line {number}: not JSON: {error}") from None
    if next(lines, None):
        raise InvalidEvent(f"an append takes at most {MAX_EVENTS:,} events; `eventstore import` takes any number")


def _from_json(line: bytes) -> NewEvent:
    from eventstore.errors import InvalidEvent
    from eventstore.events import NewEvent

    fields = parse_json(line)
    if not isinstance(fields, dict) or "type" not in fields:
        raise InvalidEvent('not an event: {"type": …, "data": …}')
    if unknown := sorted(fields.keys() - TAKEN - GIVEN_BY_THE_LOG):
        raise InvalidEvent(f"unknown field {unknown[0]!r}; an event has {', '.join(sorted(TAKEN))}")
    taken = {name: value for name, value in fields.items() if name in TAKEN}
    return NewEvent(**taken | _typed(taken))


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON has no type of its own for: the id and the time."""
    from eventstore.errors import InvalidEvent

    typed: dict[str, Any] = {}
    try:
        if "id" in fields:
            typed["id"] = UUID(fields["id"])
        if "created_at" in fields:
            typed["created_at"] = TIME.convert(fields["created_at"], None, None)
    except (click.BadParameter, ValueError, TypeError, AttributeError) as error:
        raise InvalidEvent(f"id or created_at: {error}") from None
    return typed
