"""Two ways to run a command: inside this process, and as a process of its own where signals and pipes matter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from eventstore import EventStore, NewEvent, Settings
from eventstore.cli import main
from tests.forking import instead_of_an_interpreter

Run = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVENTSTORE_DSN", "EVENTSTORE_SCHEMA", "EVENTSTORE_DATA_DIR", "EVENTSTORE_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def plain() -> Run:
    """Run a command without a database."""

    def run(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(main, args, **options)

    return run


@pytest.fixture
def cli(db: str, plain: Run) -> Run:
    """Run a command on the fresh database."""

    def run(*args: str, **options: Any) -> Result:
        return plain("--dsn", db, *args, **options)

    return run


@pytest.fixture
def append(db: str) -> Callable[..., None]:
    """Append events by the library. Blocking, for a command brings an event loop of its own."""

    async def run(stream: str | None, *events: NewEvent) -> None:
        async with EventStore(db, settings=Settings(listen=False)) as store:
            await store.append(stream, events)

    return lambda *args: asyncio.run(run(*args))


@pytest.fixture
def execute(db: str) -> Callable[[str], None]:
    """Run a statement as the owner of the database."""

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(db)
        await connection.execute(statement)
        await connection.close()

    return lambda statement: asyncio.run(run(statement))


@pytest.fixture
def spawn_plain() -> Iterator[Spawn]:
    """Start a command as a process of its own, without a database."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str | bytes, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "eventstore.cli", *args]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = instead_of_an_interpreter("eventstore.cli", *args, env=os.environ | (env or {}))
        process = subprocess.Popen(command, text=True, preexec_fn=child, **pipes | options)
        started.append(process)
        return process

    yield run
    for process in started:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()


@pytest.fixture
def spawn(db: str, spawn_plain: Spawn) -> Spawn:
    """Start a command on the fresh database as a process of its own."""
    return lambda *args, env=None, **options: spawn_plain(*args, env={"EVENTSTORE_DSN": db} | (env or {}), **options)


def rows(result: Result) -> list[dict[str, Any]]:
    """What a command printed with --json; the command must have succeeded."""
    assert result.exit_code == 0, result.stderr
    # Lines end with \n alone: JSON may hold what str.splitlines takes for a line's end.
    return [json.loads(line) for line in result.stdout.split("\n")[:-1]]


def failure(result: Result) -> tuple[int, str]:
    """Exit code and error of a command run with --json; nothing else may be on stderr."""
    assert result.stdout == ""
    return result.exit_code, json.loads(result.stderr)["error"]


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    """Send a signal; return the exit code and what is left on stderr."""
    process.send_signal(number)
    code, _, stderr = ended(process)
    return code, stderr


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return the exit code and what is left on stdout and stderr.

    Also what came together with a line that was read, and is in a buffer here: `Popen.communicate` leaves that out.
    """
    with ThreadPoolExecutor(2) as threads:
        out, err = (threads.submit(_rest, stream) for stream in (process.stdout, process.stderr))
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return code, out.result(), err.result()


def _rest(stream: Any) -> str:
    return "" if stream is None or stream.closed else str(stream.read())


def line_with(stream: Any, text: str) -> str:
    """Wait for the line that holds *text*."""
    return next(line for line in stream if text in line)
