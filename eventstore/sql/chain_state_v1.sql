-- Whether the chain is on ("on", "off", or "never" before it was for the first time), and since which position.
--
-- A sequence holds it, not a row: an append under REPEATABLE READ would see a row as it was when its transaction began.
-- Its value is 0, or twice the position at which it was turned on and 1, or at which it was turned off and 2.
create function @schema@.chain_state_v1(out state text, out since bigint)
language sql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select case when c.last_value = 0 then 'never' when c.last_value & 1 = 1 then 'on' else 'off' end,
           greatest((c.last_value - 1) >> 1, 0)
      from event_chain c
$$;
