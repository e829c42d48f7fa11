"""Dumps of a store whose chain is on and whose log is sealed: what comes back is verified, a changed dump is found."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore, NewEvent
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.conftest import QUICK
from tests.operating.test_backup import dump, restore, tool
from tests.operating.test_backup import elsewhere as elsewhere


class Sealed:
    """A key, the seals that are kept beside the database, and commands that use them."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._run, self.key, self.seals = run, folder / "key", folder / "seals"

    async def call(self, dsn: str, *command: str | Path) -> Any:
        return await asyncio.to_thread(self._run, "--dsn", dsn, *map(str, command))

    async def seal(self, dsn: str) -> None:
        done = await self.call(dsn, "seal", "--key", self.key, "--out", self.seals)
        assert done.exit_code == 0, done.stderr

    async def verify(self, dsn: str) -> tuple[int, dict[str, Any]]:
        """With the seals that were kept: the exit code, and what was found."""
        done = await self.call(dsn, "verify", "--seals", self.seals, "--public-key", f"{self.key}.pub", "--json")
        return done.exit_code, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


async def append(dsn: str, *data: str) -> None:
    async with EventStore(dsn, settings=QUICK) as store:
        for n, one in enumerate(data):
            await store.append(f"s{n % 2}", [NewEvent("T", {"is": one})])


@pytest.fixture
async def sealed(db: str, tmp_path: Path, plain: Run) -> Sealed:
    """A log that was chained and sealed twice, with an event that no seal covers yet."""
    made = Sealed(tmp_path, plain)
    assert plain("evidence", "key", str(made.key)).exit_code == 0
    await made.call(db, "evidence", "on")
    for data in (("a", "b", "c"), ("d", "e")):
        await append(db, *data)
        await made.seal(db)
    await append(db, "f")
    return made


async def test_a_sealed_log_that_was_restored_is_verified_and_sealed_further(
    db: str, elsewhere: str, sealed: Sealed, tmp_path: Path
) -> None:
    await asyncio.to_thread(restore, await asyncio.to_thread(dump, db, tmp_path / "dump"), elsewhere)
    assert await sealed.verify(elsewhere) == await sealed.verify(db)
    await append(elsewhere, "g")
    await sealed.seal(elsewhere)
    code, found = await sealed.verify(elsewhere)
    assert (code, found["events"], found["seals"]) == (0, 7, 3)


def changed(content: str) -> str:
    return content.replace('{"is":"c"}', '{"is":"x"}')


def without_a_line(content: str) -> str:
    return re.sub(r'^.*\{"is":"c"\}.*\n', "", content, flags=re.MULTILINE)


def without_seals(content: str) -> str:
    return re.sub(r"(^COPY eventstore\.seals .*\n)(?:.+\n)*?(\\\.\n)", r"\1\2", content, flags=re.MULTILINE)


@pytest.mark.parametrize("edit", [changed, without_a_line, without_seals])
async def test_a_dump_that_was_changed_is_found_by_its_seals(
    db: str, elsewhere: str, sealed: Sealed, tmp_path: Path, edit: Callable[[str], str]
) -> None:
    path = tmp_path / "dump.sql"
    await asyncio.to_thread(tool, "pg_dump", "--schema=eventstore", f"--file={path}", db)
    content = path.read_text()
    path.write_text(edit(content))
    assert path.read_text() != content, "nothing was changed"
    await asyncio.to_thread(tool, "psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={path}", f"--dbname={elsewhere}")
    code, found = await sealed.verify(elsewhere)
    assert (code, found["intact"]) == (1, False)
    assert (await sealed.verify(db))[0] == 0
