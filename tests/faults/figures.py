"""What a test has to tell beside that it passed: how much it did, how long something took, what it found."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.hunt.racing import SEED

__all__ = ["note"]


def note(**values: object) -> None:
    """Add a line of JSON about the running test to the file that FAULTS_RESULTS names; without it do nothing.

    A name that ends in a unit (``_s``, ``_ms``, ``_mib``) is shown with it.
    """
    path = os.environ.get("FAULTS_RESULTS")
    if not path:
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
    with Path(path).open("a") as lines:
        lines.write(json.dumps({"test": test, "seed": SEED, **values}) + "\n")
