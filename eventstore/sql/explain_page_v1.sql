-- The plan of the statement that read_events_v1 would execute for such a page, as EXPLAIN gives it; nothing is executed.
create function @schema@.explain_page_v1(
    p_selector jsonb, p_after bigint, p_upto bigint, p_modulus int default null, p_remainder int default null,
    p_limit int default 500)
returns json
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_plan json;
begin
    execute 'explain (format json) ' || read_events_sql_v1(p_selector, null, null, false, p_modulus)
        into v_plan
        using p_selector, p_after, p_upto, null::timestamptz, null::timestamptz, p_modulus, p_remainder, p_limit;
    return v_plan;
end
$$;
