-- Has parked events delivered again, in order: all of a subscription, those of one key (a stream, or the id of an event
-- without one), or one, unless it waits behind another of its key (ES006). Returns how many are to be replayed.
-- Raises parked_revision of the partitions concerned, by which their emitters notice. Locks: see lock_subscription_v1;
-- an emitter's settlement of a partition comes before or after this.
create function @schema@.replay_parked_v1(p_name text, p_position bigint default null, p_key text default null)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := lock_subscription_v1(p_name);
    v_positions constant bigint[] := chosen_parked_v1(v_id, p_position, p_key);
begin
    if p_position is not null then
        perform check_first_of_queue_v1(v_id, p_position);
    end if;
    if v_positions = '{}' then
        return 0;
    end if;
    update parked p set replay = true
     where p.subscription_id = v_id and p.position = any (v_positions) and not p.replay;
    perform bump_parked_v1(v_id, v_positions);
    perform changed_v1();
    return cardinality(v_positions);
end
$$;
