"""``eventstore subscription explain``: how a selector is served, what it matches, and what is left to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.output import cell, event_row, json_line, progress, write_line
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, NAME, POSITION

if TYPE_CHECKING:
    from eventstore.reports.explaining import Explanation
    from eventstore.selectors import Selector

__all__ = ["explain"]

WIDTH = 12


@click.command()
@click.argument("name", type=NAME, required=False)
@click.option("--after", type=POSITION, metavar="N", help="Of a selector: begin after this position.  [default: 0]")
@click.option(
    "--sample", type=COUNT, default=10_000, show_default=True, metavar="N", help="Positions to look at for the ratio."
)
@click.option("--limit", type=COUNT, metavar="N", help="Stop counting what remains at so many events.")
@click.option(
    "--events", type=COUNT, default=5, show_default=True, metavar="N", help="Show so many of the next events."
)
@click.option(
    "--watch",
    type=click.FloatRange(0, 3599),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="See for so long how fast it moves.",
)
@selector_options
@shared_options
def explain(session: Session, name: str | None, selector: Selector | None, after: int | None, **options: Any) -> None:
    """Tell how a subscription is served, or would be.

    Of the subscription NAME, or of a selector that is not stored: the keys the router files it under; whether an index
    leads to its events, and the plan of a query; how many of the last events match; how many matching events remain
    behind its checkpoints, exactly, and the first of them. Nothing is changed. Parked events are not among those that
    remain.

    \b
    Examples:
      eventstore subscription explain billing
      eventstore subscription explain billing --limit 100000 --json
      eventstore subscription explain --type OrderPlaced --payload '{"total": {"$gt": 100}}' --events 20
    """
    if (name is None) == (selector is None):
        raise click.UsageError("give the NAME of a subscription, or selector options such as --type; one of them")
    if name is not None and after is not None:
        raise click.UsageError("--after is for a selector; a subscription has checkpoints")
    session.log_to_stderr()
    with session.server() as dsn:
        found = session.run(_explain(session, dsn, name, selector, after=after or 0, **options))
    if session.json:
        write_line(json_line(_row(found)))
        return
    for fact, value in _facts(found):
        write_line(f"{fact:<{WIDTH}}{value}".rstrip())


async def _explain(
    session: Session, dsn: str, name: str | None, selector: Selector | None, **options: Any
) -> Explanation:
    from eventstore.reports.explaining import explain as explained
    from eventstore.reports.site import Site

    async with Site(dsn, session.schema_name, tenant=session.tenant_name) as site:
        database = await site.database()
        subject = selector if name is None else await (await site.ledger()).get(name)
        assert subject is not None
        with ExitStack() as shown:
            bar = lambda total: shown.enter_context(progress("counting", total))  # noqa: E731
            return await explained(database, subject, advance=bar, **options)


def _row(found: Explanation) -> dict[str, Any]:
    from eventstore.selectors import dump

    return {
        "name": found.name,
        "selector": json.loads(dump(found.selector)),
        "pool_size": found.pool_size,
        "checkpoints": found.checkpoints,
        "horizon": found.horizon,
        "keys": [key._asdict() for key in found.keys],
        "residual": found.residual,
        "plan": asdict(found.plan),
        "sample": asdict(found.sample) | {"ratio": found.sample.ratio},
        "remaining": asdict(found.remaining),
        "events": [event_row(event) for event in found.events],
    }


def _facts(found: Explanation) -> Iterator[tuple[str, str]]:
    """Yield the lines of the text, each with what it is about; what goes on with the line before has no name."""
    from eventstore.reports.explaining import plan_lines
    from eventstore.selectors import dump

    yield "selector", cell(dump(found.selector))
    at = sorted(set(found.checkpoints))
    place = f"{at[0]}" if len(at) == 1 else f"{at[0]} to {at[-1]}"
    yield "stands at", f"{place} of {found.horizon}, in {found.pool_size} partition{'s' * (found.pool_size > 1)}"
    for number, key in enumerate(found.keys):
        rest = ", then asks the event itself" if key.residual else ""
        yield "" if number else "router", f"{cell(key.key)}{rest}"
    if not found.keys:
        yield "router", "nothing: no event can match"
    yield "index", _index(found)
    for number, line in enumerate(plan_lines(found.plan)):
        yield "" if number else "plan", cell(line)
    yield "sample", _sample(found)
    yield "remaining", _remaining(found)
    if found.remaining.per_second is not None:
        yield "rate", _rate(found)
    for number, event in enumerate(found.events):
        place = cell(event.stream) + f" {event.version}" if event.stream is not None else "no stream"
        yield "" if number else "next", f"{event.position}  {place}  {cell(event.type)}  {cell(event.data)[:200]}"


def _index(found: Explanation) -> str:
    used = f"uses {', '.join(found.plan.indexes)}" if found.plan.indexes else "uses none"
    if found.plan.narrows:
        return f"leads to its events; the plan below {used}"
    return f"none leads to its events, each is looked at, a window at a time; the plan below {used}"


def _sample(found: Explanation) -> str:
    sample = found.sample
    ratio = "" if sample.ratio is None else f": one of {sample.ratio:,.1f}"
    return f"of {sample.looked_at:,} events at the last {sample.positions:,} positions {sample.matched:,} match{ratio}"


def _remaining(found: Explanation) -> str:
    left = found.remaining
    by = "" if found.pool_size == 1 or not left.events else f", most of a partition {max(left.partitions):,}"
    return f"{'' if left.exact else 'at least '}{left.events:,} events{by}"


def _rate(found: Explanation) -> str:
    left = found.remaining
    rest = "" if left.seconds is None else f"; caught up in about {left.seconds:,.0f} s if nothing is appended"
    return f"{left.per_second:,.0f} events a second{rest}"
