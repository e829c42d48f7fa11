-- What is wrong with a selector's list of names, the part called what; null if nothing is.
create function @schema@.names_problem_v1(names jsonb, what text, max_length int) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    if names is null or jsonb_typeof(names) <> 'array' or names = '[]' then
        return what || ' must be a list of strings, and not empty';
    elsif exists (select from jsonb_array_elements(names) n(name)
                   where jsonb_typeof(n.name) <> 'string' or length(n.name #>> '{}') not between 1 and max_length) then
        return what || ' must be text of 1 to ' || max_length || ' characters';
    end if;
    return null;
end
$$;
