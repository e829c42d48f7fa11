"""Tenants in one schema, kept apart by row-level security: the SQL that turns it on, and how tenants are named.

``eventstore tenants`` prints, applies and checks it; migrations cover what they bring. A schema without tenants has
none of it, and pays nothing. Functions run with the rights of the schema's owner, whom forced row-level security holds
back as well. So none of them needs to know of tenants: each sees and writes the rows of `current_tenant_v1` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from eventstore.errors import ConfigurationError
from eventstore.rights import PUBSUB_TABLES
from eventstore.schema import quoted

__all__ = [
    "COVERED",
    "SETTING",
    "SHARED",
    "apply",
    "as_tenant",
    "asked",
    "check_tenant_name",
    "covering",
    "default",
    "script",
    "unheld",
]

SETTING = "eventstore.tenant"
"""The setting that names the tenant of a transaction."""

POLICY = "tenants"
"""The name of the one policy of each table."""

_KEYS = "alter table {s}.{t} drop constraint if exists {t}_pkey, add constraint {t}_pkey primary key "

COVERED: Mapping[str, tuple[str, ...]] = {
    "streams": (
        _KEYS + "(tenant, name)",
        "drop index if exists {s}.streams_limited_idx",
        "create index streams_limited_idx on {s}.streams (tenant, name) where state <> 'live'"
        " or truncate_before is not null or max_count is not null or max_age is not null",
    ),
    # None by the position alone, though the sequence is one for all: where few rows are the tenant's, a plan that walks
    # everybody's would be as good as any to a planner who does not know which tenant it will be.
    "events": (
        "alter table {s}.events drop constraint if exists events_position_key, drop constraint if exists events_id_key,"
        " drop constraint if exists events_stream_version_key",
        "alter table {s}.events add constraint events_position_key primary key (tenant, position),"
        " add constraint events_id_key unique (tenant, id),"
        " add constraint events_stream_version_key unique (tenant, stream, version)",
        "drop index if exists {s}.events_type_position_idx",
        "create index events_type_position_idx on {s}.events (tenant, type, position)",
    ),
    "event_tags": (
        "alter table {s}.event_tags drop constraint if exists event_tags_key,"
        " add constraint event_tags_key primary key (tenant, tag, position)",
    ),
    "subscriptions": (
        "alter table {s}.subscriptions drop constraint if exists subscriptions_name_key,"
        " add constraint subscriptions_name_key unique (tenant, name)",
    ),
    # What an id or incarnation leads to keeps its key: these are unique by themselves, and foreign keys need them.
    "nodes": ("create index nodes_tenant_idx on {s}.nodes (tenant)",),
    "checkpoints": (
        "create index checkpoints_tenant_idx on {s}.checkpoints (tenant, subscription_id)",
        "drop index if exists {s}.checkpoints_halted_idx",
        "create index checkpoints_halted_idx on {s}.checkpoints (tenant, subscription_id) where halted is not null",
    ),
    "node_subscriptions": ("create index node_subscriptions_tenant_idx on {s}.node_subscriptions (tenant)",),
    "control": (_KEYS + "(tenant, one)",),
    "parked": (
        "drop index if exists {s}.parked_waiting_idx, {s}.parked_latest_idx",
        "create index parked_waiting_idx on {s}.parked (tenant, subscription_id) where state = 'parked'",
        "create index parked_latest_idx on {s}.parked (tenant, last_failed_at)"
        " where state = 'parked' and error is not null",
    ),
    "pubsub_keys": (_KEYS + "(tenant, name)",),
    "pubsub_spill": (_KEYS + "(tenant, id)",),
    "request_logs": (
        "alter table {s}.request_logs drop constraint if exists request_logs_key,"
        " add constraint request_logs_key primary key (tenant, request_id, inserted_at)",
        "drop index if exists {s}.request_logs_time_idx",
        "create index request_logs_time_idx on {s}.request_logs (tenant, inserted_at)",
    ),
    "request_keys": (_KEYS + "(tenant, one)",),
    "operator_actions": (
        _KEYS + "(tenant, id)",
        "drop index if exists {s}.operator_actions_subject_idx",
        "create index operator_actions_subject_idx on {s}.operator_actions (tenant, subject, id)",
    ),
    "seals": (_KEYS + "(tenant, number)",),
}
"""The tables that hold rows of tenants, and what makes their keys lead with the tenant. A test fails for a table that
stands neither here nor in `SHARED`."""

SHARED = ("eventstore_version", "chain_periods", "tenant_logins")
"""Tables without anything of a tenant's."""

