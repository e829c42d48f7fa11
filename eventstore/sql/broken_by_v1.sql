-- The first position that breaks an append condition, null if none does. Called with the condition's stripes held, in a
-- statement of its own, so that it sees every matching event there is.
-- Each item is one probe of one index from "after" on, whatever the size of the log. Scavenged events do not count.
-- These statements are planned once for all values, which must not make the planner prefer another way for a value that
-- it does not know: hence the comparison of rows, which only (type, position) serves, and the fences (offset 0).
create function @schema@.broken_by_v1(p_condition jsonb) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
as $$
declare
    v_after constant bigint := coalesce((p_condition ->> 'after')::numeric::bigint, 0);
    v_item jsonb;
    v_stream text;
    v_types text[];
    v_tags text[];
    v_tag text;
    v_version bigint;
    v_found bigint;
    v_first bigint;
begin
    for v_item in select i.item from jsonb_array_elements(p_condition -> 'items') i(item) loop
        v_stream := v_item ->> 'stream';
        v_types := text_array_v1(v_item -> 'types');
        v_tags := text_array_v1(v_item -> 'tags');
        if v_tags is not null and v_types is null and v_stream is null and cardinality(v_tags) = 1 then
            select t.position into v_found
              from event_tags t where t.tag = v_tags[1] and t.position > v_after order by t.position limit 1;
        elsif v_tags is not null then
            v_tag := rarest_tag_v1(v_tags);
            select t.position into v_found
              from event_tags t cross join lateral (
                   select from events e
                    where e.position = t.position and e.tags @> v_tags
                      and (v_types is null or e.type = any (v_types)) and (v_stream is null or e.stream = v_stream)
                   offset 0) e
             where t.tag = v_tag and t.position > v_after
             order by t.position limit 1;
        elsif v_stream is not null then
            v_version := version_after_v1(v_stream, v_after);
            select e.position into v_found
              from (select s.position, s.type, s.data from events s
                     where s.stream = v_stream and s.version >= v_version order by s.version offset 0) e
             where e.data is not null and (v_types is null or e.type = any (v_types))
             limit 1;
        elsif v_types is not null then
            select min(f.position) into v_found
              from unnest(v_types) t(type) cross join lateral (
                   select e.type, e.position from events e
                    where (e.type, e.position) > (t.type, v_after) and e.data is not null
                    order by e.type, e.position limit 1) f
             where f.type = t.type;
        else
            select e.position into v_found
              from events e where e.position > v_after and e.data is not null order by e.position limit 1;
        end if;
        v_first := least(v_first, v_found);
    end loop;
    return v_first;
end
$$;
