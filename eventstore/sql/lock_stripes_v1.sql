-- Takes the stripes of an append (p_tags: flat) in one sorted pass, each in the strongest mode it needs (append_events_v1 says why).
--
-- 128 stripes and "any" (128) bound the locks of an append whatever its size; two names in one stripe only wait for
-- each other. A condition's item is held by what every matching event holds too: one of its tags, else its stream, else
-- its types, else "any".
create function @schema@.lock_stripes_v1(p_streams text[], p_types text[], p_tags text[], p_condition jsonb)
returns void
language plpgsql volatile
as $$
declare
    c_stripes constant int := '@schema@.events'::regclass::oid::int;
    v_exclusive int[];
    v_stripes int[] := stripes_v1(p_streams, p_types, p_tags);
    v_stripe int;
    v_got boolean;
begin
    if p_condition is not null then
        perform check_condition_v1(p_condition);
        v_exclusive := condition_stripes_v1(p_condition);
        v_stripes := v_stripes || v_exclusive;
    end if;
    for v_stripe in select distinct s.stripe from unnest(v_stripes) s(stripe) order by s.stripe loop
        -- Expressions rather than statements: a fifth of the cost.
        if v_stripe = any (v_exclusive) then
            v_got := pg_advisory_xact_lock(c_stripes, v_stripe) is null;
        else
            v_got := pg_advisory_xact_lock_shared(c_stripes, v_stripe) is null;
        end if;
    end loop;
end
$$;