EMPTIED = ("control", "pubsub_keys", "pubsub_spill")
"""Of the tables that hold rows of tenants, those that the first who comes makes anew."""


def check_tenant_name(tenant: str) -> str:
    """Return *tenant* if it can be one's name; the twin of a rule of ``current_tenant_v1`` (`ConfigurationError`)."""
    if not isinstance(tenant, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}", tenant):
        raise ConfigurationError(
            f"tenant {tenant!r}: a name has 1 to 100 letters, digits, '.', ':', '_' and '-', the first no sign"
        )
    return tenant


def as_tenant(statement: str, parameter: int) -> str:
    """Return *statement*, a query without conditions and order, made to run as the tenant that a parameter names.

    In one round trip, and for its transaction alone, as a pooler and who lends a connection need it. That the tenant is
    set before the query begins is not left to the planner: of the two sides of a lateral join the second one cannot
    start before it has a row of the first, and OFFSET keeps either from becoming part of something else.
    """
    whose = f"select set_config('{SETTING}', ${parameter}, true) as tenant offset 0"
    return f"select f.* from ({whose}) t, lateral ({statement} where t.tenant is not null offset 0) f"


def asked(schema: str, *, quickly: bool) -> str:
    """Return the expression, as Postgres shows it but for quotes, by which the policies of tables ask for the tenant.

    Args:
        quickly: past `current_tenant_v1`, whose call costs more than most statements do by themselves, while no login
            was ever bound and nothing is to be refused. It takes a right on a sequence, and so is for tables that
            functions alone touch.
    """
    function = f"{quoted(schema)}.current_tenant_v1()"
    if not quickly:
        return function
    setting = f"current_setting('{SETTING}'::text, true)"
    return (
        f"CASE WHEN ((pg_sequence_last_value('{quoted(schema)}.tenant_bindings'::regclass) = 0)"
        f" AND ({setting} ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{{0,99}}$'::text)) THEN {setting} ELSE {function} END"
    )


def default(schema: str) -> str:
    """Return the expression, as Postgres shows it but for quotes, that a new row's tenant comes from."""
    setting = f"current_setting('{SETTING}'::text, true)"
    return f"COALESCE(NULLIF({setting}, ''::text), {quoted(schema)}.current_tenant_v1())"


def unheld(schema: str) -> str:
    """Return a query: a role that a role *r* is or may become and no policy holds back, and by which membership.

    The owner can take policies away. Predefined roles reach past them: to the partitions of tables, to the bindings, or
    to the server itself. Until PostgreSQL 15 who may create roles can become the owner.
    """
    return f"""
        select s.rolname::text as name,
               (select v.rolname::text from pg_auth_members m join pg_roles v on v.oid = m.roleid
                 where m.member = r.oid and pg_has_role(v.oid, s.oid, 'member') order by 1 limit 1) as via
          from pg_roles s
         where (s.rolsuper or s.rolbypassrls
                or s.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program',
                                 'pg_read_server_files', 'pg_write_server_files')
                or s.rolcreaterole and current_setting('server_version_num')::int < 160000
                or s.oid = (select c.relowner from pg_class c where c.oid = '{quoted(schema)}.tenant_logins'::regclass))
           and pg_has_role(r.oid, s.oid, 'member')
         order by s.oid <> r.oid, s.rolname limit 1"""


def covering(schema: str, *, existing: str | None = None, always: bool = False) -> str:
    """Return the SQL, one statement, that covers the tables which are not; as who owns them.

    Args:
        existing: whose the rows are that tables hold which had no tenants.
        always: also in a schema without tenants, which has them afterwards.

    Raises:
        ConfigurationError: a name is unusable.
    """
    inside = quoted(schema)
    rows = ",\n".join(
        f"        ({_literal(table)}, array[{', '.join(_literal(one.format(s=inside, t=table)) for one in changes)}])"
        for table, changes in COVERED.items()
    )
    whose = "null" if existing is None else _literal(check_tenant_name(existing))
    touched = ", ".join(map(_literal, PUBSUB_TABLES))
    values = {"@changes@": rows, "@existing@": whose, "@always@": str(always).lower(), "@touched@": touched}
    for quick, name in ((False, "@asked@"), (True, "@asked_quickly@")):
        values[name] = _literal(asked(schema, quickly=quick))
    return _filled(_COVER, schema, values)


