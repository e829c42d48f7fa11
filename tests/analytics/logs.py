from __future__ import annotations

from typing import Any
from uuid import uuid4

from eventstore.analytics import RequestLog


def a_log(**given: Any) -> RequestLog:
    usual = {"request_id": uuid4(), "method": "GET", "path": "/", "status_code": 200, "duration_ms": 1}
    return RequestLog(**usual | given)
