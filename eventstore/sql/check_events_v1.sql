-- Refuses (ES003, ES004) what the log must never hold, whoever calls: the same rules as the Python side.
-- Called by every append, so it is built for the case that nothing is wrong: cheap tests over all events, and only if
-- one of them fires the question what it is. (Without a search_path of its own for the same reason; its callers pin it.)
create function @schema@.check_events_v1(
    p_streams text[], p_expected bigint[], p_stream_no int[], p_ids uuid[], p_types text[], p_data json[],
    p_metadata json[], p_tags text[], p_created_at timestamptz[])
returns void
language plpgsql immutable
as $$
declare
    n constant int := coalesce(cardinality(p_ids), 0);
    v_streams constant int := coalesce(cardinality(p_streams), 0);
    v_dims constant text := format('[1:%s]', n);
    v_data text;
    v_metadata text;
    v_tags text[];
    v_tag text;
    v_fine boolean;
    v_problem text;
begin
    -- Nearly every append is one plain event, and passes by expressions alone, which cost a tenth of a query.
    if n = 1 and v_streams = 1 then
        v_data := p_data[1];
        v_metadata := p_metadata[1];
        if (case when p_streams[1] is null then p_expected[1] = -1
                 else length(p_streams[1]) between 1 and 512 and p_expected[1] >= -2 end and p_ids[1] is not null
            and cardinality(p_types) = 1 and length(p_types[1]) between 1 and 512
            and cardinality(p_stream_no) = 1 and p_stream_no[1] = 1 and cardinality(p_expected) = 1
            and cardinality(p_data) = 1 and cardinality(p_metadata) = 1 and cardinality(p_tags) = 1
            and cardinality(p_created_at) = 1
            and p_created_at[1] between '0001-01-01 00:00Z' and '9999-12-31 23:59:59.999999Z'
            and octet_length(v_data) <= 1000000 and not json_suspect_v1(v_data)
            and (v_metadata = '{}' or octet_length(v_metadata) < 40000 and json_typeof(p_metadata[1]) = 'object'
                                      and not json_suspect_v1(v_metadata))) then
            v_tags := p_tags[1]::text[];
            v_fine := v_tags is null or cardinality(v_tags) <= 64 and coalesce(array_ndims(v_tags), 1) = 1;
            if v_tags <> '{}' and v_fine then
                foreach v_tag in array v_tags loop
                    v_fine := v_fine and length(v_tag) between 1 and 256
                              and cardinality(array_positions(v_tags, v_tag)) = 1;
                end loop;
            end if;
            if v_fine then
                return;
            end if;
        end if;
    end if;
    if n = 0 then
        raise exception 'an append needs at least one event' using errcode = 'ES003';
    elsif (array_dims(p_ids) = v_dims and array_dims(p_types) = v_dims and array_dims(p_data) = v_dims
           and array_dims(p_metadata) = v_dims and array_dims(p_tags) = v_dims and array_dims(p_created_at) = v_dims
           and array_dims(p_stream_no) = v_dims and array_dims(p_streams) = format('[1:%s]', v_streams)
           and array_dims(p_expected) = array_dims(p_streams)) is not true then
        raise exception 'the arrays of an append must be of one length, in one dimension, counted from 1'
            using errcode = 'ES003';
    elsif exists (select from unnest(p_streams, p_expected) s(name, expected)
                   where s.name = '' or length(s.name) > 512 or s.expected is null or s.expected < -2
                      or s.name is null and s.expected <> -1) then
        raise exception 'stream names have 1 to 512 characters; expected versions are -2, -1, 0 or more'
            using errcode = 'ES003';
    elsif v_streams > 1 and (select count(distinct s.name) <> count(s.name) from unnest(p_streams) s(name))
          or n > 1 and (select count(distinct i.id) from unnest(p_ids) i(id)) <> n
          or p_ids[1] is null then
        raise exception 'an id is null, or an id or a stream stands twice in one append' using errcode = 'ES003';
    end if;

    perform from unnest(p_stream_no, p_types, p_data, p_metadata, p_tags, p_created_at)
                 e(stream_no, type, data, metadata, tags, created_at)
            cross join lateral (select e.data::text, e.metadata::text offset 0) t(data, metadata)
     where (e.stream_no between 1 and v_streams and length(e.type) between 1 and 512
            and e.created_at between '0001-01-01 00:00Z' and '9999-12-31 23:59:59.999999Z'
            and octet_length(t.data) + octet_length(t.metadata) <= 1048576
            and not json_suspect_v1(t.data)
            and (t.metadata = '{}' or json_typeof(e.metadata) = 'object' and not json_suspect_v1(t.metadata))
            -- Literals that are short and have one brace pass unparsed.
            and (e.tags is null or (length(e.tags) <= 128 or cardinality(e.tags::text[]) <= 64)
                 and (strpos(substr(e.tags, 2), '{') = 0 or coalesce(array_ndims(e.tags::text[]), 1) = 1))) is not true
     limit 1;
    if not found and cardinality(array_remove(p_tags, null)) > 0 then
        perform from (select unnest(f.tag_events), unnest(f.tags) from flat_tags_v1(p_tags) f) t(event, tag)
          group by t.event, t.tag
         having count(*) > 1 or t.tag is null or t.tag = '' or length(t.tag) > 256
         limit 1;
    end if;
    if not found then
        return;
    end if;

    select p.problem into v_problem
      from unnest(p_stream_no, p_types, p_data, p_metadata, p_tags, p_created_at)
           e(stream_no, type, data, metadata, tags, created_at)
     cross join lateral (select case
           when e.stream_no is null or e.stream_no not between 1 and v_streams
               then 'a stream number names no stream of this append'
           when e.created_at is null or not e.created_at between '0001-01-01 00:00Z' and '9999-12-31 23:59:59.999999Z'
               then 'created_at is null, or not in the years 1 to 9999'
           when e.type is null or e.type = '' or length(e.type) > 512 then 'event types have 1 to 512 characters'
           when e.data is null or e.metadata is null then 'data and metadata must be JSON'
           when json_typeof(e.metadata) <> 'object' then 'metadata must be a JSON object'
           when octet_length(e.data::text) + octet_length(e.metadata::text) > 1048576
               then 'data and metadata together exceed 1 MiB'
           when cardinality(e.tags::text[]) > 64 or array_ndims(e.tags::text[]) > 1
               then 'an event has at most 64 tags, in one dimension'
           when exists (select from unnest(e.tags::text[]) t(tag)
                         where t.tag is null or t.tag = '' or length(t.tag) > 256)
               then 'tags have 1 to 256 characters'
           when (select count(distinct t.tag) <> count(*) from unnest(e.tags::text[]) t(tag))
               then 'a tag stands twice'
           else coalesce(json_problem_v1(e.data::text), json_problem_v1(e.metadata::text))
           end) p(problem)
     where p.problem is not null
     limit 1;
    if found then
        raise exception '%', v_problem
            using errcode = case when v_problem like '% exceed %' then 'ES004' else 'ES003' end;
    end if;
end
$$;
