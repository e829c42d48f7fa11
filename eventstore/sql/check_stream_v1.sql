-- Refuses (ES003) what is no stream's name or expected version: the rules of appends, for functions of one stream.
create function @schema@.check_stream_v1(p_stream text, p_expected bigint default -1) returns void
language plpgsql immutable
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    if (length(p_stream) between 1 and 512 and p_expected >= -2) is not true then
        raise exception 'stream names have 1 to 512 characters; expected versions are -2, -1, 0 or more'
            using errcode = 'ES003';
    end if;
end
$$;
