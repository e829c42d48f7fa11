-- One page of the log, in position order, up to the horizon; never unbounded work.
--
--   p_after, p_before   exclusive bounds, whatever the direction
--   p_since, p_until    recorded_at >= p_since, recorded_at < p_until
--   p_limit             rows at most
--   p_window            how many positions one call may look at (null: as many as it takes)
--   p_upto              read up to this position instead of the horizon of now: a horizon that an earlier call returned
--   p_modulus, p_remainder   only events whose bucket modulo p_modulus is p_remainder
--
-- The rows, then one closing row with id null: horizon, last_position (last one drawn), and window_end, the position
-- up to which (down to which, backwards) this call looked if it returned fewer rows than p_limit.
-- The selector is compiled to fixed text that takes every value from the parameter (see selector_sql_v1).
create function @schema@.read_events_v1(
    p_selector jsonb default null, p_after bigint default 0, p_before bigint default null,
    p_since timestamptz default null, p_until timestamptz default null, p_backwards boolean default false,
    p_limit int default 500, p_window bigint default 10000, p_upto bigint default null,
    p_modulus int default null, p_remainder int default null)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    bucket smallint, created_at timestamptz, recorded_at timestamptz,
    horizon bigint, last_position bigint, window_end bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_horizon bigint := p_upto;
    v_last bigint;
    v_low bigint := coalesce(p_after, 0);
    v_high bigint;
begin
    if p_limit < 1 or p_window < 1 then
        raise exception 'limit and window must be at least 1' using errcode = 'ES006';
    end if;
    if v_horizon is null then
        select h.horizon, h.last_position into v_horizon, v_last from horizon_v1() h;
    end if;
    v_high := least(v_horizon, p_before - 1);
    if p_backwards then
        v_low := greatest(v_low, v_high - p_window);
    elsif v_high - p_window > v_low then
        v_high := v_low + p_window;
    end if;
    -- A statement of its own, after the horizon was read: its snapshot sees every append at or below it.
    return query execute
        'select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket, e.created_at,
                e.recorded_at, null::bigint, null::bigint, null::bigint
           from events e
          where e.position > $2 and e.position <= $3'
        || case when p_since is null then '' else ' and e.recorded_at >= $4' end
        || case when p_until is null then '' else ' and e.recorded_at < $5' end
        || case when p_modulus is null then '' else ' and e.bucket % $6 = $7' end
        || case when p_selector is null then '' else ' and (' || selector_sql_v1(p_selector) || ')' end
        || ' order by e.position' || case when p_backwards then ' desc' else '' end || ' limit $8'
        using p_selector, v_low, v_high, p_since, p_until, p_modulus, p_remainder, p_limit;
    return query
        select null::uuid, null::text, null::json, null::json, null::text[], null::text, null::bigint, null::bigint,
               null::smallint, null::timestamptz, null::timestamptz,
               v_horizon, v_last, case when p_backwards then v_low else greatest(v_low, v_high) end;
end
$$;
