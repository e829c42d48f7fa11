-- Deletes a subscription, its checkpoints and its parked events; false if there is none. Ids are never used again, so a
-- node that still runs it settles nothing from now on.
--
-- Locks what an operator locks (lock_subscription_v1) before the deletion locks the subscription's key: an emitter that
-- parks an event holds its partition and then refers to the subscription, and would wait for this in a circle.
create function @schema@.delete_subscription_v1(p_name text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id bigint;
begin
    v_id := lock_subscription_v1(p_name);
    delete from subscriptions s where s.id = v_id;
    perform changed_v1();
    return true;
exception when sqlstate 'ES013' then
    return false;
end
$$;
