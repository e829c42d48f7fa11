-- Settles everything up to a position by order of an operator: partitions that stand below move there, under a new epoch,
-- so that who runs one begins anew; what stands beyond stays. Returns how many moved. ES014 beyond the last position
-- drawn. Locks: see lock_subscription_v1.
create function @schema@.ack_subscription_v1(p_name text, p_position bigint) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_moved int;
begin
    perform check_within_log_v1(p_name, p_position);
    update checkpoints c set position = p_position, epoch = c.epoch + 1
      from subscriptions s
     where s.id = v_id and c.subscription_id = s.id and c.partition < s.pool_size and c.position < p_position;
    get diagnostics v_moved = row_count;
    if v_moved > 0 then
        perform changed_v1();
    end if;
    return v_moved;
end
$$;
