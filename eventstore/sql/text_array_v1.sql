-- A JSON array of strings as text[]. Immutable, so that a plan made for one selector folds it to a constant, which
-- indexes on arrays can serve; a subquery in its place could not be folded.
create function @schema@.text_array_v1(items jsonb) returns text[]
language sql immutable strict parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select array(select i.item from jsonb_array_elements_text($1) with ordinality i(item, ord) order by i.ord)
$$;
