-- How many partitions of each subscription that a node handles are its fair share.
--
-- Among the live nodes that handle it, or if there are none, the live ones that offer to as a fallback, each gets
-- pool_size / n; what is left over goes to those that rank first by a hash of node and subscription. So the shares of
-- all nodes add up to the pool, pools of one partition spread over the nodes, and a node that comes or goes changes no
-- ranking among the others.
--
--   first   number of the partition to begin with, so that nodes that claim together reach for different ones
--
-- Nested loops are ruled out: right after many subscriptions were made there are no statistics, and the planner would
-- take thousands of rows for one and compare each with each.
create function @schema@.fair_shares_v1(p_incarnation uuid, p_now timestamptz)
returns table (subscription_id bigint, share int, first int)
language sql stable
set search_path = pg_catalog, @schema@, pg_temp
set enable_nestloop = off
as $$
    select r.subscription_id,
           case when r.standby then 0
                else (s.pool_size / r.candidates + case when r.rank < s.pool_size % r.candidates then 1 else 0 end)::int
           end,
           (s.pool_size / r.candidates * r.rank + least(r.rank, s.pool_size % r.candidates))::int
      from (select me.subscription_id,
                   me.fallback and bool_or(not o.fallback) as standby,
                   count(*) filter (where o.fallback = me.fallback) as candidates,
                   count(*) filter (
                       where o.fallback = me.fallback
                         and (uuid_hash_extended(o.incarnation, o.subscription_id), o.incarnation)
                           < (uuid_hash_extended(me.incarnation, me.subscription_id), me.incarnation)) as rank
              from node_subscriptions me
              join node_subscriptions o on o.subscription_id = me.subscription_id
              join nodes n on n.incarnation = o.incarnation
               and (n.lease_until > p_now or n.incarnation = p_incarnation)
             where me.incarnation = p_incarnation
             group by me.subscription_id, me.fallback) r
      join subscriptions s on s.id = r.subscription_id
$$;
