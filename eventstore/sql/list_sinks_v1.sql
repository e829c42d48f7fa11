-- The subscriptions that are delivered to a sink, which any node that runs does without a handler; with their options.
create function @schema@.list_sinks_v1()
returns table (name text, options jsonb)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.name, s.options from subscriptions s where s.options ? 'sink' order by s.name
$$;
