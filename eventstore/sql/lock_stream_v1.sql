-- Locks a stream's row until the transaction ends, creating it where it is missing; returns what it holds.
create function @schema@.lock_stream_v1(
    p_stream text, out version bigint, out bucket smallint, out state text)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
begin
    select s.version, s.bucket, s.state into version, bucket, state
      from streams s where s.name = p_stream for update;
    if not found then
        insert into streams (name, bucket) values (p_stream, bucket_v1(p_stream))
            on conflict on constraint streams_pkey do nothing;
        select s.version, s.bucket, s.state into version, bucket, state
          from streams s where s.name = p_stream for update;
    end if;
end
$$;
