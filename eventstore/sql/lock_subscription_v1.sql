-- Locks a subscription and all its partitions for an operator, and returns its id; ES013 if there is none.
--
-- The subscription's row comes first: two operators take turns. NO KEY, as an emitter that parks an event has to be
-- able to refer to the subscription meanwhile (foreign key). Then the partitions, in order: an emitter that settles
-- holds its partition's row and is waited for, and finds the new state when it settles next. Every function that locks
-- several partitions takes them in this order or skips what is locked, so no two of them wait for each other.
create function @schema@.lock_subscription_v1(p_name text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id bigint := find_subscription_v1(p_name);
begin
    perform from subscriptions s where s.id = v_id for no key update;
    if not found then  -- deleted while this waited for it
        v_id := lock_subscription_v1(p_name);
    end if;
    perform from checkpoints c where c.subscription_id = v_id order by c.partition for update;
    return v_id;
end
$$;
