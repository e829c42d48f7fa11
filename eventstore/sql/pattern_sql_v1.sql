-- The boolean SQL expression that tells whether the jsonb expression value matches the pattern; source is the
-- expression by which the running text finds the pattern again, since nothing of the pattern is put into the text.
--
-- Compiled, because a function that walks the pattern for every row takes four times as long. A pattern of only keys
-- and scalars is just what @> tests; one with arrays is not, since @> takes arrays for sets. "offset 0" keeps the
-- planner from writing value, a parse of the whole text, once for every check.
create function @schema@.pattern_sql_v1(value text, pattern jsonb, source text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_checks constant jsonb := pattern_checks_v1(pattern);
begin
    if jsonb_typeof(pattern) = 'object' and not exists (
        select from jsonb_array_elements(v_checks) c(item)
         where c.item ->> 'check' like '$%' or jsonb_typeof(c.item -> 'operand') = 'array') then
        return value || ' @> (' || source || ')';
    end if;
    return '(select '
        || (select string_agg(check_sql_v1(c.item, format('pattern_checks_v1(%s) -> %s', source, c.ord - 1)), ' and '
                              order by c.ord)
              from jsonb_array_elements(v_checks) with ordinality c(item, ord))
        || ' from (select ' || value || ' as x offset 0) as v)';
end
$$;
