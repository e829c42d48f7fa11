"""``eventstore stream``: show one, set its limits, delete it, close it for good."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import StreamNotFound
from eventstore.cli.output import cell, json_line, result, write_line
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options
from eventstore.cli.streams import row_of
from eventstore.cli.values import JSON, MAX_BIGINT, NAME, POSITION, ParamType

if TYPE_CHECKING:
    from eventstore.log.streams import StreamInfo

__all__ = ["command"]

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

FIELDS = ("max-age", "max-count", "truncate-before", "custom")

FROM_ONE = click.IntRange(min=1, max=MAX_BIGINT)


class Age(ParamType):
    """Seconds, or a number with a unit: 90s, 15m, 12h, 30d, 2w."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse *value*."""
        number = str(value).rstrip("smhdw")
        try:
            seconds = float(number) * SECONDS[str(value)[len(number) :]]
        except (ValueError, KeyError):
            seconds = 0
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is no time above 0 such as 3600, 90s, 15m, 12h, 30d or 2w", param, ctx)
        return seconds


@click.group()
@shared_options
def command(_session: Session) -> None:
    """Show a stream, set its limits, delete or tombstone it."""


@command.command()
@click.argument("name", type=NAME)
@shared_options
def info(session: Session, name: str) -> None:
    """Show a stream: version, state, what readers see, limits.

    \b
    Examples:
      eventstore stream info order-1
      eventstore stream info order-1 --json
    """
    row = row_of(session.run(_info(session, name)))
    if session.json:
        write_line(json_line(row))
        return
    for key, value in row.items():
        write_line(f"{key}\t{cell(value)}".expandtabs(16).rstrip())


async def _info(session: Session, name: str) -> StreamInfo:
    async with session.store() as store:
        return _known(name, await store.stream_info(name))


def _known(name: str, info: StreamInfo | None) -> StreamInfo:
    if info is None:
        raise StreamNotFound(name)
    return info


@command.command("set")
@click.argument("name", type=NAME)
@click.option("--max-age", type=Age(), metavar="AGE", help="Hide what is older: seconds, or 15m, 12h, 30d, 2w.")
@click.option("--max-count", type=FROM_ONE, metavar="N", help="Hide all but the N newest events.")
@click.option("--truncate-before", type=FROM_ONE, metavar="N", help="Hide the versions below N.")
@click.option("--custom", type=JSON, metavar="JSON", help="An object of your own, which the store only keeps.")
@click.option("--clear", type=click.Choice(FIELDS), multiple=True, help="Take this one away; repeatable.")
@shared_options
def set_(session: Session, name: str, clear: tuple[str, ...], **options: Any) -> None:
    """Set limits of a stream; what is not named stays as it is.

    Limits hide events from readers of the stream at once; `eventstore scavenge` removes what they hide. The stream need
    not have events yet.

    \b
    Examples:
      eventstore stream set sensor-1 --max-age 30d --max-count 1000
      eventstore stream set order-1 --truncate-before 120
      eventstore stream set sensor-1 --clear max-count --custom '{"owner": "plant 4"}'
    """
    named = {option: value for option, value in options.items() if value is not None}
    cleared = {option.replace("-", "_") for option in clear}
    if not named and not cleared:
        raise click.UsageError("nothing to set; name a limit, --custom, or --clear FIELD")
    if both := sorted(named.keys() & cleared):
        raise click.UsageError(f"--{both[0].replace('_', '-')} is to be set and cleared at once")
    changes = named | {option: {} if option == "custom" else None for option in cleared}
    stored = session.run(_set(session, name, changes))
    limits = {key: value for key, value in row_of(stored).items() if key.replace("_", "-") in FIELDS}
    shown = ", ".join(f"{key.replace('_', '-')} {cell(value)}" for key, value in limits.items() if value)
    result(session.json, row_of(stored), f"stream {cell(name)}: {shown or 'no limits'}")


async def _set(session: Session, name: str, changes: dict[str, Any]) -> StreamInfo:
    from dataclasses import replace

    from eventstore.log.streams import StreamMetadata

    async with session.store() as store:
        found = await store.stream_info(name)
        await store.set_stream_metadata(name, replace(found.metadata if found else StreamMetadata(), **changes))
        return _known(name, await store.stream_info(name))


_expected = click.option("--expected", type=POSITION, metavar="N", help="Only if the stream is at this version.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@command.command()
@click.argument("name", type=NAME)
@_expected
@_yes
@shared_options
def delete(session: Session, name: str, expected: int | None, yes: bool) -> None:
    """Hide all events of a stream; the next append revives it.

    Versions go on where they were. The log shows the events until `eventstore scavenge` has removed them.

    \b
    Examples:
      eventstore stream delete order-1
      eventstore stream delete order-1 --expected 7 --yes
    """
    _confirm(f"Delete the events of stream {cell(name)}?", yes)
    done = session.run(_delete(session, name, expected))
    sentence = f"deleted stream {cell(name)}" if done else f"stream {cell(name)} has nothing to delete"
    result(session.json, {"stream": name, "deleted": done}, sentence)


async def _delete(session: Session, name: str, expected: int | None) -> bool:
    from eventstore.events import ANY

    async with session.store() as store, recorded(store.database, "delete stream", name, expected=expected):
        done = await store.delete_stream(name, expected=ANY if expected is None else expected)
        if not done:
            _known(name, await store.stream_info(name))
        return done


@command.command()
@click.argument("name", type=NAME)
@_expected
@_yes
@shared_options
def tombstone(session: Session, name: str, expected: int | None, yes: bool) -> None:
    """Close a stream for good: no events, no appends, ever.

    A name that was never used can be closed as well.

    \b
    Examples:
      eventstore stream tombstone order-1
      eventstore stream tombstone order-1 --yes --json
    """
    _confirm(f"Close stream {cell(name)} for good? Nothing opens it again.", yes)
    done = session.run(_tombstone(session, name, expected))
    sentence = f"stream {cell(name)} {'is' if done else 'was already'} closed for good"
    result(session.json, {"stream": name, "tombstoned": done}, sentence)


async def _tombstone(session: Session, name: str, expected: int | None) -> bool:
    from eventstore.events import ANY

    async with session.store() as store, recorded(store.database, "tombstone stream", name, expected=expected):
        return await store.tombstone_stream(name, expected=ANY if expected is None else expected)


def _confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere nobody can answer, and a script has to say --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to confirm on; --yes does not ask")
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the end of the input, which moves no terminal to the next line
        click.echo(err=True)
    if answer.strip().lower() not in ("y", "yes"):
        raise click.ClickException("not confirmed, nothing was changed; --yes does not ask")
