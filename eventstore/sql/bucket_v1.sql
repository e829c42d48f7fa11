-- The bucket (0..1023) of a stream name, or of an event id where there is no stream.
-- md5 rather than hashtext: it is the same in every version of Postgres, so a dump keeps its meaning elsewhere.
create function @schema@.bucket_v1(name text) returns smallint
language sql immutable strict parallel safe
as $$
    select (('x' || pg_catalog.left(pg_catalog.md5(name), 4))::bit(16)::int % 1024)::smallint
$$;
