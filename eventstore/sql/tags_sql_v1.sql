-- The boolean SQL expression for one Tags selector at p_path of $1 (see selector_sql_v1, also for p_joined).
-- Each of several tags that are all asked for is a join of its own: the planner starts with the rarest.
create function @schema@.tags_sql_v1(part jsonb, p_path text[], p_joined boolean) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_any constant boolean := coalesce(part ->> 'match' = 'any', false);
    v_count constant int := jsonb_array_length(part -> 'tags');
    v_list constant text := format('text_array_v1($1 #> %L)', p_path || 'tags'::text);
    v_joined constant text :=
        'e.position in (select t.position from event_tags t'
        ' where t.tag = %s and t.position > $2 and t.position <= $3)';
begin
    if not p_joined then
        return format('e.tags %s %s', case when v_any then '&&' else '@>' end, v_list);
    elsif v_any and v_count > 1 then
        return format(v_joined, 'any (' || v_list || ')');
    end if;
    return (select string_agg(format(v_joined, format('($1 #>> %L)', p_path || array['tags', i::text])), ' and '
                              order by i)
              from generate_series(0, least(v_count, 4) - 1) i)
        || case when v_count > 4 then ' and e.tags @> ' || v_list else '' end;
end
$$;
