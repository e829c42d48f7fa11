-- The position after which a subscription starts: a number as it is, "current" = the horizon of now (so that what is
-- in flight now is delivered), a time = just before the first event recorded after it.
--
-- For a time: positions and times rise together but for what was in flight at the same moment. So the place where the
-- log passes the time is first found by halving, which is a guess; then the index on times and positions is asked
-- whether something recorded after the time lies before that place, which is exact and reads only block ranges that
-- hold both. As one query, min(position) where recorded_at > …, the planner walks the log from its beginning.
create function @schema@.start_position_v1(p_after jsonb) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_horizon bigint;
    v_last bigint;
    v_time timestamptz;
    v_low bigint := 0;
    v_high bigint;
    v_middle bigint;
    v_found record;
    v_earliest bigint;
begin
    select h.horizon, h.last_position into v_horizon, v_last from horizon_v1() h;
    if jsonb_typeof(p_after) = 'number' then
        if (p_after #>> '{}')::numeric not between 0 and v_last then
            raise exception 'the log ends at position %, a subscription cannot start after %', v_last, p_after
                using errcode = 'ES006';
        end if;
        return (p_after #>> '{}')::bigint;
    elsif p_after = '"current"' then
        return v_horizon;
    end if;
    v_time := (p_after #>> '{}')::timestamptz;
    if v_time > clock_timestamp() then
        raise exception 'a subscription cannot start in the future (%)', v_time using errcode = 'ES006';
    end if;
    v_high := v_horizon;
    while v_low < v_high loop
        v_middle := v_low + (v_high - v_low) / 2;
        select e.position, e.recorded_at into v_found
          from events e where e.position > v_middle and e.position <= v_high order by e.position limit 1;
        if v_found.recorded_at <= v_time then
            v_low := v_found.position;
        else
            v_high := v_middle;
        end if;
    end loop;
    -- Not min(e.position) itself: that would be taken for the first row of a walk by position. Executed, so that the
    -- plan knows the values.
    execute 'select min(e.position + 0) from events e where e.recorded_at > $1 and e.position <= $2'
        into v_earliest using v_time, v_high;
    if v_earliest is null then
        select e.position into v_earliest
          from events e where e.position > v_high and e.position <= v_horizon and e.recorded_at > v_time
         order by e.position limit 1;
    end if;
    return coalesce(v_earliest - 1, v_horizon);
end
$$;
