-- Drops the partition of one month of request_logs, if it ended so long before p_now; tells whether it was there.
--
-- Dropping needs request_logs to itself for a moment, and everybody who comes after waits behind it. So it does not wait
-- for long itself: after half a second it gives up (55P03), and is to be called again. One month in one transaction,
-- so that nothing is held longer than one drop takes. The advisory lock, before the table's, is that of
-- ensure_request_month_v1: a month is not made while it is dropped.
--
-- Where there are tenants the month is everybody's: the rows of this one are deleted from it.
create function @schema@.drop_request_month_v1(
    p_name text, p_months int, p_days int, p_now timestamptz default clock_timestamp())
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set lock_timeout = '500ms'
as $$
declare
    v_month timestamptz;
begin
    perform pg_advisory_xact_lock(hashtextextended('eventstore:request_logs:' || @schema_literal@, 0));
    -- Named by the caller, and found among the partitions, whose names are ours: nothing else can be dropped.
    select m.month::timestamp at time zone 'UTC' into v_month
      from request_months_v1(coalesce(p_months, 0), p_days, p_now) m where m.name = p_name;
    if not found then
        return false;
    elsif row_security_active('@schema@.request_logs') then
        delete from request_logs r
         where r.inserted_at >= v_month
           and r.inserted_at < (v_month at time zone 'UTC' + interval '1 month') at time zone 'UTC';
        return true;
    end if;
    execute format('drop table %I.%I', @schema_literal@, p_name);
    return true;
end
$$;
