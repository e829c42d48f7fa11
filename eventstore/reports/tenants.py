"""Where the tenants of a schema are not kept apart as `eventstore.tenants` would have it, and the check of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventstore.reports.health import Verdict, check, fail, named, ok, unknown
from eventstore.reports.installed import released
from eventstore.reports.site import Site
from eventstore.rights import PUBSUB_TABLES
from eventstore.tenants import COVERED, POLICY, SHARED, asked

__all__ = ["Difference", "Kept", "differences", "read_kept"]

UNIQUE = ("checkpoints_pkey", "node_subscriptions_pkey", "nodes_pkey", "parked_pkey", "subscriptions_pkey")
"""Keys of ids that are unique by themselves, whoever's they are."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        kind: ``table``, ``security``, ``policy``, ``key``, ``owner``, ``function`` or ``login``.
        name: of the table, key, role or function.
        found: what is so, or is missing.
    """

    kind: str
    name: str
    found: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What the catalogs say.

    Attributes:
        schema: its name.
        tables: a row for each that is no partition: its name, owner, column, security, policies and unique indexes.
        body: of `current_tenant_v1`; None: it is missing, or does not run with its owner's rights.
        lost: logins that are bound to no effect; None: who asks may not see them.
    """

    schema: str
    tables: Sequence[Mapping[str, Any]]
    body: str | None
    lost: Sequence[str] | None

    @property
    def any(self) -> bool:
        """Something in the schema is about tenants."""
        ours = [one for one in self.tables if one["name"] not in SHARED]
        return any(one["has_column"] or one["enabled"] or one["policies"] for one in ours)


# Expressions are shown with the names of schemas, whatever the path of who asks is.
_TABLES = """
    select f.* from (select set_config('search_path', 'pg_catalog', true) as path offset 0) p, lateral (
        select c.relname::text as name, c.relowner::regrole::text as owner, r.rolsuper or r.rolbypassrls as unheld,
               c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
               a.attname is not null as has_column,
               coalesce(a.attnotnull and a.attcollation = '"C"'::regcollation, false) as fits,
               (select json_agg(json_build_array(l.polname, l.polpermissive, l.polcmd, l.polroles = '{0}',
                                                 pg_get_expr(l.polqual, c.oid), pg_get_expr(l.polwithcheck, c.oid))
                                order by l.polname) from pg_policy l where l.polrelid = c.oid)::text as policies,
               array(select i.indexrelid::regclass::text from pg_index i
                      where i.indrelid = c.oid and i.indisunique and i.indkey[0] is distinct from a.attnum) as keys
          from pg_class c join pg_roles r on r.oid = c.relowner
          left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
         where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p', 'f', 'm') and not c.relispartition
           and p.path is not null
         order by c.relname offset 0) f
"""

_BODY = """
    select p.prosrc from pg_proc p
     where p.pronamespace = to_regnamespace($1) and p.proname = 'current_tenant_v1' and p.prosecdef
       and cardinality(p.proconfig) = 1
       and replace(p.proconfig[1], '"', '') = 'search_path=pg_catalog, ' || replace($1, '"', '') || ', pg_temp'
       and p.proowner = (select c.relowner from pg_class c
                          where c.relnamespace = p.pronamespace and c.relname = 'tenant_logins')
"""

# Who may become the owner can take the policies away, and who may become a superuser needs not even that.
_LOST = """
    select l.login from {0}.tenant_logins l left join pg_roles r on r.rolname = l.login
     where (r.rolcanlogin and not (r.rolsuper or r.rolbypassrls)
            and (select b.last_value from {0}.tenant_bindings b) > 0
            and not exists (select from pg_roles s
                             where (s.rolsuper or s.rolbypassrls or s.oid = (select c.relowner from pg_class c
                                    where c.oid = '{0}.tenant_logins'::regclass))
                               and pg_has_role(r.oid, s.oid, 'member'))) is not true order by 1
"""


async def read_kept(site: Site) -> Kept:
    """Read the catalogs, which takes no rights but to connect."""
    tables = [dict(row) for row in await site.rows(_TABLES, site.quoted)]
    for one in tables:
        one["policies"] = [
            [_plain(part, site.schema) for part in policy] for policy in json.loads(one["policies"] or "[]")
        ]
    body = await site.rows(_BODY, site.quoted)
    return Kept(site.schema, tables, body[0][0] if body else None, await _lost(site))


def _plain(part: Any, schema: str) -> Any:
    """Return text in one line, without the quotes of the schema's name, which not every name needs."""
    return re.sub(r"\s+", " ", part).replace(f'"{schema}".', f"{schema}.") if isinstance(part, str) else part


async def _lost(site: Site) -> list[str] | None:
    logins = f"{site.quoted}.tenant_logins"
    seen = await site.row(
        "select case when to_regclass($1) is not null then has_table_privilege($1, 'select') end as may", logins
    )
    if not seen["may"]:
        return None
    return [row["login"] for row in await site.rows(_LOST.format(site.quoted))]


async def differences(site: Site) -> list[Difference]:
    """Return what does not keep the tenants of the schema apart; none: everything does.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    found = await read_kept(site)
    if not found.any:
        return [Difference("table", site.schema, "the schema has no tenants")]
    return list(differing(found))


def differing(found: Kept) -> Iterator[Difference]:
    """Yield what does not keep them apart, in a schema with tenants."""
    for one in found.tables:
        if one["name"] not in SHARED:
            yield from _of_table(one, found.schema)
    there = {one["name"] for one in found.tables}
    yield from (Difference("table", name, "is missing") for name in COVERED if name not in there)
    if found.body != released(found.schema)["current_tenant_v1"]:
        yield Difference("function", "current_tenant_v1", "is missing, or not as released")
    for login in found.lost or ():
        yield Difference(
            "login",
            login,
            "is bound to no effect: it may not log in, or no policy holds back it or whom it may become",
        )


def _of_table(one: Mapping[str, Any], schema: str) -> Iterator[Difference]:
    name = one["name"]
    if name not in COVERED:
        yield Difference("table", name, "is of no release, and nobody knows whose its rows are")
        return
    if one["unheld"]:
        yield Difference("owner", one["owner"], f"owns {name}, and row-level security does not hold it back")
    if not (one["has_column"] and one["fits"]):
        yield Difference("table", name, "has no column that says whose a row is")
    if not (one["enabled"] and one["forced"]):
        yield Difference("security", name, "row-level security is not enabled, or not forced on its owner")
    quick = name not in PUBSUB_TABLES
    ours = _plain(f"(tenant = ( SELECT {asked(schema, quickly=quick)} AS current_tenant_v1))", schema)
    if one["policies"] != [[POLICY, True, "*", True, ours, ours]]:
        yield Difference("policy", name, "has another policy, or none")
    for key in one["keys"]:
        if key.split(".")[-1].strip('"') not in UNIQUE:
            yield Difference("key", key, "does not begin with the tenant")


@check("tenants", read_kept)
def tenants(found: Kept) -> Verdict:
    """Whether the tenants of the schema, if it has any, are kept apart."""
    if not found.tables:
        return unknown("unknown: there is no event store", "see the check `schema`")
    if not found.any:
        return ok("the schema has no tenants")
    wrong = list(differing(found))
    if not wrong:
        return ok("every table is under row-level security, forced on its owner")
    facts = [{"kind": one.kind, "name": one.name, "found": one.found} for one in wrong]
    return fail(
        f"not kept apart: {named(f'{one.name} {one.found}' for one in wrong)}",
        "`eventstore tenants --check` tells all of it, --apply makes tables and policies right",
        facts,
    )
