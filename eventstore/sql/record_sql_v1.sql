-- The boolean SQL expression for one field of an EventPattern; p_path leads to its pattern in $1 (see selector_sql_v1).
-- A plain type or stream is compared as the column itself, so that an index can serve it.
create function @schema@.record_sql_v1(field text, pattern jsonb, p_path text[]) returns text
language sql immutable parallel safe
set search_path = pg_catalog, @schema@, pg_temp
as $$
    select case
        when $1 in ('type', 'stream') and jsonb_typeof($2) = 'string' then format('e.%s = ($1 #>> %L)', $1, $3)
        else pattern_sql_v1(
            case
            when $1 in ('data', 'metadata') then 'e.' || $1 || '::jsonb'
            when $1 in ('id', 'type', 'position', 'tags') then 'to_jsonb(e.' || $1 || ')'
            -- An event without a stream has null in its record, which is there, not missing.
            when $1 in ('stream', 'version') then 'coalesce(to_jsonb(e.' || $1 || '), ''null'')'
            when $1 in ('created_at', 'recorded_at') then
                'to_jsonb(to_char(e.' || $1 || ' at time zone ''UTC'', ''YYYY-MM-DD"T"HH24:MI:SS.US"Z"''))'
            end,
            $2, format('$1 #> %L', $3))
        end
$$;
