"""Two ways to run a command: inside this process, and as a process of its own where signals and pipes matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eventstore.cli import main

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
def spawn(db: str) -> Iterator[Spawn]:
    """Start a command on the fresh database as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str, **options: Any) -> subprocess.Popen[str]:
        environment = os.environ | {"EVENTSTORE_DSN": db} | options.pop("env", {})
        process = subprocess.Popen(
            [sys.executable, "-m", "eventstore.cli", *args],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def rows(result: Result) -> list[dict[str, Any]]:
    """What a command printed with --json; the command must have succeeded."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def failure(result: Result) -> tuple[int, str]:
    """Exit code and error of a command run with --json; nothing else may be on stderr."""
    assert result.stdout == ""
    return result.exit_code, json.loads(result.stderr)["error"]


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    """Send a signal; return the exit code and what is left on stderr."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr


def line_with(stream: Any, text: str) -> str:
    """Wait for the line that holds *text*."""
    return next(line for line in stream if text in line)
