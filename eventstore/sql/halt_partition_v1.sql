-- Stops a partition until an operator resumes or rewinds its subscription: nobody claims it. Fenced; false if this
-- incarnation does not own it under this epoch.
--
--   p_halted   {"error", "message", "traceback"}, and of the event whose failure it is "position", "id", "type" and
--              "stream"; "at" is added here
create function @schema@.halt_partition_v1(
    p_incarnation uuid, p_subscription bigint, p_partition int, p_epoch bigint, p_halted jsonb) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_at constant text := to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
begin
    update checkpoints c set halted = p_halted || jsonb_build_object('at', v_at), owner = null
     where c.subscription_id = p_subscription and c.partition = p_partition
       and c.owner = p_incarnation and c.epoch = p_epoch;
    if not found then
        return false;
    end if;
    perform changed_v1();
    return true;
end
$$;
