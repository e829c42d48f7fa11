-- For psql and other languages: the log from a position on, in position order, never past the horizon, so that a
-- reader who goes on from the last position it got misses nothing.
--
--   select position, stream, type, data from eventstore.read_feed(after => 0);
--   select * from eventstore.read_feed(selector => '{"kind": "event_type", "types": ["OrderPlaced"]}');
create function @schema@.read_feed(after bigint default 0, max_count int default 1000, selector jsonb default null)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    created_at timestamptz, recorded_at timestamptz)
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select r.id, r.type, r.data, r.metadata, r.tags, r.stream, r.version, r.position, r.created_at, r.recorded_at
      from read_events_v1($3, $1, p_limit => $2, p_window => null) r where r.id is not null
$$;
