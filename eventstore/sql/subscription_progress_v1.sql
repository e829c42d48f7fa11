-- Where the partitions of one subscription stand, in the order of their numbers, and what is settled beyond that: events
-- of bucket b at or below floors[b + 1] (null: nothing). ES013 without such a subscription.
create function @schema@.subscription_progress_v1(p_name text)
returns table (checkpoints bigint[], floors bigint[], running int)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select array_agg(c.position order by c.partition), s.floors, count(c.owner)::int
      from subscriptions s join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
     where s.id = find_subscription_v1(p_name)
     group by s.id
$$;
