"""``eventstore requests``: what web applications answered, as `eventstore.analytics` recorded it."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.asking import confirm, yes_option
from eventstore.cli.output import Rows, cell, json_line, result, write_line
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options
from eventstore.cli.stream import Age
from eventstore.cli.values import TIME, ParamType

if TYPE_CHECKING:
    from datetime import datetime

    from eventstore.analytics.storing import Month
    from eventstore.reports.requests import RequestReport

__all__ = ["command"]

SLOWEST = ("method", "path", "count", "errors", "p50_ms", "p95_ms")


class Keep(ParamType):
    """Whole days, weeks or months: 90d, 12w, 6mo."""

    name = "keep"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return months and days."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,4})(d|w|mo)", value)
        if found is None:
            self.fail(f"{value!r} is no time such as 90d, 12w or 6mo", param, ctx)
        number = int(found[1])
        return {"d": (0, number), "w": (0, 7 * number), "mo": (number, 0)}[found[2]]


@click.group(invoke_without_command=True)
@shared_options
def command(session: Session) -> None:
    """Show what web applications answered, and drop old months of it.

    Alone it shows the report of the last 15 minutes.

    \b
    Examples:
      eventstore requests
      eventstore requests report --last 24h
      eventstore requests prune --keep 90d --dry-run
    """
    if click.get_current_context().invoked_subcommand is None:
        session.run(_report(session, None, None, 900.0, 20))


@command.command()
@click.option("--last", type=Age(), default="15m", show_default=True, metavar="AGE", help="How long before its end.")
@click.option("--since", type=TIME, metavar="TIME", help="Where it begins, instead of --last.")
@click.option("--until", type=TIME, metavar="TIME", help="Where it ends.  [default: now]")
@click.option("--slowest", type=click.IntRange(0, 1000), default=20, show_default=True, help="Paths to name.")
@shared_options
def report(session: Session, last: float, since: datetime | None, until: datetime | None, slowest: int) -> None:
    """Show rate, statuses, latency, devices and the slowest paths of a period.

    Of more than 100,000 requests it counts the newest, and says so; latencies are made from a sample of 5,000 then.
    Columns of the paths: method, path, count, errors (5xx), p50 and p95 in milliseconds. JSON is one object, with the
    series.

    \b
    Examples:
      eventstore requests report
      eventstore requests report --last 24h --slowest 5
      eventstore requests report --since 2026-01-31T12:00 --until 2026-01-31T13:00 --json
    """
    session.run(_report(session, since, until, last, slowest))


async def _report(session: Session, since: datetime | None, until: datetime | None, last: float, slowest: int) -> None:
    from datetime import timedelta

    from eventstore.reports.requests import read_requests

    async with session.store() as store:
        found = await read_requests(
            store.database, since=since, until=until, last=timedelta(seconds=last), slowest=slowest
        )
    if session.json:
        write_line(json_line(asdict(found)))
        return
    for name, text in _lines(found):
        write_line(f"{name}\t{text}".expandtabs(12))
    with Rows(False, SLOWEST) as rows:
        for path in found.slowest:
            row = asdict(path)
            rows.add(row | {"p50_ms": _ms(row["p50"]), "p95_ms": _ms(row["p95"])})


def _lines(found: RequestReport) -> list[tuple[str, str]]:
    def counts(of: dict[str, int]) -> str:
        return "  ".join(f"{cell(name)} {count:,}" for name, count in of.items()) or "-"

    latency = found.latency
    period = f"{found.counted_since:%Y-%m-%d %H:%M:%S} to {found.until:%Y-%m-%d %H:%M:%S} UTC"
    lines = [
        ("requests", f"{found.requests:,}, {found.per_second:,.2f} a second, {period}"),
        ("statuses", counts(found.statuses)),
        ("errors", f"{found.errors:,} (5xx)"),
        (
            "latency",
            "-" if latency is None else f"p50 {_ms(latency.p50)}  p95 {_ms(latency.p95)}  p99 {_ms(latency.p99)} ms",
        ),
        ("devices", counts(found.devices)),
        ("sessions", f"{found.sessions:,}"),
        ("paths", f"{found.paths:,}"),
    ]
    if not found.complete:
        lines.append(
            ("counted", f"the newest {found.requests:,}: there were more from {found.since:%Y-%m-%d %H:%M:%S} on")
        )
    return lines


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.1f}"


@command.command()
@click.option("--keep", type=Keep(), required=True, metavar="PERIOD", help="What to keep: 90d, 12w or 6mo.")
@click.option("--dry-run", is_flag=True, help="Only show the months that would be dropped.")
@yes_option
@shared_options
def prune(session: Session, keep: tuple[int, int], dry_run: bool, yes: bool) -> None:
    """Drop the months of requests that ended longer ago than what is to be kept.

    A month is dropped as a whole, so that up to a month more is kept. Applications go on meanwhile.

    \b
    Examples:
      eventstore requests prune --keep 90d --dry-run
      eventstore requests prune --keep 6mo --yes
    """
    if not dry_run:
        old = session.run(_prune(session, *keep, dry_run=True))
        if old and not yes:
            confirm(f"Drop the requests of {_named(old)}, for good?", "dropped")
    months = session.run(_prune(session, *keep, dry_run=dry_run))
    row = {"months": [f"{one.month:%Y-%m}" for one in months], "bytes": sum(one.bytes for one in months)}
    what = f"{_named(months)} ({row['bytes']:,} bytes)" if months else "no month is old enough"
    sentence = f"to drop: {what}; nothing was dropped" if dry_run else f"dropped: {what}"
    result(session.json, row | {"dry_run": dry_run}, sentence)


async def _prune(session: Session, months: int, days: int, *, dry_run: bool) -> list[Month]:
    from eventstore.analytics.storing import RequestTable

    async with session.store() as store, AsyncExitStack() as noted:
        table = RequestTable(store.database)
        if dry_run:
            return await table.months(keep_months=months, keep_days=days)
        given = {"keep_months": months or None, "keep_days": days or None}
        await noted.enter_async_context(recorded(store.database, "requests prune", store.schema, **given))
        return await table.prune(keep_months=months, keep_days=days)


def _named(months: list[Month]) -> str:
    return ", ".join(f"{one.month:%Y-%m}" for one in months)
