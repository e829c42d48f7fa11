-- Raises parked_revision of the partitions that parked events at these positions belong to. Call it with them locked.
create function @schema@.bump_parked_v1(p_subscription bigint, p_positions bigint[]) returns void
language sql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
    update checkpoints c set parked_revision = c.parked_revision + 1
     where c.subscription_id = p_subscription
       and c.partition in (select p.bucket % s.pool_size
                             from parked p join subscriptions s on s.id = p.subscription_id
                            where p.subscription_id = p_subscription and p.position = any (p_positions))
$$;
