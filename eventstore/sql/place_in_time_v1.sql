-- A position up to p_upto behind which, as far as halving can tell, everything was recorded at p_time or later. Where
-- recorded_at rises with the position it is exact; appends that were in flight together may have it the other way
-- round, so that callers have to look for exceptions (see time_bounds_v1). The first event behind it, if there is one,
-- was recorded at p_time or later for certain.
create function @schema@.place_in_time_v1(p_time timestamptz, p_upto bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
set enable_indexscan = on
as $$
declare
    v_low bigint := 0;
    v_high bigint := p_upto;
    v_middle bigint;
    v_found record;
begin
    while v_low < v_high loop
        v_middle := v_low + (v_high - v_low) / 2;
        select e.position, e.recorded_at into v_found
          from events e where e.position > v_middle and e.position <= v_high order by e.position limit 1;
        if v_found.recorded_at < p_time then
            v_low := v_found.position;
        else
            v_high := v_middle;
        end if;
    end loop;
    return v_high;
end
$$;
