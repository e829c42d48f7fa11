-- The checks that make up a pattern, as a flat list: [{"path": [key, …], "check": …, "operand": …}, …]; a value
-- matches if all hold. The check is "object" (what lies there must be one), "equal" (to the operand) or an operator.
--
-- The order is that of jsonb and depends on the pattern alone: selector_sql_v1 compiles the n-th check to text that
-- names it by its number, and takes path and operand from the selector when the text runs.
create function @schema@.pattern_checks_v1(pattern jsonb, path jsonb default '[]') returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_checks jsonb := jsonb_build_array(jsonb_build_object('path', path, 'check', 'object'));
    v_key text;
    v_part jsonb;
begin
    if jsonb_typeof(pattern) <> 'object' then
        return jsonb_build_array(jsonb_build_object('path', path, 'check', 'equal', 'operand', pattern));
    elsif exists (select from jsonb_object_keys(pattern) k(key) where k.key like '$%') then
        return (select jsonb_agg(jsonb_build_object('path', path, 'check', p.key, 'operand', p.value))
                  from jsonb_each(pattern) p);
    end if;
    for v_key, v_part in select p.key, p.value from jsonb_each(pattern) p loop
        v_checks := v_checks || pattern_checks_v1(v_part, path || to_jsonb(v_key));
    end loop;
    return v_checks;
end
$$;
