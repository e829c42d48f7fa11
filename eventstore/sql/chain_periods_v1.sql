-- Where the chain was on: after which position, and up to which (null: it still is). All events of a period have a
-- hash, no others. What set_chain_v1 has yet to write down is told as if it had.
create function @schema@.chain_periods_v1() returns table (after bigint, upto bigint)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_state text;
    v_since bigint;
begin
    select c.state, c.since into v_state, v_since from chain_state_v1() c;
    return query select p.after, case when p.upto is null and v_state <> 'on' then v_since else p.upto end
                   from chain_periods p order by p.number;
    if v_state = 'on' and not exists (select from chain_periods p where p.upto is null) then
        after := v_since;
        upto := null;
        return next;
    end if;
end
$$;
