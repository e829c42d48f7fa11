-- A page of subscriptions, and a closing row (name null) with what all pages together hold.
--
--   p_search    a part of the name, whatever its case; p_prefix: what it begins with
--   p_status    as subscription_states_v1 tells it; null: any
--   p_node      only those of which this incarnation owns a partition
--   p_order     'name'; or the most first: 'behind', 'parked'
--   p_late      seconds after which an event that was not settled makes its subscription 'behind'
--   waited      age in seconds of the first event after the checkpoint
--   running     names of the live nodes that run it, five at most
--   total       closing row: how many fit; counts: how many fit but for p_status, by status; head: the horizon
create function @schema@.subscription_page_v1(
    p_search text default '', p_prefix text default '', p_status text default null, p_node uuid default null,
    p_order text default 'name', p_offset bigint default 0, p_limit int default 50,
    p_late double precision default 60)
returns table (
    name text, status text, selector jsonb, pool_size int, resize_to int, checkpoint bigint, waited double precision,
    parked bigint, halted int, unowned int, running text[], options jsonb, created_at timestamptz,
    total bigint, counts json, head bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_head constant bigint := (select h.horizon from horizon_v1() h);
    v_now constant timestamptz := clock_timestamp();
    v_late constant bigint := place_in_time_v1(v_now - p_late * interval '1 second', v_head);
begin
    return query
    with found as materialized (
        select f.* from subscription_states_v1(v_late, v_now) f
         where starts_with(f.name, p_prefix)
           and (p_search = '' or position(lower(p_search) in lower(f.name)) > 0)
           and (p_node is null or f.id in (select c.subscription_id from checkpoints c where c.owner = p_node))
    ), page as materialized (
        select f.*, row_number() over (order by
                   case p_order when 'behind' then f.checkpoint when 'parked' then -f.parked end, f.name) as place
          from found f
         where p_status is null or f.status = p_status
         order by place offset p_offset limit p_limit
    ), sums as materialized (
        select f.status, count(*) as count from found f group by f.status
    )
    (select p.name, p.status, s.selector, s.pool_size, s.resize_to, p.checkpoint,
            waited_v1(p.checkpoint, v_head, v_now), p.parked, p.halted, p.unowned,
            array(select distinct n.name from checkpoints c join nodes n on n.incarnation = c.owner
                   where c.subscription_id = p.id and n.lease_until > v_now order by 1 limit 5),
            s.options, s.created_at, null::bigint, null::json, null::bigint
       from page p join subscriptions s on s.id = p.id
      order by p.place)
    union all
    select null, null, null, null, null, null, null, null, null, null, null, null, null,
           (select coalesce(sum(n.count), 0)::bigint from sums n where p_status is null or n.status = p_status),
           (select coalesce(json_object_agg(n.status, n.count), '{}') from sums n), v_head;
end
$$;
