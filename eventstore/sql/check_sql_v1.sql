-- One check of pattern_checks_v1 as a boolean SQL expression over the jsonb column x; source is the expression by which
-- the running text finds the check again.
--
-- SQL may evaluate what AND joins in any order, so no expression relies on another one having held: values of any type
-- can be compared as jsonb, and text of them can be taken, without an error.
create function @schema@.check_sql_v1(item jsonb, source text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_check constant text := item ->> 'check';
    v_type constant text := jsonb_typeof(item -> 'operand');
    v_value constant text := '(x #> text_array_v1(' || source || ' -> ''path''))';
    v_operand constant text := '(' || source || ' -> ''operand'')';
    v_operator constant text :=
        case v_check when '$gt' then '>' when '$gte' then '>=' when '$lt' then '<' when '$lte' then '<=' end;
begin
    return case
        when v_check = 'object' then format('jsonb_typeof(%s) = ''object''', v_value)
        when v_check in ('equal', '$eq') then v_value || ' = ' || v_operand
        when v_check = '$ne' then
            format('jsonb_typeof(%1$s) = jsonb_typeof(%2$s) and %1$s <> %2$s', v_value, v_operand)
        when v_check = '$in' then format('%s = any (array(select jsonb_array_elements(%s)))', v_value, v_operand)
        when v_check = '$exists' then
            v_value || case item -> 'operand' when 'true' then ' is not null' else ' is null' end
        when v_type = 'number' then
            format('jsonb_typeof(%1$s) = ''number'' and %1$s %3$s %2$s', v_value, v_operand, v_operator)
        when v_type = 'string' then
            format('jsonb_typeof(%1$s) = ''string'' and (%1$s #>> ''{}'') collate "C" %3$s (%2$s #>> ''{}'')',
                   v_value, v_operand, v_operator)
        else 'false'
        end;
end
$$;
