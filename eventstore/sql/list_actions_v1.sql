-- What operators did, newest first; p_subject null: to anything; p_before: only lower numbers; p_limit null: all.
create function @schema@.list_actions_v1(
    p_subject text default null, p_before bigint default null, p_limit int default 50)
returns table (
    id bigint, at timestamptz, who text, via text, role text, action text, subject text, arguments json, outcome text,
    error text, finished_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select a.id, a.at, a.who, a.via, a.role, a.action, a.subject, a.arguments, a.outcome, a.error, a.finished_at
      from operator_actions a
     where (p_subject is null or a.subject = p_subject) and (p_before is null or a.id < p_before)
     order by a.id desc limit p_limit
$$;
