-- Frees what a node owns and does not hold, because the reply to a claim was lost or what ran the partition ended.
-- Tells whether there was anything, and how much of it is locked just now: that is left for a later call, which nothing
-- else would remind the node of.
create function @schema@.free_unheld_v1(
    p_incarnation uuid, p_held_subscriptions bigint[], p_held_partitions int[], out freed boolean, out locked int)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    update checkpoints c set owner = null
      from (select o.subscription_id, o.partition from checkpoints o
             where o.owner = p_incarnation
               and (o.subscription_id, o.partition) not in (
                       select h.subscription_id, h.partition
                         from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition))
               for update skip locked) f
     where c.subscription_id = f.subscription_id and c.partition = f.partition;
    freed := found;
    select count(*) into locked
      from checkpoints o
     where o.owner = p_incarnation
       and (o.subscription_id, o.partition) not in (
               select h.subscription_id, h.partition
                 from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition));
end
$$;
