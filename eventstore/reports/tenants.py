"""Where the tenants of a schema are not kept apart as `eventstore.tenants` would have it, and the check of it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eventstore.reports import roles
from eventstore.reports.health import Verdict, check, fail, named, ok, unknown
from eventstore.reports.installed import TRIGGERS, released
from eventstore.reports.site import Site
from eventstore.rights import PUBSUB_TABLES, callers
from eventstore.roles import identifier, prefix_of, role_names
from eventstore.schema import quoted
from eventstore.tenants import COVERED, POLICY, SHARED, asked, default, unheld

__all__ = ["Difference", "Kept", "differences", "read_kept"]

UNIQUE = ("checkpoints_pkey", "node_subscriptions_pkey", "nodes_pkey", "parked_pkey", "subscriptions_pkey")
"""Keys of ids that are unique by themselves, whoever's they are."""

MADE = (*TRIGGERS, "seals_append_only", "seals_no_truncate")
"""Triggers of the release; another one may write what it sees for another tenant."""

ALL = (*COVERED, *SHARED)

APPLY = "eventstore tenants --apply"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        kind: ``table``, ``default``, ``trigger``, ``rule``, ``security``, ``policy``, ``key``, ``owner``, ``right``,
            ``function`` or ``login``; or ``unknown``: who asks may not see it.
        name: of the table, key, role or function.
        found: what is so, or is missing.
        cure: what to do about it.
    """

    kind: str
    name: str
    found: str
    cure: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What the catalogs say.

    Attributes:
        schema: its name.
        tables: a row for each table: its name, owner, column, security, policies, unique indexes, triggers and rules;
            of a partition, wherever it is, its triggers and rules count.
        body: of `current_tenant_v1`; None: it is missing, or does not run with its owner's rights.
        owner: of the schema.
        rights: how roles, owners and rights go further than `eventstore.roles` would have them.
        logins: a row for each that is bound, and whom it may become; None: who asks may not see them.
        passing: a row for each that is not bound, is a member of a role, and is held back by no policy.
    """

    schema: str
    tables: Sequence[Mapping[str, Any]]
    body: str | None = None
    owner: str = ""
    rights: Sequence[roles.Difference] = ()
    logins: Sequence[Mapping[str, Any]] | None = None
    passing: Sequence[Mapping[str, Any]] = ()

    @property
    def any(self) -> bool:
        """Something in the schema is about tenants."""
        ours = [one for one in self.tables if one["name"] not in SHARED]
        return any(one["has_column"] or one["enabled"] or one["policies"] for one in ours)


# Expressions are shown with the names of schemas, whatever the path of who asks is. What a partition copies from its
# table is no trigger of its own.
_TABLES = """
    select f.* from (select set_config('search_path', 'pg_catalog', true) as path offset 0) p, lateral (
        select case when c.relnamespace = n.oid then c.relname::text else c.oid::regclass::text end as name,
               r.rolname::text as owner, r.rolsuper or r.rolbypassrls as unheld,
               c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
               c.relispartition as part, c.relnamespace = n.oid as inside, a.attname is not null as has_column,
               coalesce(a.attnotnull and a.attcollation = '"C"'::regcollation, false) as fits,
               (select pg_get_expr(d.adbin, c.oid) from pg_attrdef d
                 where d.adrelid = c.oid and d.adnum = a.attnum) as default,
               (select json_agg(json_build_array(l.polname, l.polpermissive, l.polcmd, l.polroles = '{0}',
                                                 pg_get_expr(l.polqual, c.oid), pg_get_expr(l.polwithcheck, c.oid))
                                order by l.polname) from pg_policy l where l.polrelid = c.oid)::text as policies,
               array(select i.indexrelid::regclass::text from pg_index i
                      where i.indrelid = c.oid and i.indisunique and i.indkey[0] is distinct from a.attnum) as keys,
               (select json_agg(json_build_array(t.tgname, t.tgfoid::regproc) order by t.tgname) from pg_trigger t
                 where t.tgrelid = c.oid and not t.tgisinternal and t.tgparentid = 0)::text as triggers,
               array(select w.rulename::text from pg_rewrite w
                      where w.ev_class = c.oid and w.rulename <> '_RETURN' order by 1) as rules
          from (select to_regnamespace($1)::oid as oid) n
          join pg_class c on c.relnamespace = n.oid
            or exists (select from pg_inherits i join pg_class o on o.oid = i.inhparent
                        where i.inhrelid = c.oid and o.relnamespace = n.oid)
          join pg_roles r on r.oid = c.relowner
          left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
         where c.relkind in ('r', 'p', 'f', 'm') and p.path is not null
         order by 1 offset 0) f
"""

_BODY = """
    select p.prosrc from pg_proc p
     where p.pronamespace = to_regnamespace($1) and p.proname = 'current_tenant_v1' and p.prosecdef
       and cardinality(p.proconfig) = 1
       and replace(p.proconfig[1], '"', '') = 'search_path=pg_catalog, ' || replace($1, '"', '') || ', pg_temp'
       and p.proowner = (select c.relowner from pg_class c
                          where c.relnamespace = p.pronamespace and c.relname = 'tenant_logins')
"""

