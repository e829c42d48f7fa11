from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore
from eventstore.analytics import RequestLog, RequestTable
from eventstore.errors import ConfigurationError
from eventstore.reports.requests import Latency, PathLatency, RequestReport, read_requests
from tests.analytics.logs import a_log

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


async def reported(store: EventStore, logs: Sequence[RequestLog], **asked: Any) -> RequestReport:
    await RequestTable(store.database).insert(logs)
    return await read_requests(store.database, **{"until": NOON, "last": timedelta(minutes=10), "steps": 10} | asked)


def before(minutes: float, **given: Any) -> RequestLog:
    return a_log(inserted_at=NOON - timedelta(minutes=minutes), **given)


async def test_a_period_without_requests_has_an_empty_report(store: EventStore) -> None:
    found = await reported(store, [])
    assert (found.requests, found.latency, found.slowest, found.statuses, found.complete) == (0, None, [], {}, True)
    assert [one.requests for one in found.series] == [0] * 10


async def test_requests_are_counted_by_status_device_session_and_path(store: EventStore) -> None:
    logs = [
        before(1, status_code=204, device_type="mobile", session_id="a"),
        before(2, status_code=299, device_type="mobile", session_id="a"),
        before(3, status_code=404, device_type="tablet", session_id="b", path="/x"),
        before(4, status_code=503, method="PUT"),
    ]
    found = await reported(store, logs)
    assert (found.requests, found.sampled, found.errors, found.per_second) == (4, 4, 1, 4 / 600)
    assert found.statuses == {"2xx": 2, "4xx": 1, "5xx": 1}
    assert found.devices == {"mobile": 2, "tablet": 1, "unknown": 1}
    assert (found.sessions, found.paths) == (2, 3)


async def test_the_period_begins_inclusively_and_ends_exclusively(store: EventStore) -> None:
    found = await reported(store, [before(10.01), before(10), before(0.01), before(0)])
    assert [one.requests for one in found.series] == [1, *[0] * 8, 1]


async def test_the_series_has_every_step_with_its_errors_and_latencies(store: EventStore) -> None:
    found = await reported(store, [before(2.5, duration_ms=n, status_code=500 if n == 3 else 200) for n in (1, 2, 3)])
    (step,) = [one for one in found.series if one.requests]
    assert (step.at, found.step) == (NOON - timedelta(minutes=3), 60)
    assert (step.requests, step.per_second, step.errors, step.p50, step.p95) == (3, 0.05, 1, 2, 3)


async def test_latencies_are_those_of_requests(store: EventStore) -> None:
    found = await reported(store, [before(1, duration_ms=n) for n in range(1, 101)])
    assert found.latency == Latency(p50=50, p95=95, p99=99, most=100)


async def test_the_slowest_paths_come_first(store: EventStore) -> None:
    slow = [before(1, path="/slow", duration_ms=n, status_code=500 if n == 900 else 200) for n in (100, 900)]
    found = await reported(store, [*slow, before(1), before(1, method="POST", duration_ms=5)], slowest=2)
    assert found.slowest == [PathLatency("GET", "/slow", 2, 1, 100, 900), PathLatency("POST", "/", 1, 0, 5, 5)]
    assert (await reported(store, [], slowest=0)).slowest == []


