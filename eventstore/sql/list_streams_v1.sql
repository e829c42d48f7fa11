-- Streams in name order whose name starts with p_prefix, after the name p_after.
create function @schema@.list_streams_v1(p_prefix text default '', p_after text default '', p_limit int default 500)
returns table (name text, version bigint, created_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.name, s.version, s.created_at
      from streams s
     where s.version > 0 and s.name > p_after and s.name >= p_prefix and starts_with(s.name, p_prefix)
     order by s.name limit p_limit
$$;
