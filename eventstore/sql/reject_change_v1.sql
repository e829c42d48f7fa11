-- Trigger function: the log is append-only, also for its owner and for TRUNCATE.
create function @schema@.reject_change_v1() returns trigger
language plpgsql
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    raise exception '% of % is refused: the log is append-only', tg_op, tg_table_name using errcode = 'ES009';
end
$$;
