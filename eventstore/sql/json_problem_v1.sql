-- What makes a JSON text unfit for the log (null if nothing does): NUL, lone surrogates, numbers that are no finite
-- double, integers beyond 4,300 digits, more than 64 levels. Type json checks none of these.
-- Cheap tests on the text decide first, because nearly every payload passes them; only the rest is looked at closely.
create function @schema@.json_problem_v1(value text) returns text
language plpgsql immutable strict
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_bare text;
    v_number text;
begin
    if value ~ '\\u(0000|[dD][89a-fA-F])' then
        begin
            perform value::jsonb;
        exception when others then
            return 'NUL (U+0000) and lone surrogates cannot be stored';
        end;
    end if;
    if length(value) <= 128 and value !~ '[eE]' then
        return null;
    elsif value !~ '[0-9][eE][-+]?[0-9]|[0-9]{255}'
          and length(value) - length(translate(value, '[{', '')) <= 64 then
        return null;
    end if;
    v_bare := regexp_replace(value, '"(\\.|[^"\\])*"', '', 'g');
    for v_number in select (regexp_matches(v_bare, '-?[0-9][0-9.eE+-]*', 'g'))[1] loop
        if v_number !~ '[.eE]' then
            if length(ltrim(v_number, '-')) > 4300 then
                return 'integers beyond 4,300 digits are refused';
            end if;
        else
            begin
                perform v_number::float8;
            exception when numeric_value_out_of_range then
                return 'a number is beyond the range of a double';
            end;
        end if;
    end loop;
    if (select max(d.depth)
          from (select sum(case when b.c in ('[', '{') then 1 else -1 end) over (order by b.ord) depth
                  from regexp_split_to_table(regexp_replace(v_bare, '[^][{}]', '', 'g'), '')
                       with ordinality b(c, ord) where b.c <> '') d) > 64 then
        return 'nested deeper than 64';
    end if;
    return null;
end
$$;
