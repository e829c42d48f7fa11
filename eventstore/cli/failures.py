"""Exit codes, and how errors are printed: one line on stderr, as JSON with ``--json``, with a traceback on request.

Whatever is printed here is free of secrets: of DSNs in it, and of what the DSN of this run holds.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from eventstore import errors

__all__ = [
    "EXIT_CODES",
    "EXIT_CODES_HELP",
    "Interrupted",
    "OutputClosed",
    "OutputFailed",
    "ParkedNotFound",
    "StreamNotFound",
    "Terminated",
    "exit_code",
    "flush",
    "output_error",
]

OK, FAILED, INVALID, UNAVAILABLE, BEHIND, CONFLICT, NOT_FOUND, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 5, 6, 130, 143

STDOUT = "standard output"

EXIT_CODES_HELP = """\b
Exit codes:
    0  done
    1  a check failed, or something unexpected happened
    2  wrong usage or invalid input
    3  the database is unavailable, or did not answer in time
    4  a migration is required
    5  conflict: wrong expected version, failed condition, duplicate id,
       closed stream, subscription exists
    6  not found: stream, subscription or parked event
  130  interrupted by Ctrl-C (143: by SIGTERM)
"""


class StreamNotFound(errors.EventStoreError, LookupError):
    """There is no stream of that name."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"no stream named {stream!r}; `eventstore streams` lists those that exist")


class ParkedNotFound(errors.EventStoreError, LookupError):
    """The subscription has set aside no event at that position, or parked none of that key."""

    def __init__(self, name: str, position: int | None = None, key: str | None = None) -> None:
        self.name, self.position, self.key = name, position, key
        what = f"set aside no event at position {position}" if key is None else f"no event of key {key!r} parked"
        meant = ""
        if key is not None and key[:2] in ("s:", "e:") and key[2:]:  # as keys are stored, and told by lifecycle events
            meant = f"; did you mean {key[2:]!r}?"
        super().__init__(f"{name!r} has {what}{meant or '; `eventstore parked list` shows what it has'}")


class OutputClosed(Exception):
    """Whoever read stdout has gone, as ``| head`` does; not an error."""


class OutputFailed(errors.EventStoreError):
    """What was to be written could not be, as on a full disk."""

    def __init__(self, file: str, error: OSError) -> None:
        self.file = file
        super().__init__(f"cannot write {file}: {error.strerror or error}")


class Interrupted(Exception):
    """Ctrl-C."""


class Terminated(Exception):
    """SIGTERM."""


EXIT_CODES: dict[type[BaseException], int] = {
    errors.EventStoreError: FAILED,
    errors.ConfigurationError: INVALID,
    errors.InvalidEvent: INVALID,
    errors.InvalidMessage: INVALID,
    errors.InvalidSelector: INVALID,
    errors.ImportFailed: INVALID,
    errors.DatabaseUnavailable: UNAVAILABLE,
    errors.BroadcastError: UNAVAILABLE,
    TimeoutError: UNAVAILABLE,
    errors.MigrationRequired: BEHIND,
    errors.WrongExpectedVersion: CONFLICT,
    errors.AppendConditionFailed: CONFLICT,
    errors.StreamDeleted: CONFLICT,
    errors.DuplicateEventId: CONFLICT,
    errors.SubscriptionExists: CONFLICT,
    errors.TransactionConflict: CONFLICT,
    errors.SubscriptionNotFound: NOT_FOUND,
    ParkedNotFound: NOT_FOUND,
    StreamNotFound: NOT_FOUND,
    Interrupted: INTERRUPTED,
    KeyboardInterrupt: INTERRUPTED,
    click.Abort: INTERRUPTED,
    Terminated: TERMINATED,
    OutputClosed: OK,
}
"""Error → exit code; the nearest base class counts, and what has none here is unexpected."""


def exit_code(run: Callable[[], Any], args: Sequence[str]) -> int:
    """Call *run*, print what goes wrong, and return the exit code. *args* tell whether errors are to be JSON."""
    try:
        _open_closed_streams()
        _encode(_has(args, "--json"))
        with _sigterm_raises():
            result = run()
            flush()
        return result if isinstance(result, int) else OK
    except click.ClickException as error:
        if error.__cause__ is not None and _debug(args):
            _print_traceback(error, args)
        _print_usage(error, args)
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it gets an exit code
        code = next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), None)
        _report(error, code, args)
        return FAILED if code is None else code


