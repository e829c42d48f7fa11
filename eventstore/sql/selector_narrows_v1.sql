-- Whether an index leads to the events of a selector, so that looking for few of them does not mean looking at all:
-- a stream, a type, a tag, the beginning of a glob; of "and" one part is enough, of "or" it takes every part.
create function @schema@.selector_narrows_v1(selector jsonb) returns boolean
language plpgsql immutable parallel safe security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    return case
        when selector ->> 'kind' in ('stream', 'event_type', 'tags') then true
        when selector ->> 'kind' = 'and' then
            (select bool_or(selector_narrows_v1(o.part)) from jsonb_array_elements(selector -> 'of') o(part))
        when selector ->> 'kind' = 'or' then
            (select bool_and(selector_narrows_v1(o.part)) from jsonb_array_elements(selector -> 'of') o(part))
        when selector ? 'glob' then selector ->> 'glob' !~ '^[*?]'
        when selector ->> 'kind' = 'event_pattern' then
            'string' in (jsonb_typeof(selector #> '{pattern,stream}'), jsonb_typeof(selector #> '{pattern,type}'))
        else false
        end;
end
$$;
