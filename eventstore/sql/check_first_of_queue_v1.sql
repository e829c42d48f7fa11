-- ES006 if the parked event at a position has another of its key before it: a queue is replayed in order.
create function @schema@.check_first_of_queue_v1(p_subscription bigint, p_position bigint) returns void
language plpgsql stable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_first constant bigint := (
        select min(q.position)
          from parked p join parked q on q.subscription_id = p.subscription_id and q.key = p.key
         where p.subscription_id = p_subscription and p.position = p_position and p.blocking
           and q.state = 'parked' and q.blocking);
begin
    if v_first < p_position then
        raise exception 'the event at position % waits behind the one at %', p_position, v_first
            using errcode = 'ES006', hint = 'Replay or discard that one first, or replay the whole key.';
    end if;
end
$$;
