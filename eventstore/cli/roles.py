"""``eventstore roles``: roles with no more rights than they need."""

from __future__ import annotations

from dataclasses import asdict

import click

from eventstore.cli.output import Rows, cell, result, write_line
from eventstore.cli.session import Session, shared_options

__all__ = ["command"]


def _pairs(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [one.partition("=") for one in given]
    for text, (kind, sign, login) in zip(given, pairs, strict=True):
        if not (kind and sign and login):
            raise click.BadParameter(f"{text!r} is not of the form ROLE=LOGIN, such as writer=shop")
    return [(kind, login) for kind, _, login in pairs]


@click.command()
@click.option("--apply", "applying", is_flag=True, help="Run the SQL, in one transaction; may be repeated.")
@click.option("--check", "checking", is_flag=True, help="Show what differs; exit code 1 if anything does.")
@click.option("--prefix", metavar="NAME", help="What the roles' names begin with; by default the schema's name.")
@click.option(
    "--to", "logins", metavar="ROLE=LOGIN", multiple=True, callback=_pairs, help="Make a login a member; repeatable."
)
@shared_options
def command(session: Session, applying: bool, checking: bool, prefix: str | None, logins: list[tuple[str, str]]) -> int:
    """Print, apply or check roles that may do no more than they need.

    They are owner, migrator, writer, reader, worker and admin: groups that cannot log in; --to makes a login a member
    of one. Prints the SQL, for which no database is needed; --apply runs it, as a superuser, or as who may create
    roles and owns the schema. The schema and all that is in it belong to the owner afterwards, and whoever owned it
    before needs a role as everybody does. `migrate` keeps it so. Columns of --check: kind, role, what differs; "other"
    are functions granted to further roles, which are left alone and do not count.

    \b
    Examples:
      eventstore roles > roles.sql
      eventstore roles --apply --to writer=shop --to worker=shop_worker
      eventstore roles --check --json
    """
    if applying and checking:
        raise click.UsageError("--apply and --check exclude each other")
    if checking and logins:
        raise click.UsageError("--to is for the SQL and --apply")
    session.of_all_tenants()
    schema = session.schema_name
    prefix = schema if prefix is None else prefix
    if applying:
        return _apply(session, schema, prefix, logins)
    return _check(session, schema, prefix) if checking else _print(session, schema, prefix, logins)


def _print(session: Session, schema: str, prefix: str, logins: list[tuple[str, str]]) -> int:
    from eventstore.roles import script

    text = f"begin;\n{script(schema, prefix, logins=logins)}commit;"
    result(session.json, {"schema": schema, "prefix": prefix, "sql": text}, text)
    return 0


def _apply(session: Session, schema: str, prefix: str, logins: list[tuple[str, str]]) -> int:
    from eventstore.roles import apply, role_names

    names = role_names(prefix)
    with session.server() as dsn:
        owner = session.run(apply(dsn, schema, prefix, logins=logins))
    row = {"schema": schema, "roles": names, "logins": [list(one) for one in logins], "owned_before": owner}
    before = (
        "" if owner == names["owner"] else f"; it belonged to {cell(owner)}, which has no role in it unless given one"
    )
    result(session.json, row, f"schema {cell(schema)} belongs to {cell(names['owner'])}{before}")
    return 0


def _check(session: Session, schema: str, prefix: str) -> int:
    from eventstore.roles import role_names

    role_names(prefix)  # before anything is connected to
    with session.server() as dsn:
        return session.run(_compare(session, dsn, schema, prefix))


async def _compare(session: Session, dsn: str, schema: str, prefix: str) -> int:
    from eventstore.reports.roles import differences
    from eventstore.reports.site import Site

    async with Site(dsn, schema) as site:
        found = await differences(site, prefix)
    with Rows(session.json, ("kind", "role", "found")) as rows:
        for one in found:
            rows.add(asdict(one))
    counted = any(one.kind != "other" for one in found)
    if not counted and not session.json:
        write_line(f"the roles of schema {cell(schema)} are as they should be")
    return int(counted)
