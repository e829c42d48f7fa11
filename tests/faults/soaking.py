"""The soak, as row 29 among the results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.running import Result, code

if TYPE_CHECKING:
    from tests.faults.soak import Result as Soaked

__all__ = ["SOAK", "result_of", "run_soak"]

SOAK = 29


def run_soak(minutes: float, seed: int, directory: Path, only: str) -> Result:
    """Run it, with all faults or with those named; return what came out as a row's result."""
    from tests.faults.soak import soak

    started = datetime.now(UTC).isoformat(timespec="minutes")
    names = [name for name in only.split(",") if name]
    command = f"python -m tests.faults soak --minutes {minutes:g} --seed {seed}" + (f" --only {only}" if only else "")
    return result_of(asyncio.run(soak(minutes, seed, directory, names or None)), started, command)


def result_of(found: Soaked, started: str, command: str) -> Result:
    """What came out of a soak: an anomaly, or a resource that grew, is a failure."""
    failed = [*anomalies(found), *grown(found)]
    return Result(
        SOAK, started, code(), found.seed, command, found.seconds, int(not failed), failed, [], [figures(found)]
    )


def anomalies(found: Soaked) -> Iterator[str]:
    for name, some in found.anomalies.items():
        yield f"{name}, {found.counts.get(name, len(some))} times: {some[0][:200]}"


def grown(found: Soaked) -> Iterator[str]:
    for process, measures in found.resources.items():
        for name, one in measures.items():
            if one.flat is False:
                yield f"{name} of {process} grew from {one.middle:g} to {one.last:g}"


def figures(found: Soaked) -> dict[str, Any]:
    """What is shown of it; of what processes take, the medians of the second and the last third."""
    again = [*found.written_again.values(), *found.delivered_again.values()]
    return {
        "test": "soak", "seed": found.seed, "kinds_of_faults": len(found.faults),
        "faults": sum(one.times for one in found.faults.values()), "events": found.events.get("stored", 0),
        "unknown": found.events.get("unknown", 0), "deliveries": sum(found.deliveries.values()),
        "repeats": sum(found.repeats.values()), "slowest_recovery_s": max((one.most for one in again), default=0.0),
        "anomalies": sum(found.counts.values()),
    } | {
        f"{process} {measure.replace('_', ' ')}": f"{one.middle:g} → {one.last:g}"
        for process, measures in found.resources.items() for measure, one in measures.items()
    }  # fmt: skip
