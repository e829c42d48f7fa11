-- What is wrong with a selector: the rules of selectors.py, for those who pass selectors from SQL; null if nothing is.
create function @schema@.selector_problem_v1(selector jsonb, depth int default 1) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_kind constant text := selector ->> 'kind';
    v_record constant text[] := '{id,stream,version,position,type,data,metadata,tags,created_at,recorded_at}';
    v_fields constant text[] := case v_kind
        when 'all' then '{}'
        when 'stream' then '{stream}'
        when 'event_type' then '{types}'
        when 'tags' then '{tags,match}'
        when 'event_pattern' then case when selector ? 'glob' then '{glob}' else '{pattern}' end
        when 'event_payload' then '{pattern}'
        when 'and' then '{of}'
        when 'or' then '{of}'
        end;
    v_pattern constant jsonb := selector -> 'pattern';
    v_part jsonb;
    v_unknown text;
    v_problem text;
begin
    if v_fields is null then
        return 'a selector is an object with a kind: all, stream, event_type, event_pattern, event_payload, tags, '
            || 'and, or';
    elsif depth > 64 then
        return 'nested deeper than 64';
    end if;
    v_unknown := (select min(k.key) from jsonb_object_keys(selector) k(key)
                   where k.key <> all (v_fields || 'kind'::text));
    if v_unknown is not null then
        return v_kind || ' has no field ' || v_unknown;
    elsif v_kind = 'stream' or selector ? 'glob' then
        return names_problem_v1(jsonb_build_array(selector -> v_fields[1]), v_fields[1], 512);
    elsif v_kind in ('event_type', 'tags') then
        return coalesce(
            names_problem_v1(selector -> v_fields[1], v_fields[1], case v_kind when 'tags' then 256 else 512 end),
            case when selector -> 'match' not in ('"all"', '"any"') then 'match must be all or any' end);
    elsif v_kind in ('event_pattern', 'event_payload') then
        if jsonb_typeof(v_pattern) is distinct from 'object' then
            return 'pattern must be an object';
        elsif v_kind = 'event_pattern' then
            v_unknown := (select min(k.key) from jsonb_object_keys(v_pattern) k(key) where k.key <> all (v_record));
        end if;
        return coalesce('events have no field ' || v_unknown, json_problem_v1(v_pattern::text),
                        pattern_problem_v1(v_pattern, 'pattern'));
    elsif v_kind in ('and', 'or') then
        if jsonb_typeof(selector -> 'of') is distinct from 'array' or selector -> 'of' = '[]' then
            return 'of must be a list of selectors, and not empty';
        end if;
        for v_part in select o.part from jsonb_array_elements(selector -> 'of') o(part) loop
            v_problem := selector_problem_v1(v_part, depth + 1);
            exit when v_problem is not null;
        end loop;
        return v_problem;
    end if;
    return null;
end
$$;
