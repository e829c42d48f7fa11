-- The age in seconds of the first event after a position, up to the horizon p_head; 0 if there is none.
create function @schema@.waited_v1(p_position bigint, p_head bigint, p_now timestamptz) returns double precision
language sql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select coalesce((
        select greatest(0, extract(epoch from p_now - e.recorded_at))::double precision
          from events e where e.position > p_position and e.position <= p_head order by e.position limit 1), 0)
$$;
