"""The benchmarks' arithmetic, and that a work can be measured; no figure is looked at."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import pytest

import benchmarks.works  # noqa: F401  # registers them
from benchmarks import stats
from benchmarks.bench import Bench
from benchmarks.chart import chart
from benchmarks.measure import drive, drive_threads, repeat
from benchmarks.model import WORKS, Comparison, Sample, Sides, Skip, Work, compared
from benchmarks.report import report
from benchmarks.run import Options, measure, run
from benchmarks.sides import DATA, TEXT, new_event
from eventstore.errors import EventStoreError

BRIEF = Options(quick=True, rounds=2, seconds=0.01)
FACTS = {"machine": {"cores": 2}, "versions": {"postgres": "18"}, "settings": {"fsync": "on"}}


def samples(*rates: int) -> list[Sample]:
    return [Sample(count=rate, seconds=1.0, p50=1.0, p99=2.0) for rate in rates]


def of(*comparisons: Comparison, **sides: object) -> Work:
    @asynccontextmanager
    async def prepare(_bench: Bench) -> AsyncIterator[Sides]:
        if "error" in sides:
            raise sides["error"]  # type: ignore[misc]
        yield sides  # type: ignore[misc]

    return Work(1, "a-work", "its title", "", comparisons, prepare)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (1.0, 4), (0.0, 1), (0.25, 1)])
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert stats.percentile([1, 2, 3, 4], share) == expected


def test_ten_values_leave_out_one_at_either_end_and_cover_the_median_with_98_percent() -> None:
    low, high, covered = stats.interval(range(10))
    assert (low, high, round(covered, 3)) == (1, 8, 0.979)


@pytest.mark.parametrize(("count", "covered"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375)])
def test_few_values_give_their_extremes_and_say_how_little_that_covers(count: int, covered: float) -> None:
    assert stats.interval(range(count)) == (0, count - 1, covered)


def test_a_ratio_is_taken_round_by_round() -> None:
    outcome = compared(
        Comparison("ours", "floor", at_least=0.6), {"ours": samples(10, 40, 90), "floor": samples(10, 80, 100)}
    )
    assert (outcome.value.median, outcome.value.least, outcome.met) == (0.9, 0.5, True)


def test_a_single_error_of_one_round_misses_the_target_of_none() -> None:
    ours = [*samples(1), Sample(1, 1.0, 1.0, 1.0, errors=1), *samples(1)]
    outcome = compared(Comparison("ours", "floor", "errors", at_most=0), {"ours": ours, "floor": samples(1, 1, 1)})
    assert outcome.met is False


def test_without_a_base_the_figure_itself_meets_the_target() -> None:
    outcome = compared(Comparison("ours", at_least=1000), {"ours": samples(10, 40, 90)})
    assert (outcome.value.median, outcome.base, outcome.met) == (outcome.ours.median, None, False)


def test_what_is_stored_is_256_bytes_of_json() -> None:
    assert len(TEXT) == 256
    assert new_event().encoded_data == TEXT
    assert new_event().data == DATA


async def test_calls_are_counted_and_refusals_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.perf_counter", partial(next, count()))  # each look takes a second
    answers = iter([2, 2, EventStoreError("no")])

    async def call() -> int:
        match next(answers, 0):
            case Exception() as refusal:
                raise refusal
            case int(number):
                return number

    sample = await drive([call], 10)
    assert (sample.count, sample.errors) == (4, 1)


async def test_everybody_calls_once_however_short_the_time_is() -> None:
    async def call() -> int:
        return 1

    assert (await drive([call] * 3, -1)).count == 3
    assert (await drive_threads([lambda: 1] * 3, -1)).count == 3


async def test_a_blocking_call_that_fails_fails_the_measurement() -> None:
    def call() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await drive_threads([call] * 3, 0.01)


async def test_a_timed_call_decides_what_is_inside_the_clock() -> None:
    async def once() -> tuple[int, float]:
        return 1000, 0.5

    sample = await repeat(once, 0)
    assert (sample.rate, sample.p50) == (2000, 500)


async def test_what_cannot_be_measured_is_reported_with_its_cure_and_costs_nothing_else() -> None:
    async def side(_seconds: float) -> Sample:
        return samples(1)[0]

    works = [
        of(error=Skip("no peer", "install it")),
        of(error=RuntimeError("broken")),
        of(Comparison("a", "b"), a=side, b=side),
    ]
    shown = report(await run("", works, BRIEF, lambda _: None), FACTS)
    assert "no peer\n    install it" in shown
    assert "RuntimeError: broken" in shown


def test_names_and_numbers_are_distinct_and_every_work_says_why_it_is_fair() -> None:
    assert [work.number for work in WORKS] == list(range(1, len(WORKS) + 1))
    assert len({work.name for work in WORKS}) == len(WORKS)
    assert all(len(work.explanation) > 100 and work.comparisons for work in WORKS)


async def test_a_work_is_measured_from_the_store_to_the_table_and_the_chart(db: str) -> None:
    work = next(work for work in WORKS if work.name == "append-1")
    result = await measure(db, work, BRIEF, lambda _: None)
    assert result.failed is None
    assert {side: len(rounds) for side, rounds in result.samples.items()} == {"floor": 2, "ours": 2}
    assert "append-1" in report([result], FACTS)
    assert ElementTree.fromstring(chart([result], "a < b")).tag.endswith("svg")
