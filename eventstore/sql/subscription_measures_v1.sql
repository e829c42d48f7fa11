-- What is measured of each subscription, and a closing row (name null) with the sums over all of them.
--
--   p_most      rows at most: first those with halted, unowned (but for want of a handler) or parked ones, then those
--               furthest behind, then by name
--   p_at_head   false leaves out those that are at the horizon and have none of these
--   behind      positions between the checkpoint of its last partition and the horizon p_head, matching or not
--   seconds     age of the first event after that checkpoint, matching or not; 0 if there is none
--   unowned     partitions that no live node runs, and that are neither halted nor paused, as everywhere
--   unhandled   of these, those for which no live node has a handler
--   parked      events set aside, and neither replayed nor discarded; replaying: of those, about to be delivered again
--   sums        closing row: {"subscriptions": {state: count}, "partitions": {...}, "parked": {...}}
--
-- Everything is read once: at ten thousand subscriptions a hash join costs less than the probes of any index. The log is
-- looked at once for each position that checkpoints stand at, however many stand there.
create function @schema@.subscription_measures_v1(
    p_head bigint, p_most int default 1000, p_at_head boolean default true,
    p_now timestamptz default clock_timestamp())
returns table (
    name text, paused boolean, behind bigint, seconds double precision, halted int, unowned int, unhandled int,
    parked bigint, replaying bigint, sums json)
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with handled as materialized (
        select distinct h.subscription_id
          from node_subscriptions h join nodes n on n.incarnation = h.incarnation and n.lease_until > p_now
    ), places as materialized (
        select s.id, min(c.position) as position, count(c.halted)::int as halted,
               (count(*) filter (where c.halted is null and n.incarnation is null))::int as free, count(*)::int as parts
          from subscriptions s
          join checkpoints c on c.subscription_id = s.id and c.partition < s.pool_size
          left join nodes n on n.incarnation = c.owner and n.lease_until > p_now
         group by s.id
    ), aside as materialized (
        select p.subscription_id, count(*) as parked, count(*) filter (where p.replay) as replaying
          from parked p where p.state = 'parked' group by p.subscription_id
    ), found as materialized (
        select s.name, s.state = 'paused' as paused, l.position, l.halted, l.parts,
               case when s.state = 'active' then l.free else 0 end as unowned,
               case when s.state = 'active' and h.subscription_id is null then l.free else 0 end as unhandled,
               coalesce(a.parked, 0) as parked, coalesce(a.replaying, 0) as replaying
          from subscriptions s
          join places l on l.id = s.id
          left join handled h on h.subscription_id = s.id
          left join aside a on a.subscription_id = s.id
    ), shown as materialized (
        select f.*, f.halted + f.unowned - f.unhandled + f.parked > 0 as troubled
          from found f
         where p_at_head or f.position < p_head or f.halted + f.unowned - f.unhandled + f.parked > 0
         order by troubled desc, f.position, f.name limit p_most
    ), ages as materialized (
        select d.position, greatest(0, extract(epoch from p_now - n.recorded_at))::double precision as seconds
          from (select distinct o.position from shown o where o.position < p_head) d
         cross join lateral (select e.recorded_at from events e where e.position > d.position and e.position <= p_head
                              order by e.position limit 1) n
    )
    (select o.name, o.paused, greatest(0, p_head - o.position), coalesce(a.seconds, 0), o.halted, o.unowned,
            o.unhandled, o.parked, o.replaying, null::json
       from shown o left join ages a on a.position = o.position
      order by o.troubled desc, o.position, o.name)
    union all
    select null, null, null, null, null, null, null, null, null, json_build_object(
               'subscriptions', json_build_object('active', count(*) filter (where not f.paused),
                                                  'paused', count(*) filter (where f.paused)),
               'partitions', json_build_object(
                   'running', coalesce(sum(f.parts - f.halted - f.unowned) filter (where not f.paused), 0),
                   'unowned', coalesce(sum(f.unowned), 0),
                   'halted', coalesce(sum(f.halted), 0),
                   'paused', coalesce(sum(f.parts - f.halted) filter (where f.paused), 0)),
               'unowned', json_build_object('unhandled', coalesce(sum(f.unhandled), 0)),
               'parked', json_build_object('waiting', coalesce(sum(f.parked - f.replaying), 0),
                                           'replaying', coalesce(sum(f.replaying), 0)))
      from found f
$$;
