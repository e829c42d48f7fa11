from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest

from tests.tiers import TIERS, tier_of

ROOT = Path(__file__).parent.parent
NAMED = sorted({name.partition("::")[0] for listed in TIERS.values() for name in listed})


@pytest.mark.parametrize("path", NAMED)
def test_what_is_left_out_exists(path: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    for name in {name for listed in TIERS.values() for name in listed if name.startswith(f"{path}::")}:
        inside = name.partition("[")[0].replace("::*", "").split("::")[1:]
        assert functools.reduce(getattr, inside, module), name


def test_a_case_of_a_test_is_left_out_alone_or_with_all_others() -> None:
    path = "tests/cli/test_demo.py"
    assert tier_of(f"{path}::test_signals_end_the_demo_early[15-143]") == "thorough"
    assert tier_of("tests/supply/test_bills.py::test_anything") == "thorough"
    assert tier_of("tests/test_tiers.py::test_signals_end_the_demo_early[15-143]") is None


def tiers_of(file: Path) -> set[str | None]:
    """The tiers of the tests that are written in *file*."""
    path = file.relative_to(ROOT).as_posix()
    names = re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    return {tier_of(f"{path}::{name}") for name in names}


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "faults").glob("test_*.py")), ids=lambda file: file.name)
def test_ci_runs_some_tests_of_every_fault(file: Path) -> None:
    assert tiers_of(file) - {"thorough"}


@pytest.mark.parametrize(
    "room", sorted({file.parent for file in ROOT.glob("tests/**/test_*.py")}), ids=lambda room: room.name
)
def test_of_every_room_some_tests_are_left_out_of_nothing(room: Path) -> None:
    if room.name != "again":  # which repeats those of other rooms for a tenant
        assert None in set[str | None]().union(*map(tiers_of, room.glob("test_*.py")))
