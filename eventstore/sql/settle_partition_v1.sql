-- Settles one partition: moves its checkpoint (not if p_position is null), writes down what failed, and forgets parked
-- events that are done. All of it or, if this incarnation does not own the partition under this epoch any more, nothing:
-- then it returns false.
--
--   p_failed   array of {position, bucket, key, state, blocking, replay, attempts, error, message, traceback}; as text,
--              since the connection may be one whose codecs a projection has changed
--   p_done     positions of parked events that were handled
--
-- The partition's row is locked first, to the end of the transaction, which may be the caller's: a new owner cannot take
-- it before, and what an operator does to parked events of this partition comes before or after, for he locks that row
-- too.
create function @schema@.settle_partition_v1(
    p_incarnation uuid, p_subscription bigint, p_partition int, p_epoch bigint, p_position bigint,
    p_failed text default '[]', p_done bigint[] default '{}') returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    update checkpoints c set position = greatest(c.position, p_position), settled_at = clock_timestamp()
     where c.subscription_id = p_subscription and c.partition = p_partition
       and c.owner = p_incarnation and c.epoch = p_epoch;
    if not found then
        return false;
    end if;
    if p_failed <> '[]' then
        perform park_events_v1(p_subscription, p_failed::jsonb);
    end if;
    if p_done <> '{}' then
        delete from parked p where p.subscription_id = p_subscription and p.position = any (p_done);
    end if;
    return true;
end
$$;
