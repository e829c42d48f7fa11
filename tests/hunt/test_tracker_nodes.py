"""Trackers in processes of their own, which are killed, stopped, started again and cut off."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.figures import note
from tests.forking import instead_of_an_interpreter
from tests.hunt.proxy import proxied
from tests.hunt.racing import times
from tests.hunt.tracker_node import PERIOD

pytestmark = pytest.mark.hunt

DOWN = times(4.0, 1.0)
NEVER = 600.0
SLACK = 60.0
"""Seconds by which a busy machine may be late."""


class Process:
    """A node, and the part of its journal that was read.

    Attributes:
        present: the keys that joined and did not leave, by the journal.
        seen: (seconds, joins, leaves) of each diff.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.vsn = ""
        self.seen: list[tuple[float, list[str], list[str]]] = []
        self.present: list[str] = []

    async def ask(self, line: str) -> list[str]:
        """Send a line; return the keys that are listed after it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        return await self.answer(line.split()[0])

    async def answer(self, word: str) -> list[str]:
        while (said := await self._line())[0] != word:
            self._note(said)
        self.vsn = said[1]
        return said[2] if len(said) > 2 else []

    async def until(self, *keys: str) -> float:
        """Return when just these are present by the journal, with the time of its last line."""
        while sorted(self.present) != sorted(keys):
            self._note(await self._line())
        return self.seen[-1][0] if self.seen else 0.0

    def _note(self, said: list[Any]) -> None:
        assert said[0] == "diff"
        at, joins, leaves = said[1:]
        self.seen.append((at, joins, leaves))
        for key in leaves:
            self.present.remove(key)
        self.present += joins

    async def _line(self) -> list[Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "the node ended"
        return list(json.loads(line))

    async def kill(self) -> float:
        at = time.monotonic()
        self.process.kill()
        await self.process.wait()
        return at


@asynccontextmanager
async def node(dsn: str, name: str, down_period: float = DOWN) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hunt.tracker_node", dsn, name, str(down_period),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        preexec_fn=instead_of_an_interpreter("tests.hunt.tracker_node", dsn, name, str(down_period)),
    )  # fmt: skip
    try:
        started = Process(process)
        await started.answer("ready")
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def enough() -> asyncio.Timeout:
    return asyncio.timeout(600)


async def test_the_presences_of_a_killed_node_leave_after_its_down_period(db: str) -> None:
    after = list[float]()
    async with enough(), node(db, "b") as b:
        for number in range(times(1, 20)):
            async with node(db, f"a{number}") as a:
                await a.ask("track k")
                await b.until("k")
                killed = await a.kill()
                left = await b.until()
                # Its last word may have been said one heartbeat before, and a moment in which it could say nothing.
                assert DOWN - 2 * PERIOD - times(3.0, 0.5) < left - killed < DOWN + 2 * PERIOD + SLACK
                after.append(left - killed)
    note(killed=len(after), down_period_s=DOWN, gone_after_s=round(max(after), 2))


async def test_a_node_that_was_stopped_goes_and_comes_back_as_the_same_with_its_presences(db: str) -> None:
    async with enough(), node(db, "a") as a, node(db, "b") as b:
        await a.ask("track of-a")
        await b.ask("track of-b")
        await a.until("of-a", "of-b")
        await b.until("of-a", "of-b")
        for _ in range(times(1, 20)):
            before = a.vsn
            a.process.send_signal(signal.SIGSTOP)
            await b.until("of-b")
            a.process.send_signal(signal.SIGCONT)
            await b.until("of-a", "of-b")
            await a.ask("list")
            await a.until("of-a", "of-b")
            assert a.vsn == before
    note(halted=times(1, 20), came_back=times(1, 20))


async def test_a_node_that_starts_again_has_another_vsn_and_none_of_its_old_presences(db: str) -> None:
    async with enough(), node(db, "b", NEVER) as b:
        vsns, keys = set(), []
        for number in range(times(2, 20)):
            async with node(db, "a", NEVER) as a:
                await a.ask(f"track k{number}")
                # The one before leaves with the first word of this one: it would be down only in ten minutes.
                await b.until(f"k{number}")
                vsns.add(a.vsn)
                keys.append(f"k{number}")
                await a.kill()
        async with node(db, "a", NEVER) as a:
            await b.until()
            await a.ask("track last")
            await b.until("last")
            assert (await a.ask("list"), await b.ask("list")) == (["last"], ["last"])
            await a.until("last")
        joined = [key for _, joins, _ in b.seen for key in joins]
        assert (joined, len(vsns)) == ([*keys, "last"], len(keys))


async def test_a_farewell_is_seen_at_once(db: str) -> None:
    async with enough(), node(db, "a", NEVER) as a, node(db, "b", NEVER) as b:
        await a.ask("track k")
        await b.until("k")
        assert await a.ask("permdown") == []
        await b.until()


async def test_nodes_cut_off_from_each_other_agree_again_afterwards(db: str) -> None:
    async with enough(), proxied(db) as proxy, node(db, "a") as a, node(proxy.dsn, "b") as b:
        await a.ask("track of-a")
        await b.ask("track of-b")
        both = ["of-a", "of-b"]
        await a.until(*both)
        await b.until(*both)
        for number in range(times(1, 10)):
            proxy.go_away()
            await a.until(*(key for key in both if key.endswith("-a")))
            await b.until(*(key for key in both if key.endswith("-b")))
            for process, key in (a, f"{number}-a"), (b, f"{number}-b"):
                await process.ask(f"track {key}")
                both.append(key)
            proxy.come_back()
            await a.until(*both)
            await b.until(*both)
            # On a busy machine somebody may be silent for a moment.
            while (listed := await a.ask("list")) != await b.ask("list") or sorted(listed) != sorted(both):
                pass
    note(splits=times(1, 10), agreed_again_on=len(both))
