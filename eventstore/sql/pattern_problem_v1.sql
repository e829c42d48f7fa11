-- What is wrong with a pattern (see selectors.py for the rules), the part called what; null if nothing is.
create function @schema@.pattern_problem_v1(pattern jsonb, what text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_operators constant bigint := (select count(*) from jsonb_object_keys(pattern) k(key) where k.key like '$%');
    v_key text;
    v_part jsonb;
    v_problem text;
begin
    if v_operators not in (0, (select count(*) from jsonb_object_keys(pattern))) then
        return what || ': mixes operators with plain keys';
    end if;
    for v_key, v_part in select p.key, p.value from jsonb_each(pattern) p loop
        v_problem := case
            when v_operators > 0 and v_key not in ('$eq', '$ne', '$gt', '$gte', '$lt', '$lte', '$in', '$exists')
                then 'unknown operator'
            when v_key = '$in' and jsonb_typeof(v_part) <> 'array' then 'needs a list'
            when v_key = '$exists' and jsonb_typeof(v_part) <> 'boolean' then 'needs true or false'
            end;
        if v_problem is not null then
            return what || '.' || v_key || ': ' || v_problem;
        elsif v_operators = 0 and jsonb_typeof(v_part) = 'object' then
            v_problem := pattern_problem_v1(v_part, what || '.' || v_key);
            if v_problem is not null then
                return v_problem;
            end if;
        end if;
    end loop;
    return null;
end
$$;
