"""The mark on a request that is being recorded: what is below sees it, and may ask that it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MARK", "leave_out"]

MARK = "eventstore.analytics"
"""The key of a scope under which the tracker that records a request puts it. A mount that copies the scope keeps it."""


def leave_out(scope: Mapping[str, Any]) -> None:
    """Do not record the request of this ASGI *scope*, and set no cookies with its answer, if that has not begun yet.

    For what answers it, at any depth: a page about the application itself, a health check. Where nothing records
    requests it does nothing.
    """
    exchange = scope.get(MARK)
    if exchange is not None:
        exchange.leave_out()
