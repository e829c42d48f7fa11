"""The lock holds everything that is asked for, by hash, and names no place of a machine or registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.supply.locking import locked, unlocked

ROOT = Path(__file__).parent.parent.parent
LOCK = (ROOT / "requirements" / "ci.txt").read_text()


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_everything_that_is_asked_for_is_locked(pyproject: dict[str, Any]) -> None:
    assert unlocked(pyproject, LOCK) == []


@pytest.mark.parametrize(
    "where", [("dependencies",), ("optional-dependencies", "dev"), ("optional-dependencies", "redis")]
)
def test_a_dependency_that_was_added_and_not_locked_is_found(pyproject: dict[str, Any], where: tuple[str, ...]) -> None:
    asked: Any = pyproject["project"]
    for key in where:
        asked = asked[key]
    asked.append("planted>=1")
    assert unlocked(pyproject, LOCK) == ["planted>=1"]


def test_a_version_that_does_not_do_any_more_is_found(pyproject: dict[str, Any]) -> None:
    pyproject["build-system"]["requires"] = ["hatchling>=99"]
    assert unlocked(pyproject, LOCK) == ["hatchling>=99"]


def test_a_package_without_a_hash_counts_as_not_locked(pyproject: dict[str, Any]) -> None:
    without = re.sub(r"^asyncpg==(\S+) \\(\n    --hash=\S+(?: \\)?)+", r"asyncpg==\1", LOCK, flags=re.M)
    assert without != LOCK
    assert unlocked(pyproject, without) == ["asyncpg>=0.30"]


def test_every_line_of_the_lock_is_a_package_a_hash_or_a_comment() -> None:
    pins = [line for line in LOCK.splitlines() if not re.match(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?$| *#", line)]
    assert [line.split("==")[0] for line in pins] == list(locked(LOCK))


def test_the_lock_names_no_place_of_a_registry_or_machine() -> None:
    assert not re.search(r"://|--(?:extra-)?index|--find-links|\(/|file:", LOCK)
