-- Deletes a stream softly: readers of the stream see none of its events any more, and the next append that expects any
-- version or none revives it, its versions going on where they were. Limits and custom metadata stay.
-- False if there is nothing to delete: no such stream, or deleted already. ES001 if it is not as expected, ES007 if it
-- is closed for good. Signals nothing: no event is added, and the log shows the old ones until they are scavenged.
create function @schema@.delete_stream_v1(p_stream text, p_expected bigint default -1) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_version bigint;
    v_state text;
begin
    perform check_stream_v1(p_stream, p_expected);
    -- The row is locked first, as appends do: an append is either below the deletion and goes with it, or comes after it
    -- and revives the stream. Without a row there is nothing to hide, and what an append creates meanwhile is newer.
    select s.version, s.state into v_version, v_state from streams s where s.name = p_stream for update;
    if not found and not expected_matches_v1(p_expected, 0, 'live') then
        raise exception 'stream % is at version 0, not at the expected %', p_stream, p_expected
            using errcode = 'ES001', detail = json_build_object(
                'stream', p_stream, 'expected', p_expected, 'actual', 0)::text;
    end if;
    if v_state = 'deleted' then
        return false;
    end if;
    perform check_expected_v1(array[p_stream], array[p_expected]);
    if v_version is null or v_version = 0 then
        return false;
    end if;
    update streams s
       set state = 'deleted', deleted_to = s.version, truncate_before = greatest(s.truncate_before, s.version + 1)
     where s.name = p_stream;
    return true;
end
$$;
