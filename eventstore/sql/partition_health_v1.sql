-- What tells whether the partitions of all subscriptions are where they should be, one row a partition; by name.
--
--   settled_ago   seconds since the checkpoint was written, null: never was
--   owner_alive   the lease of the node that owns it runs; null: nobody owns it
--   owner_age     seconds since that node started
--   handlers      how many live nodes handle the subscription
create function @schema@.partition_health_v1(p_now timestamptz default clock_timestamp())
returns table (
    name text, state text, pool_size int, resize_to int, partition int, checkpoint bigint,
    settled_ago double precision, halted jsonb, owner text, owner_alive boolean, owner_age double precision,
    handlers int)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with handled as materialized (
        select h.subscription_id, count(*)::int as nodes
          from node_subscriptions h join nodes n on n.incarnation = h.incarnation
         where n.lease_until > p_now
         group by h.subscription_id
    )
    select s.name, s.state, s.pool_size, s.resize_to, c.partition, c.position,
           extract(epoch from p_now - c.settled_at)::double precision, c.halted, n.name, n.lease_until > p_now,
           extract(epoch from p_now - n.started_at)::double precision, coalesce(h.nodes, 0)
      from subscriptions s
      join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
      left join nodes n on n.incarnation = c.owner
      left join handled h on h.subscription_id = s.id
     order by s.name, c.partition
$$;
