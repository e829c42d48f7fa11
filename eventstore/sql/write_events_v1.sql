-- The last step of every append: draws the positions and inserts the rows; returns the positions, one an event.
-- Called with the stream rows locked and everything checked; p_tag_events and p_flat_tags as flat_tags_v1 returns them.
--
-- The horizon lock (see horizon_v1) is taken after last_value is read and before any position is drawn. Positions are
-- drawn in a statement of their own, in event order; a larger one would draw them in join order and could invert
-- versions.
--
-- Whether the chain is on (chain_state_v1) is asked by an expression, which costs less than a statement would.
create function @schema@.write_events_v1(
    p_streams text[], p_buckets smallint[], p_stream_no int[], p_versions bigint[],
    p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[], p_created_at timestamptz[],
    p_tag_events int[], p_flat_tags text[])
returns bigint[]
language plpgsql volatile
as $$
declare
    v_positions bigint[];
    v_recorded timestamptz;
    v_hashes bytea[];
begin
    perform pg_advisory_xact_lock_shared(
        '@schema@.event_positions'::regclass::oid::int,
        (pg_sequence_last_value('@schema@.event_positions'::regclass) & 2147483647)::int);

    if cardinality(p_ids) = 1 then
        v_positions := array[nextval('@schema@.event_positions')];
    else
        select array_agg(nextval('@schema@.event_positions')) into v_positions
          from generate_series(1, cardinality(p_ids));
    end if;
    v_recorded := clock_timestamp();
    if pg_sequence_last_value('@schema@.event_chain'::regclass) & 1 = 1 then
        v_hashes := chain_events_v1(p_streams, p_buckets, p_stream_no, p_versions, v_positions, p_ids, p_types, p_data,
                                    p_metadata, p_tags, p_created_at, v_recorded);
    end if;

    if cardinality(p_ids) = 1 then
        insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at, recorded_at,
                            hash)
        values (v_positions[1], p_ids[1], p_streams[p_stream_no[1]], p_versions[1],
                coalesce(p_buckets[p_stream_no[1]], bucket_v1(p_ids[1]::text)), p_types[1], p_data[1], p_metadata[1],
                coalesce(p_tags[1], '{}')::text[], p_created_at[1], v_recorded, v_hashes[1]);
    else
        insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at, recorded_at,
                            hash)
        select n.position, n.id, p_streams[n.stream_no], n.version,
               coalesce(p_buckets[n.stream_no], bucket_v1(n.id::text)), n.type, n.data, n.metadata,
               coalesce(n.tags, '{}')::text[], n.created_at, v_recorded, n.hash
          from unnest(v_positions, p_stream_no, p_versions, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at,
                      v_hashes)
               n(position, stream_no, version, id, type, data, metadata, tags, created_at, hash)
         order by n.id;  -- so that two appends of the same ids never wait for each other in a circle
    end if;

    if p_flat_tags is not null then
        insert into event_tags (tag, position)
        select t.tag, v_positions[t.event] from unnest(p_tag_events, p_flat_tags) t(event, tag);
    end if;
    return v_positions;
end
$$;
