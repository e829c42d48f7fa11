-- The position to rewind to: a number as it is (ES014 beyond the log), a time as start_position_v1 has it, and
-- {"event": id}: that event's position, so that what follows it comes again. ES006 for anything else, and for "current",
-- which would skip.
create function @schema@.rewind_position_v1(p_name text, p_after jsonb) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_position bigint;
begin
    if jsonb_typeof(p_after) = 'number' then
        perform check_within_log_v1(p_name, (p_after #>> '{}')::bigint);
        return start_position_v1(p_after);
    elsif jsonb_typeof(p_after) = 'string' and p_after <> '"current"' then
        return start_position_v1(p_after);
    elsif jsonb_typeof(p_after -> 'event') = 'string' then
        select e.position into v_position from events e where e.id = (p_after ->> 'event')::uuid;
        if found then
            return v_position;
        end if;
        raise exception 'there is no event %', p_after ->> 'event' using errcode = 'ES006';
    end if;
    raise exception 'a subscription is rewound to a position, a time or an event, not to %', p_after
        using errcode = 'ES006', hint = 'ack_subscription_v1 moves it forward.';
end
$$;
