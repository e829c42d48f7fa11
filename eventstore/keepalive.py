"""TCP that notices within half a minute that nobody is at the other end any more.

A machine that lost its power or its network sends no end. Left to their defaults both sides wait on: a server keeps the
session, and what it holds, for two hours, and who waits for an answer waits as long.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

__all__ = ["SESSION", "watch"]

IDLE, BETWEEN, TIMES = 10, 5, 3
"""Seconds of silence until the other end is asked whether it is there, seconds between two such questions, and how many
stay without an answer."""

GONE_AFTER = IDLE + BETWEEN * TIMES

SESSION = {
    "tcp_keepalives_idle": str(IDLE),
    "tcp_keepalives_interval": str(BETWEEN),
    "tcp_keepalives_count": str(TIMES),
    "tcp_user_timeout": str(GONE_AFTER * 1000),
}
"""What a session asks of the server's side. Poolers may refuse it, and have settings of their own."""

_OPTIONS = {
    "TCP_KEEPIDLE": IDLE, "TCP_KEEPALIVE": IDLE, "TCP_KEEPINTVL": BETWEEN, "TCP_KEEPCNT": TIMES,
    "TCP_USER_TIMEOUT": GONE_AFTER * 1000,
}  # fmt: skip
"""By their names, of which a system has some; TCP_KEEPALIVE is what macOS calls TCP_KEEPIDLE."""


def watch(connection: Any) -> None:
    """Do the same on this side of *connection*, of asyncpg."""
    raw = getattr(connection, "_con", connection)  # of a pool's
    transport = getattr(raw, "_transport", None)
    end = transport.get_extra_info("socket") if transport is not None else None
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS.items():
            if (option := getattr(socket, name, None)) is not None:
                end.setsockopt(socket.IPPROTO_TCP, option, value)
