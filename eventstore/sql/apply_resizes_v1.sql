-- Applies the resizes that subscriptions handled by a node wait for, where nobody owns a partition any more. Returns how
-- many, and how many would have been ready if their rows had not been locked.
--
-- Locks what lock_subscription_v1 locks, but skips what is locked: a claim waits for nobody.
create function @schema@.apply_resizes_v1(p_incarnation uuid, out applied int, out locked int)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id bigint;
    v_taken bigint;
begin
    applied := 0;
    locked := 0;
    for v_id in
        select s.id from subscriptions s join node_subscriptions n on n.subscription_id = s.id
         where n.incarnation = p_incarnation and s.resize_to is not null
           and not exists (select from checkpoints c where c.subscription_id = s.id and c.owner is not null)
         order by s.id
    loop
        perform from subscriptions s where s.id = v_id and s.resize_to is not null for no key update skip locked;
        if found then
            select count(*) into v_taken from (
                select from checkpoints c where c.subscription_id = v_id and c.owner is null
                 order by c.partition for update skip locked) t;
        else
            v_taken := 0;
        end if;
        if v_taken = (select count(*) from checkpoints c where c.subscription_id = v_id) then
            perform apply_resize_v1(v_id);
            applied := applied + 1;
        elsif not exists (select from checkpoints c where c.subscription_id = v_id and c.owner is not null) then
            locked := locked + 1;
        end if;
    end loop;
end
$$;
