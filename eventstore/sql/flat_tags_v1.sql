-- The tags of many events (text[] literals, null = none) one below the other, each beside the number of its event, in
-- their order. Parsing the literals is much of what tags cost, so an append does it here once.
create function @schema@.flat_tags_v1(p_tags text[], out tag_events int[], out tags text[])
language sql immutable
as $$
    -- Functions over rows in the select list hand rows on one by one; in the from clause each would be stored first.
    select array_agg(t.event), array_agg(t.tag)
      from (select e.event, unnest(e.tags::text[])
              from (select unnest(p_tags) tags, generate_subscripts(p_tags, 1) event) e
             order by e.event) t(event, tag)
$$;
