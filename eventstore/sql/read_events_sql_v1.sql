-- The statement that read_events_v1 executes, and that tests explain: one text for both. Its parameters:
--
--   $1 selector   $2, $3 positions after and up to which to look   $4, $5 since, until   $6, $7 share   $8 limit
--
-- Only the selector, and which of the others are null, decide the text; no value becomes part of it. It is planned
-- with the values known. What scavenging left of an event (data is null) is no event any more.
--
-- Of "a | b" where an index leads to each part, each part is a query of its own, with the order and the limit of the
-- whole, so that each has the plan it would have alone; as one condition they could not use event_tags at all.
create function @schema@.read_events_sql_v1(
    p_selector jsonb, p_since timestamptz, p_until timestamptz, p_backwards boolean, p_modulus int) returns text
language plpgsql immutable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_where constant text := 'e.position > $2 and e.position <= $3 and e.data is not null'
        || case when p_since is null then '' else ' and e.recorded_at >= $4' end
        || case when p_until is null then '' else ' and e.recorded_at < $5' end
        || case when p_modulus is null then '' else ' and e.bucket % $6 = $7' end;
    v_order constant text := ' order by e.position' || case when p_backwards then ' desc' else '' end || ' limit $8';
    v_selected constant text := case when p_selector is not null then selector_sql_v1(p_selector) end;
    v_parts constant bigint := case when p_selector ->> 'kind' = 'or' then jsonb_array_length(p_selector -> 'of') end;
begin
    return 'select e.id, e.type, e.data, e.metadata, e.tags, e.stream, e.version, e.position, e.bucket, e.created_at,
                   e.recorded_at, null::bigint, null::bigint, null::bigint
              from events e where '
        || case
           when p_selector is null then v_where
           when v_parts <= 32 and selector_narrows_v1(p_selector) then
               'e.position in (select u.position from ('
               || (select string_agg('(select e.position from events e where ' || v_where || ' and '
                                     || selector_sql_v1(p_selector, array['of', i::text]) || v_order || ')',
                                     ' union all ' order by i)
                     from generate_series(0, v_parts - 1) i)
               || ') u)'
           else v_where || ' and (' || v_selected || ')'
           end
        || v_order;
end
$$;