_LOGINS = """
    select l.login, coalesce(r.rolcanlogin, false) as may_log_in,
           (select b.last_value from {0}.tenant_bindings b) > 0 as heeded, u.name as unheld, u.via
      from {0}.tenant_logins l left join pg_roles r on r.rolname = l.login left join lateral ({1}) u on true order by 1
"""

# Superusers are members of everything, and every server has one: of them the documentation tells.
_PASSING = """
    select r.rolname::text as login, s.rolname::text as unheld, min(m.rolname)::text as role,
           (select v.rolname::text from pg_auth_members a join pg_roles v on v.oid = a.roleid
             where a.member = r.oid and pg_has_role(v.oid, s.oid, 'member') order by 1 limit 1) as via
      from pg_roles r
      join pg_roles s on (s.rolsuper or s.rolbypassrls) and pg_has_role(r.oid, s.oid, 'member')
      join pg_roles m on m.rolname = any($1) and pg_has_role(r.oid, m.oid, 'member')
     where r.rolcanlogin and not r.rolsuper and r.rolname <> all($2)
     group by r.oid, r.rolname, s.oid, s.rolname order by 1, 2
"""


async def read_kept(site: Site) -> Kept:
    """Read the catalogs, which takes no rights but to connect, and the bindings, which takes more."""
    tables = [dict(row) for row in await site.rows(_TABLES, site.quoted)]
    for one in tables:
        for name in ("policies", "triggers"):
            one[name] = [[_plain(part, site.schema) for part in row] for row in json.loads(one[name] or "[]")]
        one["default"] = _plain(one["default"], site.schema)
    kept = Kept(site.schema, tables)
    return await _whole(site, kept) if kept.any else kept


async def _whole(site: Site, kept: Kept) -> Kept:
    """Return it with what is to be known of a schema with tenants alone."""
    body = await site.rows(_BODY, site.quoted)
    owned = "select pg_get_userbyid(nspowner)::text from pg_namespace where oid = to_regnamespace($1)"
    (owner,) = await site.row(owned, site.quoted)
    prefix = prefix_of(owner)
    names = [] if prefix is None else list(role_names(prefix).values())
    differing = [] if prefix is None else await roles.differences(site, prefix)
    logins = await _logins(site)
    bound = [one["login"] for one in logins or ()]
    return replace(
        kept,
        body=body[0][0] if body else None,
        owner=owner,
        rights=[one for one in differing if one.kind in ("extra", "owner", "attribute")],
        logins=logins,
        passing=[dict(row) for row in await site.rows(_PASSING, names, bound)],
    )


def _plain(part: Any, schema: str) -> Any:
    """Return text in one line, without the quotes of the schema's name, which not every name needs."""
    return re.sub(r"\s+", " ", part).replace(f'"{schema}".', f"{schema}.") if isinstance(part, str) else part


async def _logins(site: Site) -> list[dict[str, Any]] | None:
    seen = await site.row(
        "select count(*) = 2 and bool_and(has_table_privilege(c.oid, 'select')"
        " and has_schema_privilege(c.relnamespace, 'usage')) as may from pg_class c"
        " where c.relnamespace = to_regnamespace($1) and c.relname in ('tenant_logins', 'tenant_bindings')", site.quoted
    )  # fmt: skip
    if not seen["may"]:
        return None
    return [dict(row) for row in await site.rows(_LOGINS.format(site.quoted, unheld(site.schema)))]