async def test_of_too_many_requests_the_newest_are_counted_and_that_is_said(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.reports.requests.COUNTED", 3)
    found = await reported(store, [before(n) for n in range(1, 6)])
    assert (found.complete, found.requests, [one.requests for one in found.series]) == (
        False, 3, [0] * 7 + [1] * 3
    )  # fmt: skip
    assert found.since < found.counted_since <= NOON - timedelta(minutes=3)
    assert found.per_second == 3 / (NOON - found.counted_since).total_seconds()
    assert (await reported(store, [], last=timedelta(minutes=3.5))).complete


async def test_of_many_requests_latencies_are_made_from_a_sample_and_counts_from_all(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.reports.requests.SAMPLED", 100)
    logs = [before(n / 100, duration_ms=n) for n in range(1, 401)]
    found = await reported(store, logs)
    assert (found.requests, found.slowest[0].count) == (400, 400)
    assert 50 < found.sampled < 200
    assert found.latency is not None
    assert 100 < found.latency.p50 < 300
    assert await reported(store, []) == found


async def test_without_times_it_is_about_the_last_quarter_of_an_hour(store: EventStore) -> None:
    await RequestTable(store.database).insert([a_log(), a_log(inserted_at=datetime.now(UTC) - timedelta(minutes=20))])
    found = await read_requests(store.database)
    assert (found.requests, len(found.series), found.step) == (1, 60, 15)
    assert found.until - found.since == timedelta(minutes=15)


@pytest.mark.parametrize(
    "asked",
    [
        {"since": NOON},
        {"last": timedelta()},
        {"last": 5},
        {"steps": 0},
        {"steps": 1001},
        {"slowest": -1},
        {"until": datetime(2026, 1, 1)},
    ],
)
async def test_what_makes_no_period_is_refused(store: EventStore, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"not|a report is about a period"):
        await reported(store, [], **asked)


async def plans(sql: asyncpg.Connection, statement: str, *args: Any) -> list[dict[str, Any]]:
    """Run *statement*; return the plans of what functions execute inside of it."""
    found: list[dict[str, Any]] = []

    def noted(_connection: Any, message: Any) -> None:
        text = str(message)
        if "Query Text" in text:
            found.append(json.loads(text[text.index("{") :]))

    await sql.execute(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
        "set auto_explain.log_format = json; set client_min_messages = log"
    )
    sql.add_log_listener(noted)
    await sql.fetch(statement, *args)
    sql.remove_log_listener(noted)
    return found


def scans(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """How a plan reads partitions: (kind of node, table or index)."""
    below = [one for child in plan.get("Plans", []) for one in scans(child)]
    name = plan.get("Index Name") or plan.get("Relation Name") or ""
    if not name.startswith("request_logs_") or not plan["Alias"].startswith("r"):
        return below
    return [*below, (plan["Node Type"], name)]


FILL = """
    insert into eventstore.request_logs (request_id, method, path, status_code, duration_ms, session_id, inserted_at)
    select gen_random_uuid(), 'GET', '/items/' || n % 50, 200, n % 100, n % 500,
           timestamptz '2026-06-01Z' + n * interval '4 minutes'
      from generate_series(1, 10000) n
"""


@pytest.fixture
async def full(sql: asyncpg.Connection) -> asyncpg.Connection:
    """A month of requests, one in four minutes."""
    await sql.execute(
        "select eventstore.ensure_request_month_v1('2026-06-01'), eventstore.ensure_request_month_v1('2026-05-01')"
    )
    await sql.execute(FILL)
    await sql.execute("vacuum analyze eventstore.request_logs")
    return sql


async def test_a_report_reads_its_period_by_the_index_on_time(full: asyncpg.Connection) -> None:
    asked = "select eventstore.request_report_v1(null, '2026-06-20', '2 hours', 60, 20)"
    read = [one for plan in await plans(full, asked) for one in scans(plan["Plan"])]
    assert len(read) >= 3
    assert all(index == "request_logs_202606_inserted_at_idx" for _, index in read), read


async def test_an_insert_looks_for_known_requests_by_the_key(full: asyncpg.Connection) -> None:
    log = a_log(inserted_at=NOON)
    nothing = ", ".join(["array[null]::text[]"] * 5)
    asked = (
        "select eventstore.insert_requests_v1("
        f"array[$1::uuid], '{{GET}}', '{{/}}', '{{200}}', '{{1}}', {nothing}, '{{1}}', array[$2::timestamptz])"
    )
    read = [one for plan in await plans(full, asked, log.request_id, NOON) for one in scans(plan["Plan"])]
    assert {index for _, index in read} == {"request_logs_202606_pkey"}, read


async def test_a_scan_of_a_month_is_caught(full: asyncpg.Connection) -> None:
    query = "select count(path) from eventstore.request_logs r where r.duration_ms > 5"
    (plan,) = await plans(full, query)
    assert ("Seq Scan", "request_logs_202606") in scans(plan["Plan"])
