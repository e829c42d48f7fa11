-- The overview in one row: where the log ends, how many events came since the last look, what is the matter with the
-- subscriptions, and which are the furthest behind.
--
--   p_since     position up to which the last look has counted; null: this is the first
--   p_most      events that are counted at most; one more than that tells that there are more
--   p_late      seconds after which an event that was not settled makes its subscription 'behind'
--   events      after p_since; null without it, and where the log ends before it, as after a restore
--   counted_to  what to hand over as p_since the next time
--   states      status -> how many subscriptions
--   waiting     those that are behind, the worst first, five at most: name, status, behind, seconds
create function @schema@.overview_v1(
    p_since bigint default null, p_most int default 50000, p_late double precision default 60,
    out at timestamptz, out horizon bigint, out last_position bigint, out events bigint, out counted_to bigint,
    out states json, out waiting json, out parked bigint, out parked_subscriptions bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_late bigint;
    v_head bigint;
begin
    select h.horizon, h.last_position into horizon, last_position from horizon_v1() h;
    at := clock_timestamp();
    counted_to := horizon;
    -- Statements of their own from here on: their snapshots see every append up to the horizon.
    if p_since <= last_position then
        -- The horizon may fall back for a moment; what was counted is not counted again.
        counted_to := greatest(p_since, horizon);
        select count(*) into events
          from (select from events e where e.position > p_since and e.position <= counted_to limit p_most + 1) n;
    end if;
    v_head := horizon;
    v_late := place_in_time_v1(at - p_late * interval '1 second', v_head);
    with found as materialized (
        select f.* from subscription_states_v1(v_late, at) f
    ), worst as materialized (
        select f.name, f.status, f.checkpoint from found f
         where f.status <> 'paused' and f.checkpoint < v_head order by f.checkpoint, f.name limit 5
    )
    select (select coalesce(json_object_agg(n.status, n.count), '{}')
              from (select f.status, count(*) as count from found f group by f.status) n),
           (select coalesce(json_agg(json_build_object(
                       'name', w.name, 'status', w.status, 'behind', v_head - w.checkpoint,
                       'seconds', waited_v1(w.checkpoint, v_head, at)) order by w.checkpoint, w.name), '[]')
              from worst w),
           sum(f.parked)::bigint, count(*) filter (where f.parked > 0)
      into states, waiting, parked, parked_subscriptions
      from found f;
    parked := coalesce(parked, 0);
end
$$;
