-- ES002 if an id is stored with other content: another stream, type, tags, data or metadata as encoded.
-- created_at does not count: a retry may have built its events anew; nor does the trace that metadata carries, which is
-- looked into only where the texts differ. Of a scavenged event only stream and
-- type are left to compare: a late retry is still the same append.
create function @schema@.check_known_events_v1(
    p_streams text[], p_stream_no int[], p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[])
returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id uuid;
begin
    select e.id into v_id
      from unnest(p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags)
           n(stream_no, id, type, data, metadata, tags)
      join events e on e.id = n.id
     where e.stream is distinct from p_streams[n.stream_no] or e.type <> n.type
        or e.data is not null and (e.data::text <> n.data::text
                                   or e.metadata::text <> n.metadata::text
                                      and untraced_v1(e.metadata) <> untraced_v1(n.metadata)
                                   or e.tags <> coalesce(n.tags, '{}')::text[])
     limit 1;
    if found then
        raise exception 'event id % is stored already with other content', v_id
            using errcode = 'ES002', detail = json_build_array(v_id)::text;
    end if;
end
$$;
