"""What a test has to tell beside that it passed: how much it did, how long something took, what it found."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hunt.racing import SEED

__all__ = ["note", "tally"]


def note(**values: object) -> None:
    """Add a line of JSON about the running test to the file that FAULTS_RESULTS names; without it do nothing.

    A name that ends in a unit (``_s``, ``_ms``, ``_mib``) is shown with it; a mapping is kept and not shown.
    """
    path = os.environ.get("FAULTS_RESULTS")
    if not path:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
    with Path(path).open("a") as lines:
        lines.write(json.dumps({"test": test, "seed": SEED, **values}) + "\n")


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[Counter[str]]:
    """What the tests of a file count together, told when all of them have run."""
    counted: Counter[str] = Counter()
    yield counted
    if counted:
        note(**counted)
