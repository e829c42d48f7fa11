"""The processes of a campaign."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.forking import instead_of_an_interpreter
from tests.hunt.delivering import ROOT
from tests.hunt.journal import Entry

__all__ = ["Worker", "started"]


class Worker:
    """A process.

    Attributes:
        kind: ``node``, ``writer`` or ``reader``.
        steady: it is there from beginning to end, and neither killed nor halted.
        ready: it said so.
    """

    def __init__(
        self, kind: str, name: str, process: asyncio.subprocess.Process, note: Callable[[Entry], None], steady: bool,
        errors: Path,
    ) -> None:  # fmt: skip
        self.kind, self.name, self.process, self.steady = kind, name, process, steady
        self._note, self._errors = note, errors
        self._may_end = self.frozen = False
        self.ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Take what it says, of which a pipe holds only so much."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line == b"ready\n":
                self.ready.set()

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def gone(self) -> str:
        """What it said last, if it ended and should not have."""
        if self.alive or self._may_end:
            return ""
        last = deque(self._errors.open(errors="replace"), 12)
        return f"{self.name} ended with {self.process.returncode}: {''.join(last)}"

    async def kill(self) -> None:
        """End it without a word."""
        self._may_end = True
        if self.alive:
            self.process.kill()
        await self.process.wait()
        await self._listening

    def freeze(self) -> None:
        """Halt it in the middle of whatever it does."""
        self._note(Entry("stop", self.name, at=time.time()))
        self.frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        if self.alive:
            self.process.send_signal(signal.SIGCONT)

    async def ends(self, within: float, *, asked: bool = True) -> str:
        """Wait until it has ended, having asked it to; returns what went wrong, if something did."""
        try:
            async with asyncio.timeout(within):
                await self.ready.wait()
                self._may_end = True
                if asked and self.alive:
                    self.process.terminate()
                await self.process.wait()
        except TimeoutError:
            return f"{self.name} has not ended after {within:g} s"
        self._may_end = self.process.returncode == 0
        return self.gone


async def started(
    kind: str, name: str, arguments: list[str], directory: Path, note: Callable[[Entry], None], *, steady: bool
) -> Worker:
    """Start ``tests.faults.KIND``; what it complains about is in a file beside its journal."""
    errors = directory / f"{name}.log"
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"tests.faults.{kind}", *arguments, cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            preexec_fn=instead_of_an_interpreter(f"tests.faults.{kind}", *arguments),
        )  # fmt: skip
    return Worker(kind, name, process, note, steady, errors)
