-- One page of the log, in position order, up to the horizon. It looks at no more than p_window positions, whatever the
-- plan; what scavenging left of an event is left out. Its statement is that of read_events_sql_v1.
--
--   p_after, p_before   exclusive bounds, whatever the direction
--   p_since, p_until    recorded_at >= p_since, recorded_at < p_until
--   p_limit             rows at most
--   p_window            how many positions one call may look at, from the first event there is (null: as many as it
--                       takes; for walks that take every event)
--   p_upto              read up to this position instead of the horizon of now: a horizon that an earlier call returned
--   p_modulus, p_remainder   only events whose bucket modulo p_modulus is p_remainder
--
-- The rows, then one closing row with id null: horizon, last_position (last one drawn), and window_end, the position
-- up to which (down to which, backwards) this call looked if it returned fewer rows than p_limit.
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
    -- Positions that nothing was ever stored at, however many, cost no call of their own: at or below the horizon they
    -- stay empty, so that the window may begin behind them.
    if p_window is null then
        null;
    elsif p_backwards then
        v_high := coalesce((select e.position from events e where e.position > v_low and e.position <= v_high
                             order by e.position desc limit 1), v_low);
        v_low := greatest(v_low, v_high - p_window);
    else
        v_low := coalesce((select e.position - 1 from events e where e.position > v_low and e.position <= v_high
                            order by e.position limit 1), greatest(v_low, v_high));
        v_high := case when v_high - p_window > v_low then v_low + p_window else v_high end;
    end if;
    -- A statement of its own, after the horizon was read: its snapshot sees every append at or below it.
    -- What a feed reads, all events from a position on, has one plan, which is kept; composing and planning the
    -- statement took a third of the call.
    if p_selector is null and p_since is null and p_until is null and not p_backwards and p_modulus is null then
        return query
            select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket, e.created_at,
                   e.recorded_at, null::bigint, null::bigint, null::bigint
              from events e
             where e.position > v_low and e.position <= v_high and e.data is not null
             order by e.position limit p_limit;
    else
        return query execute read_events_sql_v1(p_selector, p_since, p_until, p_backwards, p_modulus)
            using p_selector, v_low, v_high, p_since, p_until, p_modulus, p_remainder, p_limit;
    end if;
    return query
        select null::uuid, null::text, null::json, null::json, null::text[], null::text, null::bigint, null::bigint,
               null::smallint, null::timestamptz, null::timestamptz,
               v_horizon, v_last, case when p_backwards then v_low else greatest(v_low, v_high) end;
end
$$;
