-- Events of one stream that its limits let readers see, in version order. Needs no horizon: the stream's row lock made
-- its versions appear in order. p_now: the moment max_age counts back from, now by default.
create function @schema@.read_stream_v1(
    p_stream text, p_after bigint default 0, p_before bigint default null, p_backwards boolean default false,
    p_limit int default 500, p_now timestamptz default null)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    bucket smallint, created_at timestamptz, recorded_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    -- Limits become a bound of the key, so that what they hide is not even looked at.
    v_after constant bigint := greatest(p_after, first_visible_v1(p_stream, p_now) - 1);
begin
    -- data is null in what scavenging left: a batch that no scavenged_to tells of yet, under limits widened since.
    if p_backwards then
        return query
            select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket,
                   e.created_at, e.recorded_at
              from events e
             where e.stream = p_stream and e.version > v_after
               and e.version < coalesce(p_before, 9223372036854775807) and e.data is not null
             order by e.version desc limit p_limit;
    else
        return query
            select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket,
                   e.created_at, e.recorded_at
              from events e
             where e.stream = p_stream and e.version > v_after
               and e.version < coalesce(p_before, 9223372036854775807) and e.data is not null
             order by e.version limit p_limit;
    end if;
end
$$;
