-- Gives a subscription the number of partitions that was asked for, without losing an event or delivering one again.
-- Call it with the subscription and all its partitions locked (lock_subscription_v1), while nobody owns any.
--
-- How far each of the 1024 buckets is settled is known: as far as its old partition, or its floor. A new partition has
-- buckets of several old ones and starts where the least of them stands; for the others the floors tell which events
-- on the way are settled already.
--
-- Every epoch rises above all that there were, so that a stream which moves to another partition never meets a lower
-- one: who fences by it outside relies on that. Rows that a smaller pool has no use for stay, because a partition that
-- came back with an epoch it had before would let an old owner write.
create function @schema@.apply_resize_v1(p_subscription bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_row subscriptions;
    v_done bigint[];
    v_epoch bigint;
    v_revision bigint;
begin
    select s.* into v_row from subscriptions s where s.id = p_subscription;
    select array_agg(greatest(c.position, v_row.floors[b + 1]) order by b) into v_done
      from generate_series(0, 1023) b
      join checkpoints c on c.subscription_id = p_subscription and c.partition = b % v_row.pool_size;
    select max(c.epoch) + 1, max(c.parked_revision) + 1 into v_epoch, v_revision
      from checkpoints c where c.subscription_id = p_subscription;
    update checkpoints c set epoch = v_epoch, parked_revision = v_revision
     where c.subscription_id = p_subscription and c.partition >= v_row.resize_to;
    insert into checkpoints as c (subscription_id, partition, position, epoch, halted, parked_revision)
    select p_subscription, b % v_row.resize_to, min(v_done[b + 1]), v_epoch,
           (array_agg(o.halted order by o.partition) filter (where o.halted is not null))[1], v_revision
      from generate_series(0, 1023) b
      join checkpoints o on o.subscription_id = p_subscription and o.partition = b % v_row.pool_size
     group by b % v_row.resize_to
    on conflict (subscription_id, partition) do update
       set position = excluded.position, epoch = v_epoch, halted = excluded.halted, parked_revision = v_revision;
    update subscriptions s set pool_size = s.resize_to, resize_to = null where s.id = p_subscription;
    update subscriptions s set floors = useful_floors_v1(s.id, v_done) where s.id = p_subscription;
end
$$;
