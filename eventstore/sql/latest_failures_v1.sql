-- The latest failures, newest first: events that were parked for their own failure, and partitions that were halted.
-- position is null for a partition; texts are cut at 500 characters.
create function @schema@.latest_failures_v1(p_limit int default 10)
returns table (
    at timestamptz, kind text, subscription text, partition int, "position" bigint, error text, message text)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select f.*
      from ((select p.last_failed_at, 'parked', s.name, p.bucket % s.pool_size, p.position, p.error,
                    left(p.message, 500)
               from (select * from parked p where p.state = 'parked' and p.error is not null
                      order by p.last_failed_at desc limit p_limit) p
               join subscriptions s on s.id = p.subscription_id)
            union all
            (select (c.halted ->> 'at')::timestamptz, 'halted', s.name, c.partition, null, c.halted ->> 'error',
                    left(c.halted ->> 'message', 500)
               from (select * from checkpoints c where c.halted is not null
                      order by (c.halted ->> 'at')::timestamptz desc limit p_limit) c
               join subscriptions s on s.id = c.subscription_id and c.partition < s.pool_size)
           ) f (at, kind, subscription, partition, "position", error, message)
     order by f.at desc, f.subscription, f.partition limit p_limit
$$;