async def differences(site: Site) -> list[Difference]:
    """Return what does not keep the tenants of the schema apart; none: everything does.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    found = await read_kept(site)
    if not found.any:
        return [Difference("table", site.schema, "the schema has no tenants", APPLY)]
    return list(differing(found))


def differing(found: Kept) -> Iterator[Difference]:
    """Yield what does not keep them apart, in a schema with tenants."""
    for one in found.tables:
        yield from _of_table(one, found)
    there = {one["name"] for one in found.tables}
    yield from (Difference("table", name, "is missing", "eventstore migrate") for name in ALL if name not in there)
    if found.body != released(found.schema)["current_tenant_v1"]:
        yield Difference("function", "current_tenant_v1", "is missing, or not as released", _FUNCTION)
    yield from _of_rights(found)
    yield from _of_logins(found)


_FUNCTION = "eventstore roles --apply, and create it again: its text is eventstore.schema.function_source"


def _of_table(one: Mapping[str, Any], kept: Kept) -> Iterator[Difference]:
    name, schema = one["name"], kept.schema
    if not one["inside"]:
        found = "holds rows of a table of the schema, and is in another schema"
        yield Difference("table", name, found, f"alter table {name} set schema {quoted(schema)}")
    yield from _added(one, quoted(schema))
    if one["part"] or not one["inside"] or name in SHARED:
        return
    if name not in COVERED:
        found = "is of no release, and nobody knows whose its rows are"
        yield Difference("table", name, found, f"move it to another schema, or drop table {quoted(schema)}.{name}")
        return
    if one["unheld"]:
        found = f"owns {name}, and row-level security does not hold it back"
        meant = one["owner"] == kept.owner and prefix_of(kept.owner)
        cure = f"alter role {identifier(kept.owner)} nosuperuser nobypassrls" if meant else "eventstore roles --apply"
        yield Difference("owner", one["owner"], found, cure)
    yield from _of_rows(one, schema)
    for key in one["keys"]:
        if key.split(".")[-1].strip('"') not in UNIQUE:
            yield Difference("key", key, "does not begin with the tenant", f"drop it, or its constraint, from {name}")


def _added(one: Mapping[str, Any], inside: str) -> Iterator[Difference]:
    """Yield what acts beside the statements of the release, on a partition too."""
    schema, table = inside.strip('"'), f"{inside}.{one['name']}" if one["inside"] else one["name"]
    for trigger, function in one["triggers"]:
        # What these functions do is for the check `functions` to say.
        if trigger not in MADE or function.removeprefix(f"{schema}.") not in callers():
            cure = f"drop trigger {identifier(trigger)} on {table}"
            yield Difference("trigger", one["name"], f"has {trigger}, which the release does not make", cure)
    for rule in one["rules"]:
        cure = f"drop rule {identifier(rule)} on {table}"
        yield Difference("rule", one["name"], f"has {rule}, which the release does not make", cure)


def _of_rows(one: Mapping[str, Any], schema: str) -> Iterator[Difference]:
    name = one["name"]
    if not (one["has_column"] and one["fits"]):
        yield Difference("table", name, "has no column that says whose a row is", APPLY)
    elif one["default"] != _plain(default(schema), schema):
        yield Difference("default", name, "gives new rows to another tenant than the transaction's, or to none", APPLY)
    if not (one["enabled"] and one["forced"]):
        yield Difference("security", name, "row-level security is not enabled, or not forced on its owner", APPLY)
    quick = name not in PUBSUB_TABLES
    ours = _plain(f"(tenant = ( SELECT {asked(schema, quickly=quick)} AS current_tenant_v1))", schema)
    if one["policies"] != [[POLICY, True, "*", True, ours, ours]]:
        yield Difference("policy", name, "has another policy, or none", APPLY)


def _of_rights(found: Kept) -> Iterator[Difference]:
    if prefix_of(found.owner) is None:
        told = "owns the schema, and is no owner that `eventstore roles` makes: nobody knows which rights are meant"
        yield Difference("owner", found.owner, told, "eventstore roles --apply")
    for one in found.rights:
        kind = "right" if one.kind == "extra" else "owner"
        yield Difference(kind, one.role, one.found, _taken_back(one, found.owner))


def _taken_back(one: roles.Difference, owner: str) -> str:
    if one.kind == "attribute":
        return (
            f"alter role {identifier(one.role)} nologin nosuperuser nobypassrls nocreaterole nocreatedb noreplication"
        )
    if one.kind == "extra" and one.found == f"is a member of {owner}":
        return f"revoke {identifier(owner)} from {identifier(one.role)}"
    others = "; from a role that is none of these: revoke it" if one.kind == "extra" else ""
    return f"eventstore roles --apply{others}"


def _of_logins(found: Kept) -> Iterator[Difference]:
    if found.logins is None:
        yield Difference(
            "unknown", "tenant_logins", "who is bound could not be looked at: a right is missing", _look(found)
        )
    for one in found.logins or ():
        login = one["login"]
        if not one["may_log_in"]:
            yield Difference("login", login, "is bound, and may not log in", f"{APPLY} --unbind {shlex.quote(login)}")
        elif not one["heeded"]:
            yield Difference(
                "login", login, "is bound, and no binding is looked up", f"{APPLY} --bind {shlex.quote(login)}=TENANT"
            )
        elif one["unheld"] is not None:
            yield _unheld(one, "is bound to no effect")
    for one in found.passing:
        yield _unheld(one, f"is a member of {one['role']}")


def _look(found: Kept) -> str:
    return f"ask as a superuser, or as a migrator with role={found.owner} in the DSN"


def _unheld(one: Mapping[str, Any], what: str) -> Difference:
    login, whom = one["login"], one["unheld"]
    if login == whom:
        cure = f"alter role {identifier(login)} nosuperuser nobypassrls nocreaterole"
        return Difference("login", login, f"{what}, and no policy holds it back", cure)
    found = f"{what}, and may become {whom}, whom no policy holds back"
    return Difference("login", login, found, f"revoke {identifier(one['via'])} from {identifier(login)}")


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
    facts = [asdict(one) for one in wrong]
    if all(one.kind == "unknown" for one in wrong):
        return unknown("unknown: who is bound; the tables are under row-level security", _look(found), facts)
    return fail(
        f"not kept apart: {named(f'{one.name} {one.found}' for one in wrong)}",
        f"{wrong[0].cure}; `eventstore tenants --check` tells all of it",
        facts,
    )
