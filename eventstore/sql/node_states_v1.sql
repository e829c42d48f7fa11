-- The nodes that hold or held a lease, those alive first and then by name: how many partitions each owns and how many
-- subscriptions it handles. nodes_alive and nodes_total count all of them, beyond p_limit too.
create function @schema@.node_states_v1(p_limit int default 50, p_now timestamptz default clock_timestamp())
returns table (
    incarnation uuid, name text, alive boolean, started_at timestamptz, lease_until timestamptz, partitions bigint,
    subscriptions bigint, nodes_alive bigint, nodes_total bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select n.incarnation, n.name, n.alive, n.started_at, n.lease_until,
           (select count(*) from checkpoints c where c.owner = n.incarnation),
           (select count(*) from node_subscriptions h where h.incarnation = n.incarnation), n.nodes_alive, n.nodes_total
      from (select m.incarnation, m.name, m.lease_until > p_now as alive, m.started_at, m.lease_until,
                   count(*) filter (where m.lease_until > p_now) over () as nodes_alive, count(*) over () as nodes_total
              from nodes m
             order by m.lease_until > p_now desc, m.name collate "C", m.started_at limit p_limit) n
     order by n.alive desc, n.name collate "C", n.started_at
$$;
