-- How many events one subscription has set aside, in one row, and the database's time, by which leases are judged.
--
--   replaying    of the parked ones, those about to be delivered again
--   oldest_ago   seconds since the first of the parked ones failed first; null: none is parked
create function @schema@.set_aside_v1(
    p_name text, out at timestamptz, out parked bigint, out replaying bigint, out skipped bigint, out discarded bigint,
    out oldest_ago double precision)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_id constant bigint := find_subscription_v1(p_name);
begin
    at := clock_timestamp();
    select count(*) filter (where p.state = 'parked'), count(*) filter (where p.state = 'parked' and p.replay),
           count(*) filter (where p.state = 'skipped'), count(*) filter (where p.state = 'discarded'),
           extract(epoch from at - min(p.first_failed_at) filter (where p.state = 'parked'))::double precision
      into parked, replaying, skipped, discarded, oldest_ago
      from parked p where p.subscription_id = v_id;
end
$$;
