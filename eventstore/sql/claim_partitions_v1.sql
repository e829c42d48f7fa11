-- Takes partitions that nobody owns, of the subscriptions named, for a node whose lease is valid; each with a higher
-- epoch, which fences whoever owned it before. Also those the node owns already: the reply to an earlier claim was lost,
-- or what ran the partition ended. Never those it says it holds, which run there, are halted, or have not quite ended.
--
-- Nodes whose lease ran out are removed first, which frees what they owned. Their rows are locked for that: a renewal
-- in progress is skipped and decides for itself, so a node either keeps its lease or finds its row gone.
-- SKIP LOCKED on the partitions: two claimants share them out instead of waiting for each other.
create function @schema@.claim_partitions_v1(
    p_incarnation uuid, p_names text[], p_held_subscriptions bigint[], p_held_partitions int[],
    p_now timestamptz default clock_timestamp())
returns table (subscription_id bigint, name text, partition int, checkpoint bigint, epoch bigint, pool_size int,
               selector jsonb, last_position bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
begin
    delete from nodes n using (
        select d.incarnation from nodes d where d.lease_until <= p_now for update skip locked) dead
     where n.incarnation = dead.incarnation;
    perform from nodes n where n.incarnation = p_incarnation and n.lease_until > p_now for key share;
    if not found then
        raise exception 'the lease of this node ran out' using errcode = 'ES008';
    end if;
    return query
    with free as (
        select c.subscription_id, c.partition
          from subscriptions s join checkpoints c on c.subscription_id = s.id
         where s.name = any (p_names) and s.state = 'active'
           and (c.owner is null or c.owner = p_incarnation)
           and not exists (
                   select from unnest(p_held_subscriptions, p_held_partitions) h(subscription_id, partition)
                    where h.subscription_id = c.subscription_id and h.partition = c.partition)
         order by c.subscription_id, c.partition
           for update of c skip locked
    ), taken as (
        update checkpoints c set owner = p_incarnation, epoch = c.epoch + 1
          from free f where c.subscription_id = f.subscription_id and c.partition = f.partition
        returning c.*
    )
    select t.subscription_id, s.name, t.partition, t.position, t.epoch, s.pool_size, s.selector,
           (select q.last_value from event_positions q)
      from taken t join subscriptions s on s.id = t.subscription_id;
end
$$;
