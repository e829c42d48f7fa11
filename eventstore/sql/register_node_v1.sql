-- A node's first lease. An incarnation is used once: after its lease ran out it can only register as a new one.
create function @schema@.register_node_v1(
    p_incarnation uuid, p_name text, p_ttl double precision, p_now timestamptz default clock_timestamp())
returns void
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    insert into nodes (incarnation, name, started_at, lease_until)
        values (p_incarnation, p_name, p_now, p_now + make_interval(secs => p_ttl))
$$;
