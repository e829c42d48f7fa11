from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from eventstore.analytics import RequestLog
from tests.analytics.logs import a_log


@pytest.mark.parametrize(
    "given",
    [
        {"status_code": 99},
        {"status_code": 600},
        {"duration_ms": -0.1},
        {"duration_ms": float("nan")},
        {"duration_ms": float("inf")},
        {"request_id": "x"},
        {"path": None},
        {"session_page_views": -1},
        {"inserted_at": datetime(2026, 1, 1)},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        a_log(**given)


@pytest.mark.parametrize("missing", ["request_id", "method", "path", "status_code", "duration_ms"])
def test_what_every_request_has_is_required(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        RequestLog(**{name: value for name, value in a_log().model_dump().items() if name != missing})


@pytest.mark.parametrize(("status", "duration"), [(100, 0), (599, 1e9)])
def test_the_bounds_themselves_are_taken(status: int, duration: float) -> None:
    assert a_log(status_code=status, duration_ms=duration).status_code == status


def test_long_text_is_cut_and_what_cannot_be_stored_is_replaced() -> None:
    log = a_log(path="/" + "x" * 5000, user_agent="a\0b\ud800c", referer="é" * 3000, session_id="s" * 99)
    assert (len(log.path), log.user_agent, len(log.referer or ""), len(log.session_id or "")) == (
        2048, "a\ufffdb\ufffdc", 2048, 64
    )  # fmt: skip


def test_a_log_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_log().path = "/other"


def test_times_are_utc() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert a_log(inserted_at=noon).inserted_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert a_log(inserted_at=noon).inserted_at.utcoffset() == timedelta()
