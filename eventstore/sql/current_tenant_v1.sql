-- Whose rows this transaction sees and writes, in a schema with tenants (see eventstore/tenants.py): the tenant that
-- eventstore.tenant names, which whoever may connect can set; of a login that is bound its own, whatever is set. ES015
-- if there is none, or another one is asked for: nobody ever sees the rows of all.
--
-- The policies of all tables ask for it once a statement. session_user is who logged in, which SET ROLE does not change.
create function @schema@.current_tenant_v1() returns text
language plpgsql stable parallel safe security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_asked constant text := nullif(current_setting('eventstore.tenant', true), '');
    v_bound constant text := (select l.tenant from tenant_logins l where l.login = session_user);
begin
    if v_asked <> v_bound then
        raise exception 'the login % is bound to another tenant than %', session_user, quote_literal(v_asked)
            using errcode = 'ES015', hint = 'Leave the tenant out, or log in as one who is not bound.';
    elsif v_bound is not null then
        return v_bound;
    elsif v_asked is null then
        raise exception 'the schema % has tenants, and none is named', quote_literal(@schema_literal@)
            using errcode = 'ES015', hint = 'EventStore(…, tenant="…"), --tenant, or set local eventstore.tenant.';
    elsif v_asked !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$' then
        raise exception 'a tenant''s name has 1 to 100 letters, digits, ".", ":", "_" and "-", the first no sign'
            using errcode = 'ES015';
    end if;
    return v_asked;
end
$$;
