-- The partitions of request_logs, the oldest month first: how many rows (as the statistics estimate), and bytes.
--
--   p_months, p_days   only months that ended at least so long before p_now; null: all
--
-- The partitions are found first (materialized) and their names looked at before the month is read from them: a
-- condition on the month alone may be asked of every relation there is, and to_date fails for most of their names. One
-- that somebody attached under another name is not ours to drop, and is left out.
--
-- Where there are tenants, a month is what this one has of it, its rows counted and measured themselves.
create function @schema@.request_months_v1(
    p_months int default null, p_days int default null, p_now timestamptz default clock_timestamp())
returns table (name text, month date, requests bigint, bytes bigint)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with parts as materialized (
        select c.oid, c.relname::text as name, greatest(c.reltuples, 0)::bigint as requests
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'request_logs'::regclass
    ), months as materialized (
        select p.oid, p.name, p.requests,
               case when p.name ~ '^request_logs_[0-9]{6}$' then to_date(right(p.name, 6), 'YYYYMM') end as month
          from parts p
    )
    select m.name, m.month, case when t.apart then o.requests else m.requests end,
           case when t.apart then o.bytes else pg_total_relation_size(m.oid) end
      from months m
     cross join (select row_security_active('request_logs'::regclass) offset 0) t(apart)
     cross join lateral (select count(*) as requests, sum(pg_column_size(r))::bigint as bytes
                           from request_logs r
                          where t.apart and r.inserted_at >= m.month::timestamp at time zone 'UTC'
                            and r.inserted_at < (m.month + interval '1 month') at time zone 'UTC') o
     where m.month is not null and (o.requests > 0 or not t.apart)
       and (coalesce(p_months, p_days) is null
            or (m.month + interval '1 month') at time zone 'UTC'
                   <= p_now - make_interval(months => coalesce(p_months, 0), days => coalesce(p_days, 0)))
     order by m.month
$$;
