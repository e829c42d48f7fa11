-- The LIKE pattern of a stream glob: * and ? become % and _, and what LIKE would take for more than itself is escaped.
-- Immutable, so that a plan made for one glob folds it to a constant and the index on the stream serves its prefix.
create function @schema@.glob_like_v1(glob text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select translate(replace(replace(replace($1, '\', '\\'), '%', '\%'), '_', '\_'), '*?', '%_')
$$;
