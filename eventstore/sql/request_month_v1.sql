-- The name of the partition of request_logs that holds the month of p_time, in UTC.
create function @schema@.request_month_v1(p_time timestamptz) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'request_logs_' || to_char(p_time at time zone 'UTC', 'YYYYMM')
$$;
