-- How many events each subscription has set aside, of those that have any; by name.
--
--   replaying    of the parked ones, those about to be delivered again
--   oldest_ago   seconds since the first of the parked ones failed first
create function @schema@.parked_counts_v1(p_name text default null, p_now timestamptz default clock_timestamp())
returns table (
    name text, parked bigint, replaying bigint, skipped bigint, discarded bigint, oldest_ago double precision)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.name, count(*) filter (where p.state = 'parked'), count(*) filter (where p.state = 'parked' and p.replay),
           count(*) filter (where p.state = 'skipped'), count(*) filter (where p.state = 'discarded'),
           extract(epoch from p_now - min(p.first_failed_at) filter (where p.state = 'parked'))::double precision
      from subscriptions s join parked p on p.subscription_id = s.id
     where p_name is null or s.name = p_name
     group by s.id
     order by s.name
$$;
