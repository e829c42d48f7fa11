-- Makes what is stored about which subscriptions a node handles what it says; tells whether that changed anything. Names
-- that stand in both lists are handled, names of no subscription are left out.
--
-- New ones are locked (key share), so that one deleted meanwhile is left out instead of breaking the foreign key.
--
-- Nested loops are ruled out: right after many subscriptions were made there are no statistics, and the planner would
-- take thousands of rows for one and compare each with each.
create function @schema@.declare_handled_v1(p_incarnation uuid, p_names text[], p_fallback text[]) returns boolean
language sql volatile
set search_path = pg_catalog, @schema@, pg_temp
set enable_nestloop = off
as $$
    with asked as materialized (
        select s.id, bool_and(a.fallback) as fallback
          from (select n.name, false as fallback from unnest(p_names) n(name)
                union all select f.name, true from unnest(p_fallback) f(name)) a
          join subscriptions s on s.name = a.name
         group by s.id
    ), gone as (
        delete from node_subscriptions n
         where n.incarnation = p_incarnation and n.subscription_id not in (select a.id from asked a)
        returning n.subscription_id
    ), fresh as (
        select s.id, a.fallback
          from asked a join subscriptions s on s.id = a.id
         where not exists (select from node_subscriptions n
                            where n.incarnation = p_incarnation and n.subscription_id = a.id
                              and n.fallback = a.fallback)
           for key share of s
    ), put as (
        insert into node_subscriptions (subscription_id, incarnation, fallback)
        select f.id, p_incarnation, f.fallback from fresh f
        on conflict (subscription_id, incarnation) do update set fallback = excluded.fallback
        returning subscription_id
    )
    select exists (select from gone) or exists (select from put)
$$;
