-- Writes down events that failed, or that queue behind one of their key that did (attempts 0); see settle_partition_v1,
-- which has locked the partition they belong to.
--
-- One that is there already failed again in a replay: its attempts add up and it stays where it is, but a replay of a
-- key ends there, for what follows must not overtake it, unless the event was set aside alone: then nothing waits behind
-- it. What an operator discarded meanwhile stays discarded.
--
-- One that queues behind nothing but events to be replayed is to be replayed as well: the operator came first, and the
-- emitter, which did not know yet, would otherwise leave it behind in a queue that nobody waits for any more.
create function @schema@.park_events_v1(p_subscription bigint, p_failed jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_ended constant text[] := array(
        select p.key
          from jsonb_to_recordset(p_failed) f(position bigint, replay boolean, attempts int)
          join parked p on p.subscription_id = p_subscription and p.position = f.position
         where p.replay and p.blocking and f.attempts > 0 and not f.replay);
begin
    insert into parked as p (subscription_id, position, bucket, key, state, blocking, replay, attempts, error, message,
                             traceback, first_failed_at, last_failed_at)
    select p_subscription, f.position, f.bucket, f.key, f.state, f.blocking,
           f.replay or (f.blocking and f.attempts = 0 and not exists (
               select from parked b
                where b.subscription_id = p_subscription and b.key = f.key and b.state = 'parked'
                  and b.blocking and not b.replay)
             and not exists (
               select from jsonb_to_recordset(p_failed) g(key text, blocking boolean, attempts int)
                where g.key = f.key and g.blocking and g.attempts > 0)),
           f.attempts, f.error, f.message, f.traceback, clock_timestamp(), clock_timestamp()
      from jsonb_to_recordset(p_failed) f(
               position bigint, bucket smallint, key text, state text, blocking boolean, replay boolean, attempts int,
               error text, message text, traceback text)
    on conflict (subscription_id, position) do update
       set attempts = p.attempts + excluded.attempts, error = excluded.error, message = excluded.message,
           traceback = excluded.traceback, last_failed_at = excluded.last_failed_at,
           state = case when p.state = 'discarded' then p.state else excluded.state end,
           replay = excluded.replay and p.state <> 'discarded' and excluded.state = 'parked'
     where excluded.attempts > 0;
    update parked p set replay = false
     where p.subscription_id = p_subscription and p.key = any (v_ended) and p.state = 'parked' and p.replay;
end
$$;
