-- The first position that breaks an append condition, null if none does. Called with the condition's stripes held, in a
-- statement of its own, so that it sees every matching event there is.
-- Each item is one probe of one index from "after" on, whatever the size of the log. Scavenged events do not count.
create function @schema@.broken_by_v1(p_condition jsonb) returns bigint
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_after constant bigint := coalesce((p_condition ->> 'after')::numeric::bigint, 0);
    v_item jsonb;
    v_stream text;
    v_types text[];
    v_tags text[];
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
            select t.position into v_found
              from event_tags t join events e on e.position = t.position
             where t.tag = v_tags[1] and t.position > v_after and e.tags @> v_tags
               and (v_types is null or e.type = any (v_types)) and (v_stream is null or e.stream = v_stream)
             order by t.position limit 1;
        elsif v_stream is not null then
            -- The last event tells nearly always; only a condition that fails, or may, walks the stream.
            select e.position into v_found
              from events e where e.stream = v_stream order by e.version desc limit 1;
            if v_found > v_after then
                select e.position into v_found
                  from events e
                 where e.stream = v_stream and e.position > v_after and e.data is not null
                   and (v_types is null or e.type = any (v_types))
                 order by e.version limit 1;
            else
                v_found := null;
            end if;
        elsif v_types is not null then
            select min(f.position) into v_found
              from unnest(v_types) t(type) cross join lateral (
                   select e.position from events e
                    where e.type = t.type and e.position > v_after and e.data is not null
                    order by e.position limit 1) f;
        else
            select e.position into v_found
              from events e where e.position > v_after and e.data is not null order by e.position limit 1;
        end if;
        v_first := least(v_first, v_found);
    end loop;
    return v_first;
end
$$;