def script(
    schema: str,
    *,
    existing: str | None = None,
    bound: Sequence[tuple[str, str]] = (),
    unbound: Sequence[str] = (),
) -> str:
    """Return the SQL that turns tenants on in *schema*, or makes right what differs; it may be repeated.

    It runs in one transaction, of whoever may become the schema's owner. While it runs nobody reads or writes.

    Args:
        existing: whose the rows are that are there; it takes an empty schema without.
        bound: pairs of a login and the one tenant it may be.
        unbound: logins that may be any tenant again.

    Raises:
        ConfigurationError: a name is unusable.
    """
    whose = "null" if existing is None else _literal(check_tenant_name(existing))
    ours = ", ".join(_literal(name) for name in COVERED)
    emptied = ", ".join(_literal(name) for name in EMPTIED)
    before = _filled(_BEFORE, schema, {"@existing@": whose, "@tables@": ours, "@emptied@": emptied})
    logins = "".join(_bind(schema, login, tenant) for login, tenant in bound)
    logins += "".join(_filled(_UNBIND, schema, {"@login@": _login(login)}) for login in unbound)
    return f"{before}{covering(schema, existing=existing, always=True)}{logins}reset role;\n"


def _bind(schema: str, login: str, tenant: str) -> str:
    values = {"@login@": _login(login), "@tenant@": _literal(check_tenant_name(tenant)), "@unheld@": unheld(schema)}
    return _filled(_BIND, schema, values)


def _login(name: str) -> str:
    if not name or "\0" in name or len(name.encode()) > 63:
        raise ConfigurationError(f"a login has 1 to 63 bytes, not {name!r}")
    return _literal(name)


async def apply(
    dsn: str,
    schema: str,
    *,
    existing: str | None = None,
    bound: Sequence[tuple[str, str]] = (),
    unbound: Sequence[str] = (),
) -> None:
    """Run `script` on a database.

    Raises:
        ConfigurationError: as `script`; the schema is missing, too old, or its owner is not held by row-level security;
            it holds rows and *existing* is not given, or the other way round; the role may not; a login does not exist,
            or no policy would hold it back.
        DatabaseUnavailable: the database cannot be reached.
    """
    from eventstore.database import connect, mapped_errors

    text = script(schema, existing=existing, bound=bound, unbound=unbound)  # before anything is connected to
    connection = await connect(dsn, name="eventstore tenants")
    try:
        with mapped_errors():
            async with connection.transaction():
                await connection.execute(text)
    finally:
        await connection.close()


def _filled(text: str, schema: str, values: Mapping[str, str]) -> str:
    known = {"@schema@": quoted(schema), "@schema_literal@": _literal(schema), "@policy@": POLICY, **values}
    return re.sub("|".join(known), lambda found: known[found[0]], text)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_BEFORE = """\
-- One at a time, and not while somebody migrates.
select pg_advisory_xact_lock(hashtextextended('eventstore:' || @schema_literal@, 0));

-- Who owns the tables must be held by their policies; and rows that are there must be somebody's.
do $before$
declare
    v_schema constant oid := to_regnamespace(quote_ident(@schema_literal@));
    v_existing constant text := @existing@;
    v_owner record;
    v_table text;
    v_rows boolean;
    v_had boolean := false;
begin
    if not exists (select from pg_proc p where p.pronamespace = v_schema and p.proname = 'current_tenant_v1') then
        raise exception 'the schema % is missing or too old', quote_literal(@schema_literal@)
            using errcode = 'ES006', hint = 'Run eventstore migrate first.';
    end if;
    select r.rolname, r.rolsuper or r.rolbypassrls or r.rolcanlogin as strong into v_owner
      from pg_class c join pg_roles r on r.oid = c.relowner where c.relnamespace = v_schema and c.relname = 'events';
    if v_owner.strong then
        raise exception 'the schema % belongs to %, whom row-level security does not hold back, or who may log in',
                        quote_literal(@schema_literal@), quote_ident(v_owner.rolname)
            using errcode = 'ES006', hint = 'Run eventstore roles --apply first.';
    end if;
    execute format('set local role %I', v_owner.rolname);
    foreach v_table in array array[@tables@] loop
        continue when to_regclass(format('%I.%I', @schema_literal@, v_table)) is null;
        if exists (select from pg_attribute a where a.attrelid = to_regclass(format('%I.%I', @schema_literal@, v_table))
                      and a.attname = 'tenant' and not a.attisdropped) then
            v_had := true;
        elsif v_existing is null then
            if v_table in (@emptied@) then
                execute format('delete from %I.%I', @schema_literal@, v_table);
            end if;
            execute format('select exists (select from %I.%I)', @schema_literal@, v_table) into v_rows;
            if v_rows then
                raise exception 'the table % holds rows of no tenant', v_table
                    using errcode = 'ES006', hint = 'Say whose they are: --existing NAME.';
            end if;
        end if;
    end loop;
    if v_had and v_existing is not null then
        raise exception 'the schema % has tenants already, and whose its rows are stands in them',
                        quote_literal(@schema_literal@) using errcode = 'ES006', hint = 'Leave out --existing.';
    end if;
end
$before$;
"""

