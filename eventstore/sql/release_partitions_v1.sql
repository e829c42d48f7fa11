-- Settles partitions as settle_partitions_v1 does and gives them back: others may claim them from now on. Returns those
-- that were still held. A position that is null leaves the checkpoint where it is.
create function @schema@.release_partitions_v1(
    p_incarnation uuid, p_subscriptions bigint[], p_partitions int[], p_epochs bigint[], p_positions bigint[])
returns table (subscription_id bigint, partition int)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_subscriptions bigint[];
    v_partitions int[];
begin
    -- Which locks them, so that the second statement waits for nothing.
    select array_agg(h.subscription_id), array_agg(h.partition) into v_subscriptions, v_partitions
      from settle_partitions_v1(p_incarnation, p_subscriptions, p_partitions, p_epochs, p_positions) h;
    return query
    update checkpoints c set owner = null
      from unnest(v_subscriptions, v_partitions) h(subscription_id, partition)
     where c.subscription_id = h.subscription_id and c.partition = h.partition
    returning c.subscription_id, c.partition;
    if found then
        perform changed_v1();
    end if;
end
$$;
