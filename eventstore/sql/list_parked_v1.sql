-- The events that a subscription set aside, by position, with what they are; data and metadata are null where scavenging
-- emptied the event. p_state null: all; p_key: a stream, or the id of an event without one; p_limit null: all.
create function @schema@.list_parked_v1(
    p_name text, p_state text default 'parked', p_key text default null, p_after bigint default 0,
    p_limit int default null)
returns table (
    "position" bigint, partition int, key text, state text, blocking boolean, replay boolean, attempts int, error text,
    message text, traceback text, first_failed_at timestamptz, last_failed_at timestamptz, id uuid, type text,
    stream text, version bigint, data json, metadata json, recorded_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_id constant bigint := find_subscription_v1(p_name);
    v_size constant int := (select s.pool_size from subscriptions s where s.id = v_id);
begin
    -- The conditions that are asked for, and no others, so that each has the index it needs; and the page first, or
    -- the planner would walk the log beside it.
    return query execute
        'select p.position, p.bucket % $2, substr(p.key, 3), p.state, p.blocking, p.replay, p.attempts, p.error,
                p.message, p.traceback, p.first_failed_at, p.last_failed_at, e.id, e.type, e.stream, e.version, e.data,
                case when e.data is not null then e.metadata end, e.recorded_at
           from (select * from parked p
                  where p.subscription_id = $1 and p.position > $3'
        || case when p_state is null then '' else ' and p.state = $4' end
        || case when p_key is null then '' else ' and p.key in (''s:'' || $5, ''e:'' || lower($5))' end
        || ' order by p.position limit $6) p join events e on e.position = p.position order by p.position'
        using v_id, v_size, coalesce(p_after, 0), p_state, p_key, p_limit;
end
$$;
