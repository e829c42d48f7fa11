-- The first result of an append whose event ids are stored already; ES002 unless it is the same append:
-- every id stored, same content, same order, versions without a gap.
create function @schema@.repeated_append_v1(
    p_streams text[], p_stream_no int[], p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[])
returns table (stream text, first_version bigint, version bigint, first_position bigint, "position" bigint,
               idempotent boolean, events bigint)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_same boolean;
begin
    perform check_known_events_v1(p_streams, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags);
    -- Without a stream there is no version, and null does not count.
    select bool_and(o.position is not null and o.in_order) and bool_and(o.version = o.first + o.nth - 1) is not false
      into v_same
      from (select e.position, e.version,
                   e.position > coalesce(lag(e.position) over (order by n.ord), -1) in_order,
                   first_value(e.version) over w as first, row_number() over w as nth
              from unnest(p_ids, p_stream_no) with ordinality n(id, stream_no, ord)
              left join events e on e.id = n.id
            window w as (partition by n.stream_no order by n.ord)) o;
    if not v_same then
        raise exception 'only some of these event ids are stored, or in another order'
            using errcode = 'ES002', detail = (
                select json_agg(e.id order by e.position)::text from events e where e.id = any (p_ids));
    end if;
    return query
        select e.stream, min(e.version), max(e.version), min(e.position), max(e.position), true, count(*)
          from events e where e.id = any (p_ids)
         group by e.stream order by array_position(p_streams, e.stream);
end
$$;
