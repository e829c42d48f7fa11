"""Where the rights in a schema differ from what `eventstore.roles` would have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eventstore.reports.site import Site
from eventstore.rights import NODES, PUBSUB_TABLES, ROLES, callers
from eventstore.roles import role_names

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be.

    Attributes:
        kind: ``missing``, ``extra``, ``owner`` or ``attribute``; or ``other``: a role that is none of these may call a
            function, which may be meant so.
        role: whom it is about.
        found: what is so, or is missing.
    """

    kind: str
    role: str
    found: str


async def differences(site: Site, prefix: str) -> list[Difference]:
    """Return how the roles, owners and rights differ from what ``eventstore roles --apply`` makes; none: not at all.

    Takes no rights but to connect.

    Raises:
        ConfigurationError: the prefix is unusable.
        DatabaseUnavailable: the database cannot be reached.
    """
    names = role_names(prefix)
    return [
        *await _roles(site, names),
        *await _owners(site, names["owner"]),
        *await _schema_rights(site, names),
        *await _function_rights(site, names),
        *await _table_rights(site, names),
    ]


async def _roles(site: Site, names: Mapping[str, str]) -> list[Difference]:
    rows = await site.rows(
        "select rolname::text as name, rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication"
        " or rolbypassrls as strong from pg_roles where rolname = any($1)", list(names.values())
    )  # fmt: skip
    strong = {row["name"]: row["strong"] for row in rows}
    found = [Difference("missing", name, "the role does not exist") for name in names.values() if name not in strong]
    found += [Difference("attribute", name, "may log in, or more") for name, is_strong in strong.items() if is_strong]
    # Who was only given the right to grant it, as its creator is, does not count.
    members = await site.rows(
        "select m.rolname::text as member, m.rolname = $2 as meant from pg_auth_members a"
        " join pg_roles o on o.oid = a.roleid join pg_roles m on m.oid = a.member where o.rolname = $1"
        " and coalesce((to_jsonb(a) ->> 'set_option')::boolean or (to_jsonb(a) ->> 'inherit_option')::boolean, true)",
        names["owner"],
        names["migrator"],
    )
    found += [
        Difference("extra", row["member"], f"is a member of {names['owner']}") for row in members if not row["meant"]
    ]
    if names.keys() == {kind for kind in ROLES if names[kind] in strong} and not any(row["meant"] for row in members):
        found.append(Difference("missing", names["migrator"], f"is no member of {names['owner']}"))
    return found


async def _owners(site: Site, owner: str) -> list[Difference]:
    rows = await site.rows(
        "select 'schema ' || quote_ident(n.nspname) as what, pg_get_userbyid(n.nspowner)::text as owner"
        "  from pg_namespace n where n.oid = to_regnamespace($1)"
        " union all select 'table ' || c.relname, pg_get_userbyid(c.relowner)"
        "  from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')"
        " union all select 'function ' || p.proname, pg_get_userbyid(p.proowner)"
        "  from pg_proc p where p.pronamespace = to_regnamespace($1) order by 1", site.quoted
    )  # fmt: skip
    if not rows:
        return [Difference("missing", owner, f"there is no schema {site.schema!r}")]
    return [Difference("owner", row["owner"], f"owns {row['what']}") for row in rows if row["owner"] != owner]


async def _schema_rights(site: Site, names: Mapping[str, str]) -> list[Difference]:
    rows = await site.rows(
        f"select {_GRANTEE}, a.privilege_type::text as right"
        " from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a"
        " where n.oid = to_regnamespace($1) and a.grantee <> n.nspowner", site.quoted
    )  # fmt: skip
    found = {(row["grantee"], row["right"]) for row in rows}
    wanted = {(name, "USAGE") for kind, name in names.items() if kind != "owner"}
    known = {*names.values(), "PUBLIC"}
    extra = {one for one in found - wanted if one[0] in known or one[1] == "CREATE"}
    return _told(extra, wanted - found, lambda right: f"{right} on the schema")


async def _function_rights(site: Site, names: Mapping[str, str]) -> list[Difference]:
    rows = await site.rows(
        f"select {_GRANTEE}, p.proname::text as name"
        " from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " where p.pronamespace = to_regnamespace($1) and a.grantee <> p.proowner", site.quoted
    )  # fmt: skip
    installed = await site.rows(
        "select proname::text from pg_proc where pronamespace = to_regnamespace($1)", site.quoted
    )
    found = {(row["grantee"], row["name"]) for row in rows}
    there = {name for (name,) in installed}
    wanted = {(names[kind], name) for name, kinds in callers().items() if name in there for kind in kinds}
    known = {*names.values(), "PUBLIC"}
    extra = {one for one in found - wanted if one[0] in known}
    others = sorted(found - wanted - extra)
    return [
        *_told(extra, wanted - found, lambda name: f"execute on function {name}"),
        *(Difference("other", role, f"execute on function {name}") for role, name in others),
    ]


async def _table_rights(site: Site, names: Mapping[str, str]) -> list[Difference]:
    rows = await site.rows(
        f"select {_GRANTEE}, c.relname::text as name, lower(a.privilege_type) as right"
        " from pg_class c, aclexplode(c.relacl) a"
        " where c.relnamespace = to_regnamespace($1) and a.grantee <> c.relowner"
        f" union select {_GRANTEE}, c.relname || '.' || t.attname, lower(a.privilege_type)"
        " from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a"
        " where c.relnamespace = to_regnamespace($1) and a.grantee <> c.relowner", site.quoted
    )  # fmt: skip
    found = {(row["grantee"], (row["name"], row["right"])) for row in rows}
    nodes = [names[kind] for kind in NODES]
    tables = await site.rows("select relname::text from pg_class where relnamespace = to_regnamespace($1)", site.quoted)
    there = {name for (name,) in tables}
    wanted = {
        (role, (table, right))
        for table, rights in PUBSUB_TABLES.items()
        if table in there
        for right in rights.split(", ")
        for role in nodes
    }
    return _told(found - wanted, wanted - found, lambda what: f"{what[1]} on {what[0]}")


_GRANTEE = "case when a.grantee = 0 then 'PUBLIC' else pg_get_userbyid(a.grantee)::text end as grantee"


def _told(extra: Iterable[tuple[str, Any]], missing: Iterable[tuple[str, Any]], text: Any) -> list[Difference]:
    return [
        *(Difference("extra", role, text(what)) for role, what in sorted(extra)),
        *(Difference("missing", role, text(what)) for role, what in sorted(missing)),
    ]
