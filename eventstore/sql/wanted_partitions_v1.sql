-- How many more partitions a node should take of each subscription it handles: its fair share less what it owns and what
-- it holds. Only of those that are active and not about to be resized, and of which it wants any.
--
-- Nested loops are ruled out: right after many subscriptions were made there are no statistics, and the planner would
-- take thousands of rows for one and compare each with each.
create function @schema@.wanted_partitions_v1(
    p_incarnation uuid, p_held_subscriptions bigint[], p_held_partitions int[], p_now timestamptz)
returns table (subscription_id bigint, wanted int, first int)
language sql stable
set search_path = pg_catalog, @schema@, pg_temp
set enable_nestloop = off
as $$
    with mine as (
        select m.subscription_id, count(*)::int as many
          from (select h.subscription_id, h.partition
                  from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition)
                union select c.subscription_id, c.partition from checkpoints c where c.owner = p_incarnation) m
         group by m.subscription_id
    )
    select f.subscription_id, f.share - coalesce(m.many, 0), f.first
      from fair_shares_v1(p_incarnation, p_now) f
      join subscriptions s on s.id = f.subscription_id
      left join mine m on m.subscription_id = f.subscription_id
     where s.state = 'active' and s.resize_to is null and f.share > coalesce(m.many, 0)
$$;
