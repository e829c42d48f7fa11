-- The highest position in the log, and the last one drawn, which is never below it unless the sequence was set back or
-- the log was restored without it. Works on a standby too.
--
-- The log is looked at first: what is drawn and stored in between lets the sequence be ahead, never the log.
create function @schema@.log_bounds_v1(out highest bigint, out last_position bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    select coalesce(max(e.position), 0) into highest from events e;
    last_position := pg_sequence_last_value('@schema@.event_positions'::regclass);
end
$$;
