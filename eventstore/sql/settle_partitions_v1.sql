-- Moves checkpoints forward, fenced: only where this incarnation still owns the partition under this epoch.
-- Returns the partitions written; a node has lost those that are missing. Never moves a checkpoint back.
create function @schema@.settle_partitions_v1(
    p_incarnation uuid, p_subscriptions bigint[], p_partitions int[], p_epochs bigint[], p_positions bigint[])
returns table (subscription_id bigint, partition int)
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    update checkpoints c
       set position = greatest(c.position, t.position), settled_at = clock_timestamp()
      from unnest(p_subscriptions, p_partitions, p_epochs, p_positions) t(subscription_id, partition, epoch, position)
     where c.subscription_id = t.subscription_id and c.partition = t.partition
       and c.owner = p_incarnation and c.epoch = t.epoch
    returning c.subscription_id, c.partition
$$;