def _report(error: BaseException, code: int | None, args: Sequence[str]) -> None:
    if code in (OK, INTERRUPTED, TERMINATED):
        _end_quietly(error)
        return
    if isinstance(error, OutputFailed) and error.file == STDOUT:
        _drop_buffered_output()
    debug = _debug(args)
    if debug:
        _print_traceback(error, args)
    message = str(error)
    if code is None and not debug:
        message += " (unexpected; --debug shows where)"
    _print(type(error).__name__, message, args, _facts(error))


def _debug(args: Sequence[str]) -> bool:
    if _has(args, "--debug"):
        return True
    try:
        return bool(click.BOOL.convert(os.environ.get("EVENTSTORE_DEBUG") or False, None, None))
    except click.BadParameter:  # as click has told already, or will
        return False


def _print_traceback(error: BaseException, args: Sequence[str]) -> None:
    import traceback

    click.echo(_hidden(args)("".join(traceback.format_exception(error))), err=True, nl=False)


def _hidden(args: Sequence[str]) -> Callable[[str], str]:
    """Return what hides the secrets of this run in a text: those in its arguments and its environment."""
    from eventstore.redaction import scrubbed, secrets_of

    places = [*args, os.environ.get("EVENTSTORE_DSN", ""), os.environ.get("EVENTSTORE_LISTEN_DSN", "")]
    secrets = {secret for place in places if "=" in place or ":" in place for secret in secrets_of(place)}
    if password := os.environ.get("PGPASSWORD"):
        secrets.add(password)
    return lambda text: scrubbed(text, secrets)


def _facts(error: BaseException) -> dict[str, Any]:
    """Return what an error of this package carries beside its message: a stream, a version, a position, ids."""
    return vars(error) if isinstance(error, errors.EventStoreError) else {}


def _print(name: str, message: str, args: Sequence[str], facts: Mapping[str, Any] | None = None) -> None:
    hide = _hidden(args)
    fields = {"error": name, "message": hide(message)}
    fields |= {key: hide(value) if isinstance(value, str) else value for key, value in (facts or {}).items()}
    as_json = _has(args, "--json")
    line = json.dumps(fields, ensure_ascii=False, default=str) if as_json else f"{name}: {fields['message']}"
    click.echo(line, err=True)


def _print_usage(error: click.ClickException, args: Sequence[str]) -> None:
    if _has(args, "--json"):
        _print(type(error).__name__, error.format_message(), args)
        return
    text = _hidden(args)(error.format_message())
    if text != error.format_message():  # it repeats an argument
        error = click.UsageError(text, getattr(error, "ctx", None))
    error.show()


def _has(args: Sequence[str], flag: str) -> bool:
    # Looked up in the arguments themselves: a usage error comes before any option has been read.
    end = args.index("--") if "--" in args else len(args)
    return flag in args[:end]


def _encode(as_json: bool) -> None:
    """JSON is UTF-8 whatever the locale says; other text shows what the locale lacks as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if as_json:
            sys.stdout.reconfigure(encoding="utf-8")
        else:
            sys.stdout.reconfigure(errors="backslashreplace")


def _open_closed_streams() -> None:
    """Put the null device where a standard stream was closed, as by ``<&-``.

    In this order each gets its own number back, which otherwise the next file or socket would have.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def flush() -> None:
    """Write what stdout has buffered (`OutputClosed`, `OutputFailed`)."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise output_error(error) from None


def output_error(error: OSError) -> OutputClosed | OutputFailed:
    """Return what an *error* in writing to stdout means."""
    return OutputClosed() if isinstance(error, BrokenPipeError) else OutputFailed(STDOUT, error)


def _end_quietly(error: BaseException) -> None:
    if isinstance(error, OutputClosed):
        _drop_buffered_output()
    elif sys.stderr.isatty():
        click.echo(err=True)  # after the ^C that the terminal has drawn


def _drop_buffered_output() -> None:
    # It goes to nobody, or the interpreter would try again when it ends, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that what was started is stopped."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    try:
        previous = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread, which alone handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
