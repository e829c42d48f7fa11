-- Streams in name order whose name starts with p_prefix, after the name p_after, as stream_info_v1 tells of them: those
-- with events that are live. p_all: also the deleted, those closed for good, and names that have settings alone.
create function @schema@.list_streams_v1(
    p_prefix text default '', p_after text default '', p_limit int default 500, p_all boolean default false)
returns table (
    name text, version bigint, state text, first_version bigint, created_at timestamptz,
    max_age double precision, max_count bigint, truncate_before bigint, metadata json)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select i.*
      from (select s.name
              from streams s
             where (p_all or s.state = 'live' and s.version > 0) and s.name > p_after
               -- An upper end as well, or the last page would walk all names behind the prefix. Names have 512
               -- characters at most, and this is the greatest that can stand there.
               and s.name >= p_prefix and s.name <= p_prefix || repeat(chr(1114111), 512)
               and starts_with(s.name, p_prefix)
             order by s.name limit p_limit) n
     cross join lateral stream_info_v1(n.name) i
     order by i.name collate "C"
$$;
