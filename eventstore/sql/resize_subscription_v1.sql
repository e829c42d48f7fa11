-- Gives a subscription another number of partitions: true if that took effect at once, as nobody owns one. Otherwise it
-- is written down, those who own one give it back, and the claim that finds them all free applies it.
-- What nodes owned whose lease ran out is free. Asking for the size there is takes back what was written down. Locks: see lock_subscription_v1.
create function @schema@.resize_subscription_v1(p_name text, p_size int) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_size constant int := (select s.pool_size from subscriptions s where s.id = v_id);
    v_removed boolean;
    v_free boolean;
begin
    if p_size is null or p_size not between 1 and 1024 then
        raise exception 'pool_size must be between 1 and 1024, not %', p_size using errcode = 'ES006';
    end if;
    v_removed := remove_dead_nodes_v1(clock_timestamp());
    v_free := not exists (select from checkpoints c where c.subscription_id = v_id and c.owner is not null);
    update subscriptions s set resize_to = nullif(p_size, v_size)
     where s.id = v_id and s.resize_to is distinct from nullif(p_size, v_size);
    if not found and (p_size = v_size or not v_free) then  -- it is so already, or about to be
        if v_removed then  -- nobody would be reminded of what they owned by a lease that ran out
            perform changed_v1();
        end if;
        return p_size = v_size;
    end if;
    if p_size <> v_size and v_free then
        perform apply_resize_v1(v_id);
    end if;
    perform changed_v1();
    return p_size = v_size or v_free;
end
$$;
