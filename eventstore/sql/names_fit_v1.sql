-- Whether a JSON value is a list of names, and not empty.
create function @schema@.names_fit_v1(names jsonb) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when jsonb_typeof(names) = 'array' then names <> '[]' and not exists (
               select from jsonb_array_elements(names) n(name)
                where jsonb_typeof(n.name) <> 'string' or n.name = '""') else false end
$$;
