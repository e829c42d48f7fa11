-- Refuses (ES005, ES011) what is no append condition:
--
--   {"items": [{"types": ["A", "B"], "tags": ["x", "y"], "stream": "s"}, …], "after": 12}
--
-- An event matches an item if it has one of the types, all of the tags, and is in the stream; a part that is left out
-- asks nothing, {} is every event. It matches the condition if it matches an item and lies after "after" (default 0).
-- These are the queries of dcb.events, with streams added.
create function @schema@.check_condition_v1(p_condition jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_problem text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a conditional append is refused under isolation level %',
                        current_setting('transaction_isolation')
            using errcode = 'ES011',
                  hint = 'Use READ COMMITTED: the condition needs a newer snapshot than its locks.';
    end if;
    if jsonb_typeof(p_condition) <> 'object' or jsonb_typeof(p_condition -> 'items') is distinct from 'array'
       or p_condition -> 'items' = '[]' or p_condition - array['items', 'after'] <> '{}' then
        v_problem := 'it is an object of "items", a list that is not empty, and "after"';
    elsif jsonb_array_length(p_condition -> 'items') > 100 then
        v_problem := 'it has more than 100 items';
    elsif p_condition ? 'after' and (jsonb_typeof(p_condition -> 'after') <> 'number'
          or (p_condition ->> 'after')::numeric not between 0 and 9223372036854775807
          or (p_condition ->> 'after')::numeric % 1 <> 0) then
        v_problem := '"after" is a position';
    else
        select p.problem into v_problem
          from jsonb_array_elements(p_condition -> 'items') i(item)
         cross join lateral (select case
               when jsonb_typeof(i.item) <> 'object' or i.item - array['types', 'tags', 'stream'] <> '{}'
                   then 'an item is an object of "types", "tags" and "stream"'
               when i.item ? 'stream' and (jsonb_typeof(i.item -> 'stream') <> 'string' or i.item ->> 'stream' = '')
                   then '"stream" is a name'
               when i.item ? 'types' and not names_fit_v1(i.item -> 'types')
                    or i.item ? 'tags' and not names_fit_v1(i.item -> 'tags')
                   then '"types" and "tags" are lists of names, and not empty'
               end) p(problem)
         where p.problem is not null limit 1;
    end if;
    if v_problem is null
       and (p_condition ->> 'after')::numeric > pg_sequence_last_value('@schema@.event_positions'::regclass) then
        raise exception 'the log ends before position %, so no condition can hold after it', p_condition ->> 'after'
            using errcode = 'ES006', hint = 'Read again, and take the horizon of that reading.';
    end if;
    if v_problem is not null then
        raise exception 'invalid condition: %', v_problem using errcode = 'ES005';
    end if;
end
$$;
