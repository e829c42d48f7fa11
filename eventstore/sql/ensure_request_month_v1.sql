-- Makes sure that request_logs has a partition for the month of p_time.
--
-- Where it is missing, one transaction makes it and the others wait for its commit at the advisory lock, then find it;
-- each partition is created once, and nobody fails. The lock comes before any lock on request_logs, and is released by
-- the commit, so nobody waits for it while holding what its holder needs. The new table is made on its own and then
-- attached, which readers and writers of other months do not wait for; CREATE TABLE … PARTITION OF would lock them out.
--
-- Whoever stores requests says when they were, and each month is a table that everybody's queries plan with. So there is
-- an end to them: none is made before 2000, nor for more than a year from now (ES006).
create function @schema@.ensure_request_month_v1(p_time timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_first constant timestamptz := date_trunc('month', p_time, 'UTC');
    v_name constant text := request_month_v1(p_time);
    v_table constant text := format('%I.%I', @schema_literal@, v_name);
begin
    if to_regclass(v_table) is not null then
        return;
    end if;
    if (p_time between '2000-01-01 00:00+00' and clock_timestamp() + interval '1 year') is not true then
        raise exception 'requests of % are not stored: before 2000, or more than a year from now', p_time
            using errcode = 'ES006', hint = 'Correct the clock that the time comes from.';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('eventstore:request_logs:' || @schema_literal@, 0));
    -- By a query, in a statement of its own: what to_regclass remembers may be from before the wait.
    if exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = @schema_literal@ and c.relname = v_name::name) then
        return;
    end if;
    execute format('create table %s (like request_logs including defaults including constraints)', v_table);
    execute format('alter table request_logs attach partition %s for values from (%L) to (%L)',
        v_table, v_first, (v_first at time zone 'UTC' + interval '1 month') at time zone 'UTC');
end
$$;
