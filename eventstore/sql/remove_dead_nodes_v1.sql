-- Removes nodes whose lease ran out and frees what they owned; tells whether there was anything to do.
--
-- Their rows are locked for that: a renewal in progress is skipped and decides for itself, so a node either keeps its
-- lease or finds its row gone. A partition that is locked just now, by a settlement of the dead node that has not
-- ended, is skipped too, and its node stays until a later call: nobody waits for a process that may be frozen. Nor for
-- the deletion of a subscription, which removes what its nodes handle.
create function @schema@.remove_dead_nodes_v1(p_now timestamptz) returns boolean
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_dead constant uuid[] := array(
        select n.incarnation from nodes n where n.lease_until <= p_now order by n.incarnation for update skip locked);
    v_freed boolean;
begin
    if v_dead = '{}' then
        return false;
    end if;
    update checkpoints c set owner = null
      from (select o.subscription_id, o.partition from checkpoints o
             where o.owner = any (v_dead) for update skip locked) f
     where c.subscription_id = f.subscription_id and c.partition = f.partition;
    v_freed := found;
    delete from node_subscriptions h
     using (select o.subscription_id, o.incarnation from node_subscriptions o
             where o.incarnation = any (v_dead) for update skip locked) f
     where h.subscription_id = f.subscription_id and h.incarnation = f.incarnation;
    delete from nodes n
     where n.incarnation = any (v_dead) and not exists (select from checkpoints c where c.owner = n.incarnation)
       and not exists (select from node_subscriptions h where h.incarnation = n.incarnation);
    return found or v_freed;
end
$$;
