-- How many partitions of each subscription a claim still wants, and how many there are that nobody alive runs: what is
-- free or its own but locked by others. A new statement after the claim's: what others took meanwhile is theirs.
create function @schema@.missing_partitions_v1(
    p_incarnation uuid, p_wanted_of bigint[], p_wanted int[], p_taken bigint[],
    p_held_subscriptions bigint[], p_held_partitions int[], p_now timestamptz)
returns table (wanted int, free int)
language sql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select (w.wanted - coalesce(t.many, 0))::int, f.many::int
      from unnest(p_wanted_of, p_wanted) w(subscription_id, wanted)
      left join (select t.subscription_id, count(*) as many from unnest(p_taken) t(subscription_id)
                  group by t.subscription_id) t on t.subscription_id = w.subscription_id
      join subscriptions s on s.id = w.subscription_id and s.state = 'active' and s.resize_to is null
     cross join lateral (
               select count(*) as many
                 from checkpoints c left join nodes n on n.incarnation = c.owner
                where c.subscription_id = w.subscription_id and c.partition < s.pool_size and c.halted is null
                  and (c.owner is null or c.owner = p_incarnation or n.lease_until <= p_now)
                  and (c.subscription_id, c.partition) not in (
                          select h.subscription_id, h.partition
                            from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition))) f
     where w.wanted > coalesce(t.many, 0)
$$;
