-- Note what an operator is about to do, and return its number for finish_action_v1. Beside the name that is given
-- stands the role that the session was opened as, which nobody can choose freely.
create function @schema@.begin_action_v1(
    p_who text, p_via text, p_action text, p_subject text, p_arguments json default '{}') returns bigint
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    insert into operator_actions (who, via, action, subject, arguments)
    values (p_who, p_via, p_action, p_subject, p_arguments)
    returning id
$$;
