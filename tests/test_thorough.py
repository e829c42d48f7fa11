from __future__ import annotations

from pathlib import Path

import pytest

from tests.thorough import THOROUGH, is_thorough

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", THOROUGH)
def test_what_is_left_out_exists(path: str) -> None:
    written = (ROOT / path).read_text()
    for name in set(THOROUGH[path]) - {"*"}:
        named = name.partition("[")[0].rpartition("::")[2]
        assert f"def {named}(" in written or f"{named} = " in written or named == "runTest", name


def test_a_case_of_a_test_is_left_out_alone_or_with_all_others() -> None:
    path = "tests/cli/test_demo.py"
    assert is_thorough(f"{path}::test_signals_end_the_demo_early[15-143]")
    assert not is_thorough(f"{path}::test_signals_end_the_demo_early[2-130]")
    assert is_thorough("tests/supply/test_bills.py::test_anything")
    assert not is_thorough("tests/test_thorough.py::test_signals_end_the_demo_early[15-143]")
