-- Subscriptions with their partitions, one row a partition; all of them, or the one named. Rows of partitions that a
-- smaller pool has no use for are none.
create function @schema@.get_subscriptions_v1(p_name text default null)
returns table (
    id bigint, key text, name text, selector jsonb, after jsonb, options jsonb, pool_size int, state text,
    start_position bigint, created_at timestamptz, resize_to int, partition int, checkpoint bigint, epoch bigint,
    owner uuid, owner_name text, lease_until timestamptz, halted jsonb)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.id, s.key, s.name, s.selector, s.after, s.options, s.pool_size, s.state, s.start_position, s.created_at,
           s.resize_to, c.partition, c.position, c.epoch, c.owner, n.name, n.lease_until, c.halted
      from subscriptions s
      join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
      left join nodes n on n.incarnation = c.owner
     where p_name is null or s.name = p_name
     order by s.name, c.partition
$$;
