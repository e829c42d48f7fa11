-- Refuses (ES003, ES004) what the log must never hold, whoever calls: the same rules as the Python side.
create function @schema@.check_events_v1(
    p_streams text[], p_expected bigint[], p_stream_no int[], p_ids uuid[], p_types text[], p_data json[],
    p_metadata json[], p_tags text[], p_created_at timestamptz[])
returns void
language plpgsql immutable
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    n constant int := coalesce(cardinality(p_ids), 0);
    v_problem text;
begin
    if n = 0 then
        raise exception 'an append needs at least one event' using errcode = 'ES003';
    end if;
    if p_streams is null or array[cardinality(p_types), cardinality(p_data), cardinality(p_metadata), cardinality(p_tags),
             cardinality(p_created_at), cardinality(p_stream_no)] is distinct from array_fill(n, array[6])
       or cardinality(p_expected) is distinct from cardinality(p_streams) then
        raise exception 'the arrays of an append must be of one length' using errcode = 'ES003';
    end if;
    if exists (select from unnest(p_streams, p_expected) s(name, expected)
                where s.name is null or s.name = '' or length(s.name) > 512
                   or s.expected is null or s.expected < -2) then
        raise exception 'stream names have 1 to 512 characters; expected versions are -2, -1, 0 or more'
            using errcode = 'ES003';
    end if;
    if (select count(distinct s.name) from unnest(p_streams) s(name)) <> cardinality(p_streams)
       or (select count(distinct i.id) from unnest(p_ids) i(id)) <> n then
        raise exception 'an id is null, or an id or a stream stands twice in one append' using errcode = 'ES003';
    end if;
    select p.problem into v_problem
      from unnest(p_stream_no, p_types, p_data, p_metadata, p_tags, p_created_at)
           e(stream_no, type, data, metadata, tags, created_at)
     cross join lateral (select case
           when e.stream_no is null or e.stream_no not between 1 and cardinality(p_streams)
               then 'a stream number names no stream of this append'
           when e.created_at is null or not e.created_at between '0001-01-01 00:00Z' and '9999-12-31 23:59:59.999999Z'
               then 'created_at is null, or not in the years 1 to 9999'
           when e.type is null or e.type = '' or length(e.type) > 512 then 'event types have 1 to 512 characters'
           when e.data is null or e.metadata is null then 'data and metadata must be JSON'
           when json_typeof(e.metadata) <> 'object' then 'metadata must be a JSON object'
           when octet_length(e.data::text) + octet_length(e.metadata::text) > 1048576
               then 'data and metadata together exceed 1 MiB'
           else coalesce(json_problem_v1(e.data::text), json_problem_v1(e.metadata::text), tags_problem_v1(e.tags))
           end) p(problem)
     where p.problem is not null
     limit 1;
    if found then
        raise exception '%', v_problem
            using errcode = case when v_problem like '% exceed %' then 'ES004' else 'ES003' end;
    end if;
end
$$;
