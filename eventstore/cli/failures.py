"""Exit codes, and how errors are printed: one line on stderr, as JSON with ``--json``, with a traceback on request."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from eventstore import errors

__all__ = ["EXIT_CODES", "EXIT_CODES_HELP", "Interrupted", "OutputClosed", "StreamNotFound", "Terminated", "exit_code"]

OK, FAILED, INVALID, UNAVAILABLE, BEHIND, CONFLICT, NOT_FOUND, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 5, 6, 130, 143

EXIT_CODES_HELP = """\b
Exit codes:
    0  done
    1  a check failed, or something unexpected happened
    2  wrong usage or invalid input
    3  the database is unavailable
    4  a migration is required
    5  conflict: wrong expected version, duplicate id, subscription exists
    6  not found: stream or subscription
  130  interrupted by Ctrl-C (143: by SIGTERM)
"""


class StreamNotFound(errors.EventStoreError, LookupError):
    """There is no stream of that name."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"no stream named {stream!r}; `eventstore streams` lists those that exist")


class OutputClosed(Exception):
    """Whoever read stdout has gone, as ``| head`` does; not an error."""


class Interrupted(Exception):
    """Ctrl-C."""


class Terminated(Exception):
    """SIGTERM."""


EXIT_CODES: dict[type[BaseException], int] = {
    errors.EventStoreError: FAILED,
    errors.ConfigurationError: INVALID,
    errors.InvalidEvent: INVALID,
    errors.InvalidSelector: INVALID,
    errors.ImportFailed: INVALID,
    errors.DatabaseUnavailable: UNAVAILABLE,
    errors.MigrationRequired: BEHIND,
    errors.WrongExpectedVersion: CONFLICT,
    errors.DuplicateEventId: CONFLICT,
    errors.SubscriptionExists: CONFLICT,
    errors.TransactionConflict: CONFLICT,
    errors.SubscriptionNotFound: NOT_FOUND,
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
        _encode(_has(args, "--json"))
        with _sigterm_raises():
            result = run()
            _flush()
        return result if isinstance(result, int) else OK
    except click.ClickException as error:
        _print_usage(error, _has(args, "--json"))
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it gets an exit code
        code = next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), None)
        _report(error, code, args)
        return FAILED if code is None else code


def _report(error: BaseException, code: int | None, args: Sequence[str]) -> None:
    if code in (OK, INTERRUPTED, TERMINATED):
        _end_quietly(error)
        return
    debug = _has(args, "--debug") or os.environ.get("EVENTSTORE_DEBUG", "") not in ("", "0")
    if debug:
        import traceback

        traceback.print_exception(error)
    message = str(error)
    if code is None and not debug:
        message += " (unexpected; --debug shows where)"
    _print(type(error).__name__, message, _has(args, "--json"))


def _print(name: str, message: str, as_json: bool) -> None:
    line = json.dumps({"error": name, "message": message}, ensure_ascii=False) if as_json else f"{name}: {message}"
    click.echo(line, err=True)


def _print_usage(error: click.ClickException, as_json: bool) -> None:
    if as_json:
        _print(type(error).__name__, error.format_message(), as_json)
    else:
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


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def _end_quietly(error: BaseException) -> None:
    if isinstance(error, OutputClosed):
        # What is still buffered goes to nobody, or the interpreter would complain about the pipe when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif sys.stderr.isatty():
        click.echo(err=True)  # after the ^C that the terminal has drawn


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
