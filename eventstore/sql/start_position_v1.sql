-- The position after which a subscription starts: a number as it is, "current" = the horizon of now (so that what is
-- in flight now is delivered), a time = just before the first event recorded after it (see time_bounds_v1; as one
-- query, min(position) where recorded_at > …, the planner walks the log from its beginning).
create function @schema@.start_position_v1(p_after jsonb) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_horizon bigint;
    v_last bigint;
    v_time timestamptz;
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
        raise exception 'the time % lies in the future', v_time using errcode = 'ES006';
    end if;
    return (select b.after from time_bounds_v1(v_time + interval '1 microsecond', null, v_horizon) b);
end
$$;
