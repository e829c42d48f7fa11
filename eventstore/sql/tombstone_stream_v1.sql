-- Closes a stream for good, also one that never existed: readers of the stream see nothing, and every append is refused.
-- False if it is closed already, whatever is expected, so that repeating is harmless; otherwise ES001 if the stream is
-- not as expected. Signals nothing: no event is added.
create function @schema@.tombstone_stream_v1(p_stream text, p_expected bigint default -1) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_state text;
begin
    perform check_stream_v1(p_stream, p_expected);
    -- The row is locked first, as appends do, and made where it is missing: an append is either below the tombstone and
    -- goes with it, or finds it and is refused.
    select l.state into v_state from lock_stream_v1(p_stream) l;
    if v_state = 'tombstoned' then
        return false;
    end if;
    perform check_expected_v1(array[p_stream], array[p_expected]);
    update streams s
       set state = 'tombstoned', deleted_to = s.version, truncate_before = greatest(s.truncate_before, s.version + 1)
     where s.name = p_stream;
    return true;
end
$$;
