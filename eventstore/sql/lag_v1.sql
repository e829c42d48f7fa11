-- How far the partitions of one subscription, or of all, are behind: in positions up to the horizon, and in the age of
-- the first event after the checkpoint (0 if there is none), whether or not the selector wants it.
--
-- One look at the horizon, and one at the log for each position that checkpoints stand at, however many stand there.
create function @schema@.lag_v1(p_name text default null, p_now timestamptz default clock_timestamp())
returns table (
    name text, partition int, checkpoint bigint, head bigint, behind bigint, seconds double precision)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_only constant bigint := case when p_name is not null then find_subscription_v1(p_name) end;
    v_head constant bigint := (select h.horizon from horizon_v1() h);
begin
    return query
    with places as materialized (
        select s.name, c.partition, c.position
          from subscriptions s join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
         where v_only is null or s.id = v_only
    ), ages as materialized (
        select d.position, extract(epoch from p_now - n.recorded_at)::double precision as seconds
          from (select distinct l.position from places l where l.position < v_head) d
         cross join lateral (select e.recorded_at from events e where e.position > d.position and e.position <= v_head
                              order by e.position limit 1) n
    )
    select l.name, l.partition, l.position, v_head, greatest(0, v_head - l.position),
           greatest(0, coalesce(a.seconds, 0))
      from places l left join ages a on a.position = l.position
     order by l.name, l.partition;
end
$$;
