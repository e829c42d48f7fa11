-- Trigger function: the log is append-only, also for its owner and for TRUNCATE. The one change there is, of a hidden
-- event into its stub, is what stub_event_v1 and stub_tags_v1 let pass.
create function @schema@.reject_change_v1() returns trigger
language plpgsql
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    raise exception '% of % is refused: the log is append-only', tg_op, tg_table_name using errcode = 'ES009';
end
$$;
