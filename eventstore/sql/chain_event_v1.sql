-- The hash of one event that is just being appended, while the chain is on: 16 random bytes of salt and the link, which
-- is the sha256 of the link before it in its stream (chain_before_v1) and of its record (event_record_v1).
--
-- Called by append_one_v1 and write_events_v1 with the stream row locked: so the event before is there and stays.
create function @schema@.chain_event_v1(
    p_stream text, p_bucket smallint, p_version bigint, p_position bigint, p_id uuid, p_type text, p_data json,
    p_metadata json, p_tags text[], p_created_at timestamptz, p_recorded_at timestamptz)
returns bytea
language plpgsql volatile
as $$
declare
    v_salt constant bytea := uuid_send(gen_random_uuid());
begin
    -- Expressions rather than statements, into which the functions are inlined.
    return v_salt || sha256(
        chain_before_v1(p_stream, p_version)
        || event_record_v1(p_position, p_id, p_stream, p_version, p_bucket, p_type, p_created_at, p_recorded_at,
                           event_content_v1(v_salt, p_data, p_metadata, p_tags::text)));
end
$$;
