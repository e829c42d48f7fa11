"""Requests that web applications answered: how many, how fast, which paths are slow, and on which devices.

It is about the rows that `eventstore.analytics` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from eventstore.database import Database
from eventstore.errors import ConfigurationError

__all__ = ["COUNTED", "Latency", "PathLatency", "Period", "RequestReport", "read_requests"]

COUNTED = 100_000
"""Requests that one report looks at; of a period with more, it is about the newest."""

SAMPLED = 5_000
"""Requests that percentiles are made from; of more, every second, third and so on is taken, by its id."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took, in milliseconds: half of them at most *p50*, 95 % at most *p95*, and so on."""

    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Period:
    """One step of the series.

    Attributes:
        at: when it begins, in UTC; it lasts `RequestReport.step` seconds.
        requests: how many were answered in it.
        per_second: that, divided by the seconds of the step.
        errors: how many of them with a status of 500 and above.
        p50, p95: milliseconds; None: there were no requests.
    """

    at: datetime
    requests: int
    per_second: float
    errors: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class PathLatency:
    """The requests of one method and path.

    Attributes:
        count: how many there were.
        errors: how many of them with a status of 500 and above.
        p50, p95: milliseconds.
    """

    method: str
    path: str
    count: int
    errors: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class RequestReport:
    """The requests of a period.

    Attributes:
        since, until: what was asked for, in UTC; *until* is exclusive.
        complete: False: there were more than `COUNTED` requests, and all the numbers are about the newest of them.
        counted_since: when the requests that were counted begin; *since*, if the report is complete.
        sampled: how many of them the latencies are made from; fewer than *requests* if those are many.
        requests: how many were counted.
        per_second: that, divided by the seconds from *counted_since* to *until*.
        errors: how many of them with a status of 500 and above.
        statuses: requests by class of status: ``"2xx"`` and so on; those that were not seen are missing.
        latency: of all requests; None: there were none.
        step: seconds of one `Period`.
        series: every step from *since* to *until*, the oldest first, those without requests too.
        slowest: the paths with the largest 95th percentile, the slowest first.
        paths: how many different methods and paths there were.
        devices: requests by kind of device (``desktop``, ``mobile``, ``tablet``, or ``unknown``), the most first.
        sessions: how many different sessions there were.
    """

    since: datetime
    until: datetime
    complete: bool
    counted_since: datetime
    sampled: int
    requests: int
    per_second: float
    errors: int
    statuses: dict[str, int]
    latency: Latency | None
    step: float
    series: Sequence[Period]
    slowest: Sequence[PathLatency]
    paths: int
    devices: dict[str, int]
    sessions: int


async def read_requests(
    database: Database,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    last: timedelta = timedelta(minutes=15),
    steps: int = 60,
    slowest: int = 20,
) -> RequestReport:
    """Report on the requests from *since* to *until*, in one query.

    Args:
        since: by default *last* before *until*.
        until: exclusive; by default now, by the database's clock.
        last: length of the period if *since* is not given.
        steps: how many steps the series has, 1 to 1,000.
        slowest: most paths to name, 0 to 1,000.

    Raises:
        ConfigurationError: a value is out of range, or the period does not end after it begins.
    """
    if type(last) is not timedelta or last <= timedelta():
        raise ConfigurationError(f"last must be a period above 0, not {last!r}")
    for name, time in (("since", since), ("until", until)):
        if time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
            raise ConfigurationError(f"{name} must be a time with its time zone, not {time!r}")
    if type(steps) is not int or type(slowest) is not int:
        raise ConfigurationError(f"steps and slowest are whole numbers, not {steps!r} and {slowest!r}")
    found = await database.value("request_report_v1", since, until, last, steps, slowest, COUNTED, SAMPLED)
    return _report(orjson.loads(found), steps)


def _report(found: dict[str, Any], steps: int) -> RequestReport:
    since, until, counted_since = (_time(found[name]) for name in ("since", "until", "from"))
    counts, seconds = found["counts"] or [], (until - counted_since).total_seconds()
    requests = sum(count for *_, count, _ in counts)
    devices = _summed((device or "unknown", count) for _, _, device, count, _ in counts)
    return RequestReport(
        since=since,
        until=until,
        complete=found["complete"],
        counted_since=counted_since,
        sampled=found["sampled"],
        requests=requests,
        per_second=requests / seconds if seconds else 0.0,
        errors=sum(errors for *_, errors in counts),
        statuses={f"{klass}xx": count for klass, count in sorted(_summed((one[1], one[3]) for one in counts).items())},
        latency=Latency(*found["latency"]) if found["latency"] else None,
        step=found["step"],
        series=_series(found, counts, steps),
        slowest=[PathLatency(*path, *latency) for *path, latency in found["slowest"] or []],
        paths=found["paths"],
        devices=dict(sorted(devices.items(), key=lambda one: (-one[1], one[0]))),
        sessions=found["sessions"],
    )


def _series(found: dict[str, Any], counts: list[list[Any]], steps: int) -> list[Period]:
    requests = _summed((at, count) for at, _, _, count, _ in counts)
    errors = _summed((at, count) for at, *_, count in counts)
    latency = dict(found["series"] or [])
    since, step = _time(found["since"]), found["step"]
    return [
        Period(
            since + timedelta(seconds=n * step),
            requests[n],
            requests[n] / step,
            errors[n],
            *latency.get(n, (None, None)),
        )
        for n in range(steps)
    ]


def _summed(counts: Iterable[tuple[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for key, count in counts:
        total[key] += count
    return total


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
