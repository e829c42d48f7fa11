-- Every column of an event in bytes, the content as its digest (event_content_v1): what its hash is made of. No two
-- events are written alike: lengths are fixed, or end with a zero byte. See eventstore/evidence/hashing.py, its twin.
create function @schema@.event_record_v1(
    p_position bigint, p_id uuid, p_stream text, p_version bigint, p_bucket smallint, p_type text,
    p_created_at timestamptz, p_recorded_at timestamptz, p_content bytea)
returns bytea
language sql stable
as $$
    select int8send(p_position) || uuid_send(p_id) || int2send(p_bucket) || timestamptz_send(p_created_at)
           || timestamptz_send(p_recorded_at) || p_content
           || case when p_stream is null then '\x00' else '\x01' || int8send(p_version) || convert_to(p_stream, 'UTF8') end
           || '\x00' || convert_to(p_type, 'UTF8')
$$;
