-- Creates a stream for p_count events, if there is none and the append does not mind; nothing is waited for, except
-- for a transaction that is just creating it. version is that of the last event; outcome as append_batch_v1 says.
create function @schema@.create_stream_v1(
    p_stream text, p_expected bigint, p_count int, out outcome text, out version bigint, out bucket smallint)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
begin
    if p_expected in (0, -1) then
        insert into streams as s (name, version, bucket) values (p_stream, p_count, bucket_v1(p_stream))
            on conflict on constraint streams_pkey do nothing returning s.version, s.bucket into version, bucket;
        if found then
            outcome := 'appended';
            return;
        end if;
    end if;
    -- Refused only if the row is ours to judge now, and still says no.
    outcome := coalesce(
        (select case when expected_matches_v1(p_expected, s.version, s.state) then 'busy' else 'refused' end
           from streams s where s.name = p_stream for update skip locked),
        case when exists (select from streams s where s.name = p_stream) then 'busy' else 'refused' end);
end
$$;
