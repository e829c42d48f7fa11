-- For psql and other languages: the events of a stream that its limits let readers see, in version order.
--
--   select version, type, data from eventstore.read_stream('order-1');
create function @schema@.read_stream(stream_name text, after bigint default 0, max_count int default 1000)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    created_at timestamptz, recorded_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select r.id, r.type, r.data, r.metadata, r.tags, r.stream, r.version, r.position, r.created_at, r.recorded_at
      from read_stream_v1($1, $2, p_limit => $3) r
$$;
