"""Roles with no more rights than they need: the SQL that makes them, and gives them what `eventstore.rights` says.

``eventstore roles`` prints, applies and checks it. Migrations grant it again.

The roles are groups that cannot log in. Logins become members: ``eventstore roles --apply --to writer=shop``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eventstore.database import connect, mapped_errors
from eventstore.errors import ConfigurationError
from eventstore.rights import NODES, PUBSUB_TABLES, RIGHTS, ROLES
from eventstore.schema import quoted

__all__ = ["apply", "grants", "identifier", "membership", "prefix_of", "role_name", "role_names", "script"]

_LONGEST = max(map(len, ROLES)) + 1


def role_name(kind: str, prefix: str) -> str:
    """Return the name of a role, such as ``eventstore_writer``.

    Raises:
        ConfigurationError: there is no such role, or the prefix is unusable.
    """
    if kind not in ROLES:
        raise ConfigurationError(f"there is no role {kind!r}; there are {', '.join(ROLES)}")
    if not re.fullmatch(r"\w[\w -]*", prefix) or prefix.startswith("pg_"):
        raise ConfigurationError(
            f"the prefix {prefix!r} of the roles must be letters, digits, underscores, hyphens and spaces, and not "
            "begin with pg_"
        )
    if len(prefix.encode()) + _LONGEST > 63:
        raise ConfigurationError(
            f"the prefix {prefix!r} of the roles is too long: at most {63 - _LONGEST} bytes; choose one by --prefix"
        )
    return f"{prefix}_{kind}"


def role_names(prefix: str) -> dict[str, str]:
    """Return the names of all roles by their kind; errors as `role_name`."""
    return {kind: role_name(kind, prefix) for kind in ROLES}


def prefix_of(owner: str) -> str | None:
    """Return the prefix of the roles that the role *owner* is the owner of, None if it is called otherwise."""
    prefix = owner.removesuffix("_owner")
    return prefix if prefix != owner and prefix else None


def grants(schema: str, prefix: str, functions: Iterable[str]) -> list[str]:
    """Return the statements, for the owner to run, that take all rights in *schema* back and grant them again.

    Args:
        functions: those that are installed; none: nothing in the schema is granted.
    """
    names, inside = role_names(prefix), quoted(schema)
    installed = set(functions)
    groups = [identifier(name) for kind, name in names.items() if kind != "owner"]
    all_of_them = ", ".join(groups)
    statements = [
        f"revoke all on {what} {inside} from public, {all_of_them}"
        for what in ("schema", "all tables in schema", "all sequences in schema", "all functions in schema")
    ]
    # What is created by hand is nobody's either.
    owner = identifier(names["owner"])
    statements.append(f"alter default privileges for role {owner} revoke execute on functions from public")
    statements.append(f"grant usage on schema {inside} to {all_of_them}")
    if not installed:
        return statements
    for right in RIGHTS:
        if chosen := [f"{inside}.{name}" for name in right.functions if name in installed]:
            to = ", ".join(identifier(names[kind]) for kind in right.roles)
            statements.append(f"grant execute on function {', '.join(chosen)} to {to}")
    nodes = ", ".join(identifier(names[kind]) for kind in NODES)
    statements += [f"grant {rights} on {inside}.{table} to {nodes}" for table, rights in PUBSUB_TABLES.items()]
    return statements


def membership(logins: Iterable[tuple[str, str]], prefix: str) -> list[str]:
    """Return the statements that make logins members: pairs of a role's kind and a login.

    Raises:
        ConfigurationError: there is no such role, nobody may be its member, or the login's name is unusable.
    """
    statements = []
    for kind, login in logins:
        if kind == "owner":
            raise ConfigurationError("nobody is to be the owner all the time; --to migrator=… lets a login become it")
        name = role_name(kind, prefix)
        if not login or "\0" in login or len(login.encode()) > 63:
            raise ConfigurationError(f"a login has 1 to 63 bytes, not {login!r}")
        statements.append(f"grant {identifier(name)} to {identifier(login)}")
    return statements


def script(schema: str, prefix: str, *, logins: Sequence[tuple[str, str]] = ()) -> str:
    """Return the SQL that creates the roles, gives them the schema and grants their rights; it may be repeated.

    It runs in one transaction, of a superuser, or of who may create roles and owns the schema. What other roles were
    granted stays. What is not installed yet is not granted: a schema that is missing is created, and empty.

    Args:
        logins: pairs of a role's kind and a login that becomes its member.

    Raises:
        ConfigurationError: the schema, the prefix, a role or a login is unusable.
    """
    names = role_names(prefix)
    values = {
        "@schema@": _literal(schema),
        "@schema_identifier@": quoted(schema),
        "@roles@": ", ".join(map(_literal, names.values())),
        "@owner@": _literal(names["owner"]),
        "@owner_identifier@": identifier(names["owner"]),
        "@migrator_identifier@": identifier(names["migrator"]),
        "@schema_grants@": "".join(f"{one};\n" for one in grants(schema, prefix, ())),
        "@grants@": _installed_only(schema, prefix),
        "@logins@": "".join(f"{one};\n" for one in membership(logins, prefix)),
    }
    return re.sub("|".join(values), lambda found: values[found[0]], _SCRIPT)


def _installed_only(schema: str, prefix: str) -> str:
    """Return the rest of `grants` for what is there when it runs, which who prints SQL cannot know."""
    names, inside = role_names(prefix), quoted(schema)
    rows = [
        (f"{inside}.{function}", "execute on function", right.roles) for right in RIGHTS for function in right.functions
    ] + [(f"{inside}.{table}", f"{rights} on", NODES) for table, rights in PUBSUB_TABLES.items()]
    return ",\n".join(
        f"        ({_literal(what)}, {_literal(rights)}, {_literal(', '.join(identifier(names[one]) for one in to))})"
        for what, rights, to in rows
    )


async def apply(dsn: str, schema: str, prefix: str, *, logins: Sequence[tuple[str, str]] = ()) -> str:
    """Run `script` on a database; returns who owned the schema before.

    Raises:
        ConfigurationError: as `script`; or the role may not, or a login does not exist.
        DatabaseUnavailable: the database cannot be reached.
    """
    text = script(schema, prefix, logins=logins)  # before anything is connected to
    connection = await connect(dsn, cache=0, name="eventstore roles")
    try:
        with mapped_errors():
            owner = await connection.fetchval(
                "select r.rolname::text from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = $1",
                schema,
            )
            async with connection.transaction():
                await connection.execute(text)
            return str(owner or role_name("owner", prefix))
    finally:
        await connection.close()


def identifier(name: str) -> str:
    """Return *name* as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_SCRIPT = """\
-- One at a time, and not while somebody migrates.
select pg_advisory_xact_lock(hashtextextended('eventstore:' || @schema@, 0));

-- Groups that cannot log in. None that is there already may be able to do more.
do $roles$
declare
    v_name text;
begin
    foreach v_name in array array[@roles@] loop
        if not exists (select from pg_roles r where r.rolname = v_name) then
            -- noinherit: of these only the migrator is a member of another, which it has to become by SET ROLE.
            execute format('create role %I nologin noinherit', v_name);
        elsif exists (select from pg_roles r where r.rolname = v_name
                         and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication
                              or r.rolbypassrls)) then
            raise exception 'the role % is there already and may log in, or more: choose another prefix', v_name
                using errcode = 'ES006';
        end if;
    end loop;
end
$roles$;
grant @owner_identifier@ to @migrator_identifier@;

-- What is granted below is the owner's to grant. Whoever is no superuser becomes its member until the end.
do $lend$
declare
    v_how constant text := case when current_setting('server_version_num')::int < 160000 then 'MEMBER' else 'SET' end;
begin
    perform set_config('eventstore.lent', '', true);
    if not pg_has_role(current_user, @owner@, v_how) then
        execute format('grant %I to %I', @owner@, current_user);
        perform set_config('eventstore.lent', 'yes', true);
    end if;
end
$lend$;

-- The schema and all that is in it.
do $own$
declare
    v_schema oid := to_regnamespace(quote_ident(@schema@));
    v_owner constant oid := to_regrole(quote_ident(@owner@));
    v_one record;
begin
    if v_schema is null then
        execute format('create schema %I', @schema@);
        v_schema := to_regnamespace(quote_ident(@schema@));
    end if;
    if has_schema_privilege('public', v_schema, 'create') then
        raise exception 'PUBLIC may create objects in schema %, which would let any role shadow the functions', @schema@
            using errcode = 'ES006', hint = format('revoke create on schema %I from public', @schema@);
    end if;
    execute format('alter schema %I owner to %I', @schema@, @owner@);
    for v_one in
        select c.oid::regclass as name from pg_class c
         where c.relnamespace = v_schema and c.relowner <> v_owner and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
           -- The sequence of an identity column goes with its table.
           and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                              and c.relkind = 'S' and d.deptype in ('a', 'i') and d.refobjsubid > 0)
    loop
        execute format('alter table %s owner to %I', v_one.name, @owner@);
    end loop;
    for v_one in
        select p.oid::regprocedure as name from pg_proc p where p.pronamespace = v_schema and p.proowner <> v_owner
    loop
        execute format('alter routine %s owner to %I', v_one.name, @owner@);
    end loop;
end
$own$;

set local role @owner_identifier@;
@schema_grants@
-- What is installed: before the schema is migrated nothing is.
do $grant$
declare
    v_one record;
begin
    for v_one in select * from (values
@grants@
    ) as g (what, rights, roles) where coalesce(to_regproc(what)::oid, to_regclass(what)) is not null loop
        execute format('grant %s %s to %s', v_one.rights, v_one.what, v_one.roles);
    end loop;
end
$grant$;
reset role;
@logins@
do $return$
begin
    if current_setting('eventstore.lent') = 'yes' then
        execute format('revoke %I from %I', @owner@, current_user);
    end if;
end
$return$;
"""
