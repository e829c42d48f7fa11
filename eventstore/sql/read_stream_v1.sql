-- Events of one stream in version order. Needs no horizon: the stream's row lock made its versions appear in order.
create function @schema@.read_stream_v1(
    p_stream text, p_after bigint default 0, p_before bigint default null, p_backwards boolean default false,
    p_limit int default 500)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    bucket smallint, created_at timestamptz, recorded_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
begin
    if p_backwards then
        return query
            select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket,
                   e.created_at, e.recorded_at
              from events e
             where e.stream = p_stream and e.version > p_after
               and e.version < coalesce(p_before, 9223372036854775807)
             order by e.version desc limit p_limit;
    else
        return query
            select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket,
                   e.created_at, e.recorded_at
              from events e
             where e.stream = p_stream and e.version > p_after
               and e.version < coalesce(p_before, 9223372036854775807)
             order by e.version limit p_limit;
    end if;
end
$$;
