-- Seals by number, after p_after.
create function @schema@.list_seals_v1(p_after bigint, p_limit int)
returns table (number bigint, seal text, stored_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.number, s.seal, s.stored_at from seals s where s.number > p_after order by s.number limit p_limit
$$;
