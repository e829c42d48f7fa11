from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from eventstore.analytics import RequestLog, RequestTable
from tests.analytics.logs import a_log
from tests.cli.conftest import Run, failure, rows

Insert = Callable[..., None]


@pytest.fixture
def insert(db: str) -> Insert:
    """Store requests."""

    async def run(*logs: RequestLog) -> None:
        async with RequestTable(db) as table:
            await table.insert(logs)

    return lambda *logs: asyncio.run(run(*logs))


@pytest.fixture
def old(insert: Insert) -> None:
    """Requests of two old months and of now."""
    insert(*(a_log(inserted_at=datetime(2020, month, 5, tzinfo=UTC)) for month in (3, 4)), a_log())


def test_alone_it_reports_on_the_last_minutes(cli: Run, insert: Insert) -> None:
    insert(a_log(path="/slow", duration_ms=1234.56, status_code=503), a_log(device_type="mobile"))
    alone, report = (cli("requests", *args).stdout.splitlines() for args in ((), ("report",)))
    assert alone[0].startswith("requests    2, 0.00 a second")
    assert alone[1:5] == [
        "statuses    2xx 1  5xx 1",
        "errors      1 (5xx)",
        "latency     p50 1.0  p95 1,234.6  p99 1,234.6 ms",
        "devices     mobile 1  unknown 1",
    ]
    assert alone[-2:] == ["GET\t/slow\t1\t1\t1,234.6\t1,234.6", "GET\t/\t1\t0\t1.0\t1.0"] == report[-2:]


def test_what_a_terminal_would_obey_is_escaped(cli: Run, insert: Insert) -> None:
    odd = "\x1b[2J\x9b\u202e"
    insert(a_log(device_type=odd, path=odd))
    for args in (("requests",), ("requests", "--json")):
        assert not set(odd) & set(cli(*args).stdout) - set("[2J")
    (row,) = rows(cli("requests", "--json"))
    assert (row["devices"], row["slowest"][0]["path"]) == ({odd: 1}, odd)


def test_as_json_it_is_one_object_with_the_series(cli: Run, insert: Insert) -> None:
    insert(a_log(inserted_at=datetime.now(UTC) - timedelta(hours=2)))
    (row,) = rows(cli("requests", "report", "--last", "3h", "--json"))
    assert (row["requests"], len(row["series"]), row["complete"], row["step"]) == (1, 60, True, 180)
    (row,) = rows(cli("requests", "--json"))
    assert (row["requests"], row["latency"], row["slowest"]) == (0, None, [])


def test_a_period_that_does_not_end_after_it_begins_is_refused(cli: Run) -> None:
    asked = ("requests", "report", "--since", "2026-01-02", "--until", "2026-01-01", "--json")
    assert failure(cli(*asked)) == (2, "ConfigurationError")


def test_a_dry_run_names_the_old_months_and_drops_none(cli: Run, old: None) -> None:
    (row,) = rows(cli("requests", "prune", "--keep", "90d", "--dry-run", "--json"))
    assert (row["months"], row["dry_run"]) == (["2020-03", "2020-04"], True)
    assert "2020-03, 2020-04" in cli("requests", "prune", "--keep", "6mo", "--dry-run").stdout


def test_what_is_confirmed_is_dropped_and_recorded(cli: Run, old: None) -> None:
    refused = cli("requests", "prune", "--keep", "12w", input="n\n")
    assert (refused.exit_code, "nothing was dropped" in refused.stderr) == (1, True)
    assert cli("requests", "prune", "--keep", "12w", input="y\n").stdout.startswith("dropped: 2020-03, 2020-04 (")
    assert cli("requests", "prune", "--keep", "12w", "--yes").stdout == "dropped: no month is old enough\n"
    assert [row["action"] for row in rows(cli("actions", "--json"))] == ["requests prune"] * 2


@pytest.mark.parametrize("keep", ["0d", "90", "x", "-1d", "1.5d"])
def test_a_period_to_keep_has_a_unit(cli: Run, keep: str) -> None:
    assert cli("requests", "prune", "--keep", keep).exit_code == 2
