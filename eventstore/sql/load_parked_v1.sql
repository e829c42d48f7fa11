-- What an emitter has to know of the parked events of its partition when it begins: every one beyond the checkpoint,
-- whatever became of it, for it must not be delivered as if it were new; and each key that is closed or to be replayed,
-- with its lowest position.
create function @schema@.load_parked_v1(p_subscription bigint, p_partition int)
returns table (key text, blocking boolean, replay boolean, "position" bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with place as materialized (
        select s.pool_size, c.position
          from subscriptions s join checkpoints c on c.subscription_id = s.id and c.partition = p_partition
         where s.id = p_subscription
    )
    select p.key, p.blocking, p.replay, p.position
      from parked p
     where p.subscription_id = p_subscription and p.position > (select l.position from place l)
       and p.bucket % (select l.pool_size from place l) = p_partition
    union
    select p.key, bool_or(p.blocking), bool_or(p.replay), min(p.position)
      from parked p
     where p.subscription_id = p_subscription and p.state = 'parked' and (p.blocking or p.replay)
       and p.bucket % (select l.pool_size from place l) = p_partition
     group by p.key
$$;
