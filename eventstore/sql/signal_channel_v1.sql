-- The NOTIFY channel of this schema: hashed, so that any schema name fits the 63 bytes and the fixed alphabet.
create function @schema@.signal_channel_v1() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'eventstore_' || pg_catalog.left(pg_catalog.md5(@schema_literal@), 16)
$$;
