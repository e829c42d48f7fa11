"""The check of evidence: whether the chain is on, and how long ago the log was sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventstore.evidence.switching import Status, read_status
from eventstore.reports.health import Verdict, check, ok, warn
from eventstore.reports.site import Site

__all__ = ["Sealed", "read_sealed"]

SEALED_WITHIN = 7 * 86_400.0
"""Seconds that a log may go on after its last seal."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is known of the evidence, and when."""

    status: Status
    now: datetime


async def read_sealed(site: Site) -> Sealed:
    """Read it, and the database's time."""
    status = await read_status(await site.database())
    return Sealed(status, (await site.row("select clock_timestamp() as now"))["now"])


@check("evidence", read_sealed)
def evidence(found: Sealed) -> Verdict:
    """Whether the log was sealed lately, if its events are chained by hashes."""
    status = found.status
    if status.state != "on":
        return ok("events are not chained by hashes" + (", any more" if status.state == "off" else ""))
    chained = f"chained since position {status.since}"
    cure = "eventstore seal --key FILE --out FILE, every day, and keep what it writes elsewhere"
    if status.sealed_at is None:
        return warn(f"{chained}; never sealed: what is cut off at the end cannot be found", cure)
    days = (found.now - status.sealed_at).total_seconds() / 86_400
    if days * 86_400 > SEALED_WITHIN:
        return warn(f"{chained}; sealed {days:,.0f} days ago", cure)
    return ok(f"{chained}; {status.seals} seals, the last one {days:,.1f} days ago")
