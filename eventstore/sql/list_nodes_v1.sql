-- The nodes that hold or held a lease, with the partitions each owns, as "name/number"; by name and start.
--
--   alive   its lease still runs; the partitions of one whose lease ran out are free for others
create function @schema@.list_nodes_v1(p_now timestamptz default clock_timestamp())
returns table (
    incarnation uuid, name text, started_at timestamptz, lease_until timestamptz, alive boolean,
    subscriptions text[], partitions int[])
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select n.incarnation, n.name, n.started_at, n.lease_until, n.lease_until > p_now,
           coalesce(array_agg(s.name order by s.name, c.partition) filter (where s.name is not null), '{}'),
           coalesce(array_agg(c.partition order by s.name, c.partition) filter (where s.name is not null), '{}')
      from nodes n
      left join (checkpoints c join subscriptions s on s.id = c.subscription_id) on c.owner = n.incarnation
     group by n.incarnation
     order by n.name collate "C", n.started_at
$$;
