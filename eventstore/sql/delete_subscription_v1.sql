-- Deletes a subscription and its checkpoints; false if there is none. Ids are never used again, so a node that still
-- runs it settles nothing from now on.
create function @schema@.delete_subscription_v1(p_name text) returns boolean
language sql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    with gone as (delete from subscriptions s where s.name = p_name returning s.id)
    select exists (select from gone)
$$;
