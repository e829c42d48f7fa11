-- The revision of this schema; nodes compare it with the one they need.
create function @schema@.schema_revision() returns text
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select max(v.version_num) from eventstore_version v
$$;
