"""A fork that stands in for an interpreter shows what an interpreter would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forking import instead_of_an_interpreter

SAID = """
import asyncio, atexit, logging, os, signal, sys, threading

async def loop():
    return threading.active_count()

print(__name__, sys.argv[1:], os.getcwd(), sys.path[0] == os.getcwd(), sorted(os.environ), asyncio.run(loop()))
print(sorted(os.listdir("/proc/self/fd"), key=int), logging.root.handlers, logging.root.level, sys.stdin.read())
print(*(signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)))
atexit.register(print, "ended")
"""


def ran(directory: Path, program: str, *, forked: bool) -> tuple[int, str, list[str]]:
    (directory / "said.py").write_text(program)
    environment, words = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, ["a", "b c"]
    child: dict[str, Any] = {"env": environment}
    if forked:
        child = {"preexec_fn": instead_of_an_interpreter("said", *words, env=environment)}
    command = [sys.executable, "-m", "said", *words]
    done = subprocess.run(command, cwd=directory, text=True, input="given", capture_output=True, check=False, **child)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "sys.exit('no')", "1 / 0", "os.kill(os.getpid(), signal.SIGTERM)"], ids=repr
)
async def test_it_is_told_has_and_says_the_same_and_ends_the_same(tmp_path: Path, end: str) -> None:
    interpreter, fork = (ran(tmp_path, SAID + end, forked=forked) for forked in (False, True))
    assert fork == interpreter


def test_nothing_is_executed(tmp_path: Path) -> None:
    says = "import sys; print('tests.forking' in sys.modules)"
    assert [ran(tmp_path, says, forked=forked)[1] for forked in (False, True)] == ["False\n", "True\n"]
