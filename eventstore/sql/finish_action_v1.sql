-- Note how an action ended, 'done' or 'failed', once; false if that is noted already, or there is no such action.
create function @schema@.finish_action_v1(p_id bigint, p_outcome text, p_error text default null) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    update operator_actions a
       set outcome = p_outcome, error = left(p_error, 2000), finished_at = clock_timestamp()
     where a.id = p_id and a.outcome = 'begun';
    return found;
end
$$;
