-- Takes the stripes of an append in one sorted pass, each in the strongest mode it needs (append_events_v1 says why).
--
-- 128 stripes and "any" (128) bound the locks of an append whatever its size; two names in one stripe only wait for
-- each other. A condition's item is held by what every matching event holds too: one of its tags, else its stream, else
-- its types, else "any". Waiting for a condition ends after 5 s, unless the session has a lock_timeout of its own.
create function @schema@.lock_stripes_v1(p_streams text[], p_types text[], p_tags text[], p_condition jsonb)
returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    c_stripes constant int := '@schema@.events'::regclass::oid::int;
    v_timed constant boolean := p_condition is not null and current_setting('lock_timeout') = '0';
    v_row record;
begin
    if p_condition is not null then
        perform check_condition_v1(p_condition);
    end if;
    if v_timed then
        perform set_config('lock_timeout', '5s', true);
    end if;
    for v_row in
        select w.stripe, bool_or(w.exclusive) as exclusive
          from (select 128, false
                union all select stripe_v1(3, s.name), false from unnest(p_streams) s(name) where s.name is not null
                union all select distinct stripe_v1(2, t.type), false from unnest(p_types) t(type)
                union all select distinct stripe_v1(1, t.tag), false
                            from unnest(p_tags) e(tags) cross join unnest(e.tags::text[]) t(tag)
                union all select stripe, true from condition_stripes_v1(p_condition) c(stripe)
               ) w(stripe, exclusive)
         group by w.stripe order by w.stripe
    loop
        if v_row.exclusive then
            perform pg_advisory_xact_lock(c_stripes, v_row.stripe);
        else
            perform pg_advisory_xact_lock_shared(c_stripes, v_row.stripe);
        end if;
    end loop;
    if v_timed then
        perform set_config('lock_timeout', '0', true);
    end if;
end
$$;
