-- The lock stripe (0..127) of a tag, a type or a stream. Lock order and meaning: see append_events_v1.
--
--   kind   1 tag, 2 type, 3 stream: one name may be all three, and should not always meet in one stripe
create function @schema@.stripe_v1(kind int, name text) returns int
language sql immutable strict parallel safe
as $$
    select (pg_catalog.hashtextextended(name, kind) & 127)::int
$$;
