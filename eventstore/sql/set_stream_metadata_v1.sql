-- Replaces a stream's limits and custom metadata, also of a stream that has no events yet. p_max_age counts seconds,
-- p_truncate_before is the first version that is kept; null = no such limit. Signals nothing: no event is added.
--
-- What was deleted stays hidden: truncate_before is never set below the end of the last deletion, or replacing all of
-- it, say to change max_count, would bring events back that somebody deleted.
create function @schema@.set_stream_metadata_v1(
    p_stream text, p_max_age double precision default null, p_max_count bigint default null,
    p_truncate_before bigint default null, p_custom json default '{}')
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_state text;
    v_problem text;
begin
    perform check_stream_v1(p_stream);
    if not (coalesce(p_max_age, 1) > 0 and coalesce(p_max_age, 1) < 'infinity' and coalesce(p_max_count, 1) > 0
            and coalesce(p_truncate_before, 1) > 0) then
        raise exception 'max_age, max_count and truncate_before must be above 0' using errcode = 'ES006';
    elsif p_custom is null or json_typeof(p_custom) <> 'object' then
        raise exception 'custom metadata must be a JSON object' using errcode = 'ES003';
    elsif octet_length(p_custom::text) > 1048576 then
        raise exception 'custom metadata exceeds 1 MiB' using errcode = 'ES004';
    end if;
    v_problem := json_problem_v1(p_custom::text);
    if v_problem is not null then
        raise exception 'custom metadata: %', v_problem using errcode = 'ES003';
    end if;

    -- The row is locked first, as appends do, so that state and deleted_to are those of the newest deletion.
    select l.state into v_state from lock_stream_v1(p_stream) l;
    if v_state = 'tombstoned' then
        raise exception 'stream % is closed for good by a tombstone', p_stream
            using errcode = 'ES007', detail = json_build_object('stream', p_stream)::text;
    end if;
    update streams s
       set max_age = p_max_age, max_count = p_max_count, metadata = p_custom,
           truncate_before = greatest(p_truncate_before, nullif(s.deleted_to, 0) + 1)
     where s.name = p_stream;
end
$$;
