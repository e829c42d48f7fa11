-- One event, by position or by id, also beyond the horizon, and the positions of its neighbours: in the log up to the
-- horizon, and within its stream. data is null if scavenging emptied it; no row if there is no such event.
create function @schema@.event_detail_v1(p_position bigint default null, p_id uuid default null)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    bucket smallint, created_at timestamptz, recorded_at timestamptz,
    previous bigint, following bigint, previous_in_stream bigint, following_in_stream bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_head constant bigint := (select h.horizon from horizon_v1() h);
    v_position constant bigint := coalesce(p_position, (select e.position from events e where e.id = p_id));
begin
    -- What scavenging emptied is left out of readings, and so it is no neighbour.
    return query
        select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket, e.created_at,
               e.recorded_at,
               (select n.position from events n where n.position < v_position and n.data is not null
                 order by n.position desc limit 1),
               (select n.position from events n where n.position > v_position and n.position <= v_head
                   and n.data is not null order by n.position limit 1),
               (select n.position from events n where n.stream = e.stream and n.version < e.version
                   and n.data is not null order by n.version desc limit 1),
               (select n.position from events n where n.stream = e.stream and n.version > e.version
                   and n.data is not null order by n.version limit 1)
          from events e where e.position = v_position;
end
$$;
