-- Moves checkpoints forward, fenced: only where this incarnation still owns the partition under this epoch.
-- Returns the partitions written; a node has lost those that are missing. Never moves a checkpoint back.
--
-- The rows are locked in order first, as an operator locks them, so that neither waits for the other in a circle.
create function @schema@.settle_partitions_v1(
    p_incarnation uuid, p_subscriptions bigint[], p_partitions int[], p_epochs bigint[], p_positions bigint[])
returns table (subscription_id bigint, partition int)
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with held as materialized (
        select c.subscription_id, c.partition, t.position
          from unnest(p_subscriptions, p_partitions, p_epochs, p_positions) t(subscription_id, partition, epoch, position)
          join checkpoints c on c.subscription_id = t.subscription_id and c.partition = t.partition
         where c.owner = p_incarnation and c.epoch = t.epoch
         order by c.subscription_id, c.partition
           for update of c
    )
    update checkpoints c
       set position = greatest(c.position, h.position), settled_at = clock_timestamp()
      from held h
     where c.subscription_id = h.subscription_id and c.partition = h.partition
    returning c.subscription_id, c.partition
$$;
