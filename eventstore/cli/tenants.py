"""``eventstore tenants``: tenants in one schema, kept apart by row-level security."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.output import Rows, cell, result, write_line
from eventstore.cli.session import Session, shared_options

__all__ = ["command"]


def _pairs(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    # A login may hold anything; a tenant's name holds no sign of equality.
    pairs = [one.rpartition("=") for one in given]
    for text, (login, sign, tenant) in zip(given, pairs, strict=True):
        if not (login and sign and tenant):
            raise click.BadParameter(f"{text!r} is not of the form LOGIN=TENANT, such as acme_app=acme")
    return [(login, tenant) for login, _, tenant in pairs]


@click.command()
@click.option("--apply", "applying", is_flag=True, help="Run the SQL, in one transaction; may be repeated.")
@click.option("--check", "checking", is_flag=True, help="Show what differs, or cannot be seen; exit code 1 then.")
@click.option("--existing", metavar="NAME", help="The tenant whose the rows become that are there.")
@click.option(
    "--bind", "bound", metavar="LOGIN=TENANT", multiple=True, callback=_pairs,
    help="A login that may be this tenant alone; repeatable.",
)  # fmt: skip
@click.option("--unbind", "unbound", metavar="LOGIN", multiple=True, help="A login that may be any again; repeatable.")
@shared_options
def command(
    session: Session,
    applying: bool,
    checking: bool,
    existing: str | None,
    bound: list[tuple[str, str]],
    unbound: tuple[str, ...],
) -> int:
    """Print, apply or check what keeps the tenants of one schema apart.

    Every table gets a column with the tenant's name and a policy of row-level security, forced on the schema's owner,
    with whose rights all functions run. That takes the roles of `eventstore roles`. Prints the SQL, for which no
    database is needed; --apply runs it, as who may become the owner. From then on --tenant says whose log a command is
    about. Columns of --check: kind, name, what differs, what to do about it; "unknown" is what may not be looked at.

    \b
    Examples:
      eventstore tenants > tenants.sql
      eventstore tenants --apply
      eventstore tenants --apply --existing acme --bind acme_app=acme
      eventstore tenants --check --json
    """
    if applying and checking:
        raise click.UsageError("--apply and --check exclude each other")
    if checking and (existing or bound or unbound):
        raise click.UsageError("--existing, --bind and --unbind are for the SQL and --apply")
    session.of_all_tenants()
    if checking:
        with session.server() as dsn:
            return session.run(_compare(session, dsn))
    return _apply(session, existing, bound, unbound) if applying else _print(session, existing, bound, unbound)


def _print(session: Session, existing: str | None, bound: list[tuple[str, str]], unbound: tuple[str, ...]) -> int:
    from eventstore.tenants import script

    sql = script(session.schema_name, existing=existing, bound=bound, unbound=unbound)
    text = f"begin;\n{sql}commit;"
    result(session.json, {"schema": session.schema_name, "sql": text}, text)
    return 0


def _apply(session: Session, existing: str | None, bound: list[tuple[str, str]], unbound: tuple[str, ...]) -> int:
    from eventstore.tenants import apply

    schema = session.schema_name
    with session.server() as dsn:
        session.run(apply(dsn, schema, existing=existing, bound=bound, unbound=unbound))
    whose = f"; what was there belongs to {cell(existing)}" if existing else ""
    row = {"schema": schema, "existing": existing, "bound": [list(one) for one in bound], "unbound": list(unbound)}
    result(session.json, row, f"schema {cell(schema)} has tenants{whose}")
    return 0


async def _compare(session: Session, dsn: str) -> int:
    from eventstore.reports.site import Site
    from eventstore.reports.tenants import differences

    async with Site(dsn, session.schema_name) as site:
        found = await differences(site)
    with Rows(session.json, ("kind", "name", "found", "cure")) as rows:
        for one in found:
            rows.add(asdict(one))
    if not found and not session.json:
        write_line(f"the tenants of schema {cell(session.schema_name)} are kept apart")
    return int(bool(found))
