-- The partitions a node owns. What it runs beyond these it has lost: to another node, or to a deletion.
create function @schema@.owned_partitions_v1(p_incarnation uuid)
returns table (subscription_id bigint, partition int, epoch bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select c.subscription_id, c.partition, c.epoch from checkpoints c where c.owner = p_incarnation
$$;
