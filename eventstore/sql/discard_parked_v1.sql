-- Gives up parked events: all of a subscription, those of one key, or one, also in the middle of a queue. They stay
-- listed as discarded, and hold back nothing any more. Returns how many.
-- Raises parked_revision of the partitions concerned. Locks: see lock_subscription_v1.
create function @schema@.discard_parked_v1(p_name text, p_position bigint default null, p_key text default null)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_positions constant bigint[] := chosen_parked_v1(v_id, p_position, p_key);
begin
    if v_positions = '{}' then
        return 0;
    end if;
    update parked p set state = 'discarded', blocking = false, replay = false
     where p.subscription_id = v_id and p.position = any (v_positions);
    perform bump_parked_v1(v_id, v_positions);
    perform changed_v1();
    return cardinality(v_positions);
end
$$;
