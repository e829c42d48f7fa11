"""The soak, as row 29 among the results."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.running import Result, commit

__all__ = ["SOAK", "run_soak"]

SOAK = 29


def run_soak(minutes: float, seed: int, directory: Path, only: str) -> Result:
    """Run it, with all faults or with those named; keep what came out as a row's result."""
    from tests.faults.soak import soak

    began, started = time.monotonic(), datetime.now(UTC)
    names = [name for name in only.split(",") if name]
    found = asyncio.run(soak(minutes, seed, directory, names or None))
    command = f"python -m tests.faults soak --minutes {minutes:g} --seed {seed}" + (f" --only {only}" if only else "")
    return Result(
        SOAK, started.isoformat(timespec="minutes"), commit(), seed, command, round(time.monotonic() - began, 1),
        1, [], [], [{"test": "soak", "seed": seed, **asdict(found)}],
    )  # fmt: skip
