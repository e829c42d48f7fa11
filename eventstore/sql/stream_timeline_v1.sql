-- The newest events of a stream that its limits let readers see, newest first, without what they carry.
create function @schema@.stream_timeline_v1(p_stream text, p_limit int default 500)
returns table (version bigint, "position" bigint, type text, recorded_at timestamptz, created_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_first constant bigint := first_visible_v1(p_stream);
begin
    return query
        select e.version, e.position, e.type, e.recorded_at, e.created_at
          from events e where e.stream = p_stream and e.version >= v_first and e.data is not null
         order by e.version desc limit p_limit;
end
$$;
