-- The parked events of a partition that are to be replayed, in order: as read_events_v1 returns them, and where they are
-- parked. What scavenging emptied comes with id null: there is nothing to deliver any more.
create function @schema@.replayable_v1(p_subscription bigint, p_partition int, p_limit int)
returns table (
    id uuid, type text, data json, metadata json, tags text[], stream text, version bigint, "position" bigint,
    bucket smallint, created_at timestamptz, recorded_at timestamptz,
    parked_position bigint, key text, attempts int, blocking boolean)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket, e.created_at,
           e.recorded_at, p.position, p.key, p.attempts, p.blocking
      from (select p.position, p.key, p.attempts, p.blocking
              from parked p
             where p.subscription_id = p_subscription and p.state = 'parked' and p.replay
               and p.bucket % (select s.pool_size from subscriptions s where s.id = p_subscription) = p_partition
             order by p.position limit p_limit) p
      left join events e on e.position = p.position and e.data is not null
     order by p.position
$$;
