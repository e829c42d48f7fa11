-- What is known of a stream; no row if nothing is. first_version is the first that readers see, null if they see none.
-- From there to version there are no gaps: scavenging goes from the first version on.
create function @schema@.stream_info_v1(p_stream text)
returns table (
    name text, version bigint, state text, first_version bigint, created_at timestamptz,
    max_age double precision, max_count bigint, truncate_before bigint, metadata json)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select s.name, s.version, s.state,
           (select e.version
              from events e
             where e.stream = s.name and e.version >= first_visible_v1(s.name) and e.data is not null
             order by e.version limit 1),
           s.created_at, s.max_age, s.max_count, s.truncate_before, s.metadata
      from streams s where s.name = p_stream
$$;
