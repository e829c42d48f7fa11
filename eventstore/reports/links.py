"""Checks of what lies between node and database: clocks, notifications, and a pooler that may stand in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any
from uuid import uuid4

import asyncpg

from eventstore.database import mapped_errors, redacted
from eventstore.errors import DatabaseUnavailable
from eventstore.reports.health import Verdict, check, fail, ok, warn
from eventstore.reports.site import Site, ended
from eventstore.schema import signal_channel

__all__ = ["Clock", "Heard", "Pooling", "read_clock", "read_heard", "read_pooling"]

ASKED = 5
"""How often the clock is read; the quickest answer counts."""

APART = 1.0
"""Seconds that two clocks may differ by."""

HEARD_WITHIN = 2.0
"""Seconds in which a notification must arrive."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How far this machine's clock is ahead of the database's, in seconds, give or take half of the round trip."""

    ahead: float
    round_trip: float


async def read_clock(site: Site, now: Callable[[], float] = time, ticks: Callable[[], float] = monotonic) -> Clock:
    """Ask the database for its time, which was read half a round trip before the answer came."""
    answers = []
    for _ in range(ASKED):
        began = ticks()
        theirs = (await site.row("select extract(epoch from clock_timestamp())::float8 as time"))["time"]
        round_trip = ticks() - began
        answers.append(Clock(now() - round_trip / 2 - theirs, round_trip))
    return min(answers, key=lambda answer: answer.round_trip)


@check("clock", read_clock)
def clock(found: Clock) -> Verdict:
    """Whether this machine and the database agree on the time; leases and retries go by the database's alone."""
    sure = abs(found.ahead) - found.round_trip / 2
    place = "ahead of" if found.ahead > 0 else "behind"
    text = f"{abs(found.ahead):.3f} s {place} the database, ±{found.round_trip / 2:.3f} s"
    facts = [{"ahead": found.ahead, "round_trip": found.round_trip}]
    if sure > APART:
        return warn(
            f"this machine's clock is {text}; only times that nodes show or give events (created_at) suffer",
            "synchronize the clocks of both machines, as by NTP",
            facts,
        )
    return ok(f"this machine's clock is {text}", facts)


# -- notifications


@dataclass(frozen=True, slots=True)
class Heard:
    """Whether a notification was heard on the connection opened for it.

    Attributes:
        seconds: how long it took; None: it did not come.
        problem: why it could not be tried.
        by: the DSN that was listened on.
    """

    seconds: float | None
    by: str
    problem: str | None = None


async def read_heard(site: Site, within: float = HEARD_WITHIN) -> Heard:
    """Listen as nodes listen, notify as nodes notify, and wait. To the nodes that hear it, it is a signal too many."""
    by = redacted(site.listen_dsn)
    try:
        listener = await site.connect(site.listen_dsn)
    except DatabaseUnavailable as error:
        return Heard(None, by, str(error))
    try:
        return Heard(await _heard(site, listener, within), by)
    finally:
        await ended(listener)


async def _heard(site: Site, listener: Any, within: float) -> float | None:
    channel, token, heard = signal_channel(site.schema), f"doctor {uuid4()}", asyncio.Event()

    def hear(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == token:
            heard.set()

    with mapped_errors():
        await listener.add_listener(channel, hear)
        began = monotonic()
        await site.rows("select pg_notify($1, $2)::text", channel, token)
    try:
        async with asyncio.timeout(within):
            await heard.wait()
        return monotonic() - began
    except TimeoutError:
        return None
    finally:
        with suppress(Exception):  # or a pooler's backend might listen on
            await listener.remove_listener(channel, hear)


@check("listen", read_heard)
def listen(heard: Heard) -> Verdict:
    """Whether a notification on the schema's channel arrives, so that nodes need not wait for their next poll."""
    cure = (
        "behind a pooler in transaction mode set listen_dsn to a direct DSN of the same database (here --listen-dsn), "
        "or listen=False to do with polling"
    )
    if heard.problem is not None:
        return fail(f"cannot listen: {heard.problem}", cure)
    if heard.seconds is None:
        return fail(f"a notification was not heard within {HEARD_WITHIN:g} s by {heard.by}", cure)
    return ok(f"a notification was heard after {heard.seconds * 1000:.1f} ms", [{"seconds": heard.seconds}])


# -- a pooler


@dataclass(frozen=True, slots=True)
class Pooling:
    """Which backends two connections were served by.

    Attributes:
        first: of the first connection.
        busy: of the second one, inside a transaction.
        then: of the first one again, while that transaction was open.
        lost: a statement that was prepared on the first connection was gone when it was to be executed.
    """

    first: int
    busy: int
    then: int
    lost: bool

    @property
    def pooled(self) -> bool:
        """A connection is not a backend of its own."""
        return self.lost or self.first == self.busy or self.first != self.then


async def read_pooling(site: Site) -> Pooling:
    """Occupy what a pooler would lend again first, and look whether the first connection gets another backend."""
    one, two = await site.connect(), await site.connect()
    try:
        with mapped_errors():
            first = await _backend(one)
            await two.execute("begin")
            busy = await _backend(two)
            then = await _backend(one)
            lost = await _forgets(one)
            await two.execute("rollback")
            return Pooling(first, busy, then, lost)
    finally:
        await ended(one)
        await ended(two)


async def _backend(connection: Any) -> int:
    return int(await connection.fetchval("select pg_backend_pid()"))


async def _forgets(connection: Any) -> bool:
    try:
        statement = await connection.prepare("select 1", name="eventstore_doctor")
        await statement.fetchval()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return True
    return False


@check("pooler", read_pooling)
def pooler(found: Pooling) -> Verdict:
    """Whether a pooler in transaction mode stands in between, which loses prepared statements and notifications."""
    if found.pooled:
        return warn(
            f"a pooler in transaction mode: backends {found.first} and {found.then} served one connection, "
            f"{found.busy} another" + (", and prepared statements are lost" if found.lost else ""),
            "nodes go without prepared statements there; set Settings.listen_dsn to a direct DSN, or listen=False",
        )
    return ok("each connection has a backend of its own")
