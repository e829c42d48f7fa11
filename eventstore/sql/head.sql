-- For psql and other languages: the horizon, the position up to which the log can be read without missing anything.
create function @schema@.head() returns bigint
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select h.horizon from horizon_v1() h
$$;
