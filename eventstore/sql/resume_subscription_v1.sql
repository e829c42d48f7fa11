-- Lets a paused subscription and its halted partitions run again, from where they stand. False if there was nothing to
-- resume. Locks: see lock_subscription_v1.
create function @schema@.resume_subscription_v1(p_name text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_halted boolean;
begin
    update checkpoints c set halted = null where c.subscription_id = v_id and c.halted is not null;
    v_halted := found;
    update subscriptions s set state = 'active' where s.id = v_id and s.state <> 'active';
    if not (found or v_halted) then
        return false;
    end if;
    perform changed_v1();
    return true;
end
$$;
