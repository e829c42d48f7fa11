-- A selector as a boolean SQL expression over a row e of events; null counts as false. For
--
--   execute 'select … from events e where e.position > $2 and e.position <= $3 and (' || selector_sql_v1(s) || ')'
--       using s, after, upto
--
-- inside functions that pin their search_path to pg_catalog and this schema. The text consists of fixed fragments,
-- names of record fields, and paths of fixed keys and numbers into $1: no value of a user ever becomes SQL. It is
-- planned with $1 known, so functions of $1 fold to constants, and streams, types, tags and the prefix of a glob can
-- use an index. Refuses (ES005) what is no selector. p_path leads to the part to compile; the rest of $1 is left alone.
--
-- Tags are looked up in event_tags, which needs the bounds $2 and $3 said again: the planner carries equalities across
-- a join, not inequalities. p_joined is false below an "or", where a look-up would be no join but a list of every
-- event with the tag, made anew for each page; there the event's own column decides, as it does beyond four tags.
create function @schema@.selector_sql_v1(selector jsonb, p_path text[] default '{}', p_joined boolean default true)
returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_part constant jsonb := selector #> p_path;
    v_kind constant text := v_part ->> 'kind';
    v_problem constant text := case when p_path = '{}' then selector_problem_v1(selector) end;
begin
    if v_problem is not null then
        raise exception 'invalid selector: %', v_problem using errcode = 'ES005';
    end if;
    return case
        when v_kind = 'all' then 'true'
        when v_kind = 'stream' then format('e.stream = ($1 #>> %L)', p_path || 'stream'::text)
        when v_kind = 'event_type' and jsonb_array_length(v_part -> 'types') = 1 then
            format('e.type = ($1 #>> %L)', p_path || '{types,0}'::text[])
        when v_kind = 'event_type' then format('e.type = any (text_array_v1($1 #> %L))', p_path || 'types'::text)
        when v_kind = 'tags' then tags_sql_v1(v_part, p_path, p_joined)
        when v_kind = 'event_payload' then
            pattern_sql_v1('e.data::jsonb', v_part -> 'pattern', format('$1 #> %L', p_path || 'pattern'::text))
        when v_part ? 'glob' then format('e.stream like glob_like_v1($1 #>> %L)', p_path || 'glob'::text)
        when v_kind = 'event_pattern' then
            coalesce((select string_agg(record_sql_v1(f.name, f.part, p_path || array['pattern', f.name]), ' and ')
                        from jsonb_each(v_part -> 'pattern') f(name, part)), 'true')
        else
            (select string_agg('(' || selector_sql_v1(selector, p_path || array['of', i::text], p_joined and v_kind = 'and')
                               || ')',
                               ' ' || v_kind || ' ' order by i)
               from generate_series(0, jsonb_array_length(v_part -> 'of') - 1) i)
        end;
end
$$;
