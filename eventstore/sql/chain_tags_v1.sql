-- Rows of event_tags after a tag and position, up to position p_upto, whose event is missing or does not have the tag.
-- Looks at p_limit rows; the last row names the last one looked at (last).
create function @schema@.chain_tags_v1(p_tag text, p_position bigint, p_upto bigint, p_limit int)
returns table (tag text, "position" bigint, wrong boolean, last boolean)
language sql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select l.tag, l.position, l.wrong, l.last
      from (select t.tag, t.position, t.last,
                   t.position <= p_upto and not exists (
                       select from events e where e.position = t.position and t.tag = any (e.tags)) as wrong
              from (select g.tag, g.position, lead(g.position) over (order by g.tag, g.position) is null as last
                      from (select * from event_tags o where (o.tag, o.position) > (p_tag, p_position)
                             order by o.tag, o.position limit p_limit) g) t) l
     where l.last or l.wrong
     order by l.tag, l.position
$$;
