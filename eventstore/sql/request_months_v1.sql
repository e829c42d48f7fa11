-- The partitions of request_logs, the oldest month first: how many rows (as the statistics estimate), and bytes.
--
--   p_months, p_days   only months that ended at least so long before p_now; null: all
create function @schema@.request_months_v1(
    p_months int default null, p_days int default null, p_now timestamptz default clock_timestamp())
returns table (name text, month date, requests bigint, bytes bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select m.name, m.month, m.requests, m.bytes
      from (select c.relname::text as name, to_date(right(c.relname::text, -13), 'YYYYMM') as month,
                   greatest(c.reltuples, 0)::bigint as requests, pg_total_relation_size(c.oid) as bytes
              from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent = 'request_logs'::regclass) m
     where coalesce(p_months, p_days) is null
        or (m.month + interval '1 month') at time zone 'UTC'
               <= p_now - make_interval(months => coalesce(p_months, 0), days => coalesce(p_days, 0))
     order by m.month
$$;
