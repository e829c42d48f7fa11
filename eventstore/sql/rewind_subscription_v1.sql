-- Moves every partition that stands beyond a position back to it: what follows is delivered again. p_after: see
-- rewind_position_v1. Parked events beyond it are forgotten, as they come again, and what halted runs again.
--
-- Every epoch rises, so that whoever runs a partition begins anew, and nothing that was under way settles.
-- Locks: see lock_subscription_v1.
create function @schema@.rewind_subscription_v1(
    p_name text, p_after jsonb, out after bigint, out partitions int, out parked bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_after constant bigint := rewind_position_v1(p_name, p_after);
begin
    after := v_after;
    select count(*) into partitions
      from subscriptions s join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
     where s.id = v_id and c.position > v_after;
    update checkpoints c set position = least(c.position, v_after), epoch = c.epoch + 1, halted = null
     where c.subscription_id = v_id;
    update subscriptions s
       set floors = useful_floors_v1(s.id, (select array_agg(least(f.floor, v_after) order by f.number)
                                              from unnest(s.floors) with ordinality f(floor, number)))
     where s.id = v_id and s.floors is not null;
    delete from parked p where p.subscription_id = v_id and p.position > v_after;
    get diagnostics parked = row_count;
    perform changed_v1();
end
$$;
