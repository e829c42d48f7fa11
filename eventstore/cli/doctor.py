"""``eventstore doctor``: what is wrong with the database, the subscriptions or the nodes, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eventstore.cli.asking import confirm, yes_option
from eventstore.cli.output import Rows, cell, result
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.reports.horizon import Blocker, Horizon

__all__ = ["command"]

COLUMNS = ("status", "name", "found", "cure")


@click.command()
@click.option("--only", "only", metavar="NAME", multiple=True, help="Make this check alone; repeatable.")
@click.option("--list", "listing", is_flag=True, help="List the checks and what each looks for; needs no database.")
@click.option("--listen-dsn", metavar="DSN", help="How the nodes connect to LISTEN, if not by --dsn.")
@click.option("--terminate-blocker", is_flag=True, help="End the transaction that holds the horizon; asks first.")
@yes_option
@shared_options
def command(
    session: Session, only: tuple[str, ...], listing: bool, listen_dsn: str | None, terminate_blocker: bool, yes: bool
) -> int:
    """Check the database, the subscriptions and the nodes, and say what to do.

    Columns: status, check, what was found, what to do about it. A status is "ok", "unknown" (the role may not see it,
    or it could not be read), "warn" or "fail". The exit code is 1 if a check fails, 0 otherwise. Nothing is changed but
    by --terminate-blocker, which ends what the check "horizon" shows: a session, or a prepared transaction (ROLLBACK
    PREPARED). An append that has only just begun is left alone.

    \b
    Examples:
      eventstore doctor
      eventstore doctor --only horizon --only stuck --json
      eventstore doctor --list
      eventstore doctor --terminate-blocker
    """
    if listing:
        return _list(session, only)
    if yes and not terminate_blocker:
        raise click.UsageError("--yes is about --terminate-blocker")
    if only and terminate_blocker:
        raise click.UsageError("--terminate-blocker is about the check horizon alone; leave out --only")
    session.log_to_stderr()
    with session.server() as dsn:
        if terminate_blocker:
            return _end(session, dsn, yes)
        return session.run(_examine(session, dsn, only, listen_dsn))


def _list(session: Session, only: tuple[str, ...]) -> int:
    from eventstore.reports.health import checks

    with Rows(session.json, ("name", "about")) as rows:
        for one in checks(only):
            rows.add({"name": one.name, "about": one.about})
    return 0


async def _examine(session: Session, dsn: str, only: tuple[str, ...], listen_dsn: str | None) -> int:
    from eventstore.reports.health import checks, examine
    from eventstore.reports.site import Site

    checks(only)  # before anything is connected to
    failed = False
    with Rows(session.json, COLUMNS) as rows:
        async with Site(dsn, session.schema_name, tenant=session.tenant_name, listen_dsn=listen_dsn) as site:
            async for finding in examine(site, only):
                rows.add(asdict(finding))
                failed = failed or finding.status == "fail"
    return 1 if failed else 0


# -- ending what holds the horizon


def _end(session: Session, dsn: str, yes: bool) -> int:
    from eventstore.reports.horizon import check_visible, horizon

    # The question is asked between two runs, not inside one: Ctrl-C would have to wait for its answer.
    found = session.run(_read(session, dsn))
    holder = found.holder
    if holder is None or horizon(found).status == "ok":
        result(session.json, _row(found, ended=False), f"nothing to end: {cell(horizon(found).found)}")
        return 0
    check_visible(holder)
    _agree(holder, yes)
    return session.run(_end_it(session, dsn, found, holder))


async def _read(session: Session, dsn: str) -> Horizon:
    from eventstore.reports.horizon import read_horizon
    from eventstore.reports.site import Site

    async with Site(dsn, session.schema_name, tenant=session.tenant_name) as site:
        return await read_horizon(site)


def _agree(holder: Blocker, yes: bool) -> None:
    """Show what is to be ended, and ask."""
    from eventstore.reports.horizon import describe

    how = "Terminate" if holder.gid is None else "ROLLBACK PREPARED:"
    query = f" Its last query: {cell(holder.query[:500])}" if holder.query else ""
    shown = f"{how} {cell(describe(holder))}.{query}"
    if yes:
        click.echo(shown, err=True)
    else:
        confirm(f"{shown} What it wrote is rolled back.", "ended")


async def _end_it(session: Session, dsn: str, before: Horizon, holder: Blocker) -> int:
    from eventstore.reports.horizon import describe, horizon, read_horizon, terminate
    from eventstore.reports.site import Site

    async with Site(dsn, session.schema_name, tenant=session.tenant_name) as site:
        async with recorded(await site.database(), "terminate blocker", describe(holder), **_known(holder)):
            ended = await terminate(site, holder)
        after = await read_horizon(site)
    row = _row(after, ended=ended) | {"blocker": asdict(holder), "was": before.horizon}
    gone = not any(_same(one, holder) for one in after.blockers)
    what = "ended" if ended else "was gone already:" if gone else "could not end"
    result(session.json, row, f"{what} {cell(describe(holder))}; the horizon: {cell(horizon(after).found)}")
    return 0 if gone else 1


def _known(holder: Blocker) -> dict[str, object]:
    return {"pid": holder.pid, "gid": holder.gid, "place": holder.place}


def _same(one: Blocker, other: Blocker) -> bool:
    return (one.pid, one.gid, one.backend_start) == (other.pid, other.gid, other.backend_start)


def _row(found: Horizon, ended: bool) -> dict[str, object]:
    return {"ended": ended, "horizon": found.horizon, "last_position": found.last_position}