_COVER = """\
-- Every table gets a column that says whose a row is, keys that begin with it, and one policy.
do $cover$
declare
    v_one record;
    v_table text;
    v_change text;
begin
    if not (@always@ or coalesce((select c.relrowsecurity from pg_class c
                                   where c.oid = to_regclass('@schema@.events')), false)) then
        return;
    end if;
    for v_one in select t.* from (values
@changes@
    ) t(name, changes) loop
        v_table := format('%I.%I', @schema_literal@, v_one.name);
        continue when to_regclass(v_table) is null;
        if not exists (select from pg_attribute a where a.attrelid = to_regclass(v_table) and a.attname = 'tenant'
                          and not a.attisdropped) then
            execute format('alter table %s add column tenant text collate "C" not null%s', v_table,
                           ' default ' || quote_literal(@existing@::text));
            foreach v_change in array v_one.changes loop
                execute v_change;
            end loop;
        end if;
        -- Cheap, for it is asked for each row; whether it may be that tenant is for the policy to say.
        execute format('alter table %s alter column tenant set default coalesce('
                       'nullif(current_setting(''eventstore.tenant'', true), ''''), @schema@.current_tenant_v1()), '
                       'enable row level security, force row level security', v_table);
        for v_change in select format('drop policy %I on %s', p.polname, v_table)
                          from pg_policy p where p.polrelid = to_regclass(v_table) loop
            execute v_change;
        end loop;
        -- As a sub-query it is evaluated once a statement, and serves indexes.
        execute format('create policy @policy@ on %1$s using (tenant = (select %2$s)) '
                       'with check (tenant = (select %2$s))',
                       v_table, case when v_one.name in (@touched@) then @asked@ else @asked_quickly@ end);
    end loop;
end
$cover$;
"""

_BIND = """\
do $bind$
declare
    v_login constant oid := (select r.oid from pg_roles r where r.rolname = @login@ and r.rolcanlogin);
    v_unheld record;
begin
    if v_login is null then
        raise exception 'there is no login %', @login@ using errcode = 'ES006';
    end if;
    select u.* into v_unheld from (select v_login as oid) r cross join lateral (@unheld@) u;
    if v_unheld.name = @login@ then
        raise exception 'the login % cannot be bound: no policy holds it back', @login@
            using errcode = 'ES006', hint = format('alter role %I nosuperuser nobypassrls nocreaterole', @login@::text);
    elsif v_unheld.name is not null then
        raise exception 'the login % cannot be bound: it may become %, whom no policy holds back', @login@,
                        v_unheld.name
            using errcode = 'ES006', hint = format('revoke %I from %I', v_unheld.via, @login@::text);
    end if;
    perform setval('@schema@.tenant_bindings', 1, true);
    insert into @schema@.tenant_logins as l (login, tenant) values (@login@, @tenant@)
        on conflict (login) do update set tenant = excluded.tenant, bound_at = clock_timestamp();
end
$bind$;
"""

_UNBIND = "delete from @schema@.tenant_logins where login = @login@;\n"
