-- The hashes of many events that are just being appended (chain_event_v1 says what they are made of).
create function @schema@.chain_events_v1(
    p_streams text[], p_buckets smallint[], p_stream_no int[], p_versions bigint[], p_positions bigint[],
    p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[], p_created_at timestamptz[],
    p_recorded_at timestamptz)
returns bytea[]
language plpgsql volatile
as $$
declare
    c_none constant bytea := '\x0000000000000000000000000000000000000000000000000000000000000000';
    v_hashes bytea[] := '{}';
    v_links bytea[] := array_fill(null::bytea, array[cardinality(p_streams)]);
    v_link bytea;
    v_event record;
begin
    for v_event in
        select n.stream_no, n.version, n.salt, p_streams[n.stream_no] as stream,
               event_record_v1(n.position, n.id, p_streams[n.stream_no], n.version,
                               coalesce(p_buckets[n.stream_no], bucket_v1(n.id::text)), n.type, n.created_at,
                               p_recorded_at, event_content_v1(n.salt, n.data, n.metadata, n.tags)) as record
          from (select u.*, uuid_send(gen_random_uuid()) as salt,
                       case when u.literal is null then '{}' else u.literal::text[]::text end as tags
                  from unnest(p_positions, p_stream_no, p_versions, p_ids, p_types, p_data, p_metadata, p_tags,
                              p_created_at)
                       u(position, stream_no, version, id, type, data, metadata, literal, created_at)
                offset 0) n
    loop
        v_link := v_links[v_event.stream_no];
        if v_event.stream is null then
            v_link := c_none;
        elsif v_link is null then
            v_link := chain_before_v1(v_event.stream, v_event.version);
        end if;
        v_link := sha256(v_link || v_event.record);
        v_links[v_event.stream_no] := v_link;
        v_hashes := v_hashes || (v_event.salt || v_link);
    end loop;
    return v_hashes;
end
$$;
