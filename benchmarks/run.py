"""Measuring: every side of a work in turns, round by round, within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import asyncpg

from benchmarks.bench import Bench
from benchmarks.model import Outcome, Sample, Sides, Skip, Work, compared

__all__ = ["Options", "Result", "measure", "run"]


ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often to measure.

    Attributes:
        limit: seconds for the whole run; what has not begun by then is skipped.
        work_limit: seconds for one work.
    """

    quick: bool = False
    rounds: int = ROUNDS
    seconds: float = 2.0
    limit: float = 13.5 * 60
    work_limit: float = 240.0
    message_db_sql: str | None = None

    @classmethod
    def of(cls, *, quick: bool, rounds: int | None = None, message_db_sql: str | None = None) -> Options:
        """Return the options of a full or a quick run."""
        if quick:
            return cls(True, rounds or 3, 0.5, 100.0, 40.0, message_db_sql)
        return cls(rounds=rounds or ROUNDS, message_db_sql=message_db_sql)


@dataclass(slots=True)
class Result:
    """What came of one work: outcomes, or the reason why there are none."""

    work: Work
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None
    cure: str | None = None
    failed: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it: every round's figures are there."""
        return {
            "number": self.work.number,
            "name": self.work.name,
            "title": self.work.title,
            "explanation": self.work.explanation,
            "skipped": self.skipped,
            "cure": self.cure,
            "failed": self.failed,
            "notes": self.notes,
            "ratios": [{**asdict(outcome), "target": outcome.comparison.target} for outcome in self.outcomes],
            "rounds": {
                side: [{**asdict(sample), "rate": round(sample.rate, 1)} for sample in samples]
                for side, samples in self.samples.items()
            },
        }


async def run(dsn: str, works: list[Work], options: Options, progress: Callable[[str], None]) -> list[Result]:
    """Measure *works* one after another."""
    began, results = monotonic(), []
    for work in works:
        if monotonic() - began > options.limit:
            late = Result(work, skipped="the time for the whole run was up", cure=f"--only {work.name}")
            results.append(late)
            continue
        results.append(await measure(dsn, work, options, partial(_named, progress, work.name)))
    return results


def _named(progress: Callable[[str], None], name: str, text: str) -> None:
    progress(f"{name}: {text}")


async def measure(dsn: str, work: Work, options: Options, progress: Callable[[str], None]) -> Result:
    """Measure one work; what goes wrong becomes its result, and the others go on."""
    progress("preparing")
    bench = Bench(dsn, f"bench_{work.number}", options.quick, options.message_db_sql, progress)
    result = Result(work, notes=bench.notes)
    try:
        async with asyncio.timeout(options.work_limit), work.prepare(bench) as sides:
            await _calm(bench)
            result.samples = await _rounds(sides, _rounds_of(work, options), options.seconds, progress)
        result.outcomes = [compared(comparison, result.samples) for comparison in work.comparisons]
    except Skip as skip:
        result.skipped, result.cure = skip.reason, skip.cure
    except TimeoutError:
        result.failed = f"took more than {options.work_limit:.0f} s"
    except Exception as error:  # noqa: BLE001  # one broken work must not cost the others
        result.failed = f"{type(error).__name__}: {error}"
    return result


def _rounds_of(work: Work, options: Options) -> int:
    return work.pairs if work.pairs and not options.quick and options.rounds == ROUNDS else options.rounds


async def _calm(bench: Bench) -> None:
    """Write what earlier works left to the disk, outside every clock."""
    try:
        await bench.execute("checkpoint")
    except asyncpg.InsufficientPrivilegeError:
        bench.notes.append("no right to CHECKPOINT: what earlier works left may be written during this one")


async def _rounds(
    sides: Sides, rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Measure all sides once a round; every other round in reverse, so that no side is always the first.

    One short turn of each comes before, uncounted: it opens connections and prepares statements.
    """
    for name, side in sides.items():
        progress(f"warming up, {name}")
        await side(seconds / 4)
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            progress(f"round {number + 1} of {rounds}, {name}")
            samples[name].append(await sides[name](seconds))
    return samples
