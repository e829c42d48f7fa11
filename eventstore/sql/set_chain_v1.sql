-- Turns the chain on or off, one step a call; call it, each time in a transaction of its own, until it is true.
--
-- The switch is a sequence (see chain_state_v1), which no rollback sets back; so the period is written down by the call
-- after the one that turned the switch, and whatever happens in between, nothing is lost: the switch tells it too.
--
-- It is one switch for all tenants, so who is bound to one may not turn it.
--
-- All appends hold the stripe "any" (128) from before they look at the switch until they end, so whoever holds it alone
-- stands exactly between two appends. Scavenging, which keeps digests once the chain was on, holds 129 in that way.
create function @schema@.set_chain_v1(p_on boolean) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set lock_timeout = '5s'
as $$
declare
    c_stripes constant int := '@schema@.events'::regclass::oid::int;
    v_state text;
    v_since bigint;
    v_noted boolean := false;
begin
    if exists (select from tenant_logins l where l.login = session_user) then
        raise exception 'the chain is on or off for all tenants, and the login % is bound to one', session_user
            using errcode = 'ES006', hint = 'Log in as one who is not bound.';
    end if;
    perform pg_advisory_xact_lock(c_stripes, 128);
    perform pg_advisory_xact_lock(c_stripes, 129);
    select c.state, c.since into v_state, v_since from chain_state_v1() c;
    if v_state = 'on' and not exists (select from chain_periods p where p.upto is null) then
        insert into chain_periods (after) values (v_since);
        v_noted := true;
    elsif v_state = 'off' then
        update chain_periods set upto = v_since where upto is null;
        v_noted := found;
    end if;
    if p_on = (v_state = 'on') then
        return true;
    elsif not v_noted then
        perform setval('@schema@.event_chain', case when p_on then 1 else 2 end
                       + 2 * pg_sequence_last_value('@schema@.event_positions'::regclass), true);
    end if;
    return false;
end
$$;
