-- The stripes that a condition holds exclusively, see lock_stripes_v1.
create function @schema@.condition_stripes_v1(p_condition jsonb) returns setof int
language sql immutable
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select case
               when i.item ? 'tags' then stripe_v1(1, i.item #>> '{tags,0}')
               when i.item ? 'stream' then stripe_v1(3, i.item ->> 'stream')
               when i.item ? 'types' then stripe_v1(2, t.type)
               else 128
           end
      from jsonb_array_elements(p_condition -> 'items') i(item)
      left join lateral jsonb_array_elements_text(
               case when not i.item ?| array['tags', 'stream'] then i.item -> 'types' end) t(type) on true
$$;
