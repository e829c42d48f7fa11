-- The latest failures, newest first: events that were parked for their own failure, and partitions that were halted. Those
-- of one subscription with the same error are one row, that of the latest, lest one that fails all the time hides the
-- others.
--
--   p_among      parked events that are looked at, the latest: there may be millions
--   "position"   of the event; null: a partition was halted for something else
--   message      cut at 500 characters
--   count        how many events, of those looked at, or partitions the row stands for
create function @schema@.latest_failures_v1(p_limit int default 10, p_among int default 1000)
returns table (
    at timestamptz, kind text, subscription text, partition int, "position" bigint, error text, message text,
    count bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select f.*
      from ((select p.last_failed_at, 'parked', s.name, p.bucket % s.pool_size, p.position, p.error,
                    left(p.message, 500), g.count
               from (select distinct on (r.subscription_id, r.error) r.subscription_id, r.position,
                            count(*) over (partition by r.subscription_id, r.error) as count
                       from (select p.subscription_id, p.position, p.error, p.last_failed_at
                               from parked p where p.state = 'parked' and p.error is not null
                              order by p.last_failed_at desc limit p_among) r
                      order by r.subscription_id, r.error, r.last_failed_at desc, r.position desc) g
              cross join lateral (select p.* from parked p where p.subscription_id = g.subscription_id
                                     and p.position = g.position limit 1) p  -- limit: by key, for each of the few
               join subscriptions s on s.id = g.subscription_id)
            union all
            (select (h.halted ->> 'at')::timestamptz, 'halted', h.name, h.partition,
                    (h.halted ->> 'position')::bigint, h.halted ->> 'error', left(h.halted ->> 'message', 500), h.count
               from (select distinct on (s.id, c.halted ->> 'error') s.name, c.partition, c.halted,
                            count(*) over (partition by s.id, c.halted ->> 'error') as count
                       from checkpoints c join subscriptions s on s.id = c.subscription_id
                      where c.halted is not null and c.partition < s.pool_size
                      order by s.id, c.halted ->> 'error', (c.halted ->> 'at')::timestamptz desc, c.partition) h)
           ) f (at, kind, subscription, partition, "position", error, message, count)
     order by f.at desc, f.subscription, f.partition limit p_limit
$$;
