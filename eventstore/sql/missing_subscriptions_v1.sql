-- Those of the names that no subscription has.
create function @schema@.missing_subscriptions_v1(p_names text[]) returns setof text
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select n.name from unnest(p_names) n(name)
     where not exists (select from subscriptions s where s.name = n.name collate "C")
$$;
