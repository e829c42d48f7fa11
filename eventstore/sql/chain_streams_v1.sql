-- Streams by name, after p_after, whose row and events tell different things: where it says it ends and where its events
-- end, or a bucket that is not its name's. Looks at p_limit streams; the last row names the last one looked at (last).
create function @schema@.chain_streams_v1(p_after text, p_limit int)
returns table (stream text, version bigint, ends bigint, bucket_fits boolean, last boolean)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select l.name, l.version, l.ends, l.bucket_fits, l.last
      from (select s.name, s.version, coalesce(m.version, 0) as ends, s.bucket = bucket_v1(s.name) as bucket_fits,
                   s.name = max(s.name) over () as last
              from (select * from streams o where o.name > p_after order by o.name limit p_limit) s
              left join lateral (select e.version from events e where e.stream = s.name
                                  order by e.version desc limit 1) m on true) l
     where l.last or l.version <> l.ends or not l.bucket_fits
     order by l.name
$$;
