-- A batch of one event (see append_batch_v1, whose steps and outcomes these are) for an appender that is alone: without
-- arrays and loops it costs half. It does wait for its stream, for 10 ms, as there are no neighbours to delay.
create function @schema@.append_one_v1(
    p_stream text, p_expected bigint, p_id uuid, p_type text, p_data json, p_metadata json, p_tags text,
    p_created_at timestamptz,
    out outcome text, out first_version bigint, out version bigint, out first_position bigint, out "position" bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
set lock_timeout = '10ms'
as $$
#variable_conflict use_column
declare
    c_stripes constant int := '@schema@.events'::regclass::oid::int;
    v_checked boolean := check_events_v1(array[p_stream], array[p_expected], array[1], array[p_id], array[p_type],
                                         array[p_data], array[p_metadata], array[p_tags], array[p_created_at]) is null;
    v_tags constant text[] := coalesce(p_tags, '{}');
    v_tag text;
    v_free boolean := pg_try_advisory_xact_lock_shared(c_stripes, 128)
                  and pg_try_advisory_xact_lock_shared(c_stripes, stripe_v1(2, p_type))
                  and (p_stream is null or pg_try_advisory_xact_lock_shared(c_stripes, stripe_v1(3, p_stream)));
    v_version bigint;
    v_bucket smallint;
    v_recorded timestamptz;
    v_hash bytea;
begin
    if p_tags is not null then
        foreach v_tag in array v_tags loop
            v_free := v_free and pg_try_advisory_xact_lock_shared(c_stripes, stripe_v1(1, v_tag));
        end loop;
    end if;
    outcome := case when v_free then 'appended' else 'busy' end;
    if v_free and p_stream is not null then
        update streams s set version = s.version + 1, state = 'live'
         where s.name = p_stream and expected_matches_v1(p_expected, s.version, s.state)
        returning s.version, s.bucket into v_version, v_bucket;
        if not found then
            select c.outcome, c.version, c.bucket into outcome, v_version, v_bucket
              from create_stream_v1(p_stream, p_expected, 1) c;
        end if;
    end if;
    if outcome <> 'appended' then
        return;
    end if;

    perform pg_advisory_xact_lock_shared(
        '@schema@.event_positions'::regclass::oid::int,
        (pg_sequence_last_value('@schema@.event_positions'::regclass) & 2147483647)::int);
    first_version := v_version;
    version := v_version;
    first_position := nextval('@schema@.event_positions');
    "position" := first_position;
    v_bucket := coalesce(v_bucket, bucket_v1(p_id::text));
    v_recorded := clock_timestamp();
    if pg_sequence_last_value('@schema@.event_chain'::regclass) & 1 = 1 then
        v_hash := chain_event_v1(p_stream, v_bucket, v_version, first_position, p_id, p_type, p_data, p_metadata, v_tags,
                                 p_created_at, v_recorded);
    end if;
    insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at, recorded_at,
                        hash)
    values (first_position, p_id, p_stream, v_version, v_bucket, p_type, p_data, p_metadata, v_tags, p_created_at,
            v_recorded, v_hash);
    if p_tags is not null then
        insert into event_tags (tag, position) select t.tag, "position" from unnest(v_tags) t(tag);
    end if;
end
$$;
