-- For psql and other languages: appends to one stream, or to none (null), signalling inside the transaction.
--
--   select * from eventstore.append_events('order-1', '[{"type": "OrderPlaced", "data": {"total": 9}}]', expected => 0);
--
-- Each event is an object: type, and optionally data, metadata (object), tags (array), id (uuid), created_at.
-- expected: an exact version, 0 = no stream, -1 = any, -2 = exists.
-- condition: append only if no event matches, {"items": [{"types": [...], "tags": [...], "stream": "..."}], "after": 12}.
create function @schema@.append_events(
    stream_name text, events json, expected bigint default -1, condition jsonb default null)
returns table (stream text, first_version bigint, version bigint, first_position bigint, "position" bigint,
               idempotent boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_variable
declare
    v_unknown text;
    v record;
begin
    -- Operators that decode text trip over what json_problem_v1 would name later.
    begin
        if events is null or json_typeof(events) <> 'array' then
            raise exception 'events must be a JSON array of objects' using errcode = 'ES003';
        end if;
        if exists (select from json_array_elements(events) e(event) where json_typeof(e.event) <> 'object') then
            raise exception 'events must be a JSON array of objects' using errcode = 'ES003';
        end if;
        select k.key into v_unknown from json_array_elements(events) e(event), json_object_keys(e.event) k(key)
         where k.key not in ('type', 'data', 'metadata', 'tags', 'id', 'created_at') limit 1;
        if found then
            raise exception 'an event has no field %', quote_literal(v_unknown) using errcode = 'ES003';
        end if;
        if exists (select from json_array_elements(events) e(event)
                    where json_typeof(e.event -> 'tags') not in ('array', 'null')
                       or json_typeof(e.event -> 'type') <> 'string') then
            raise exception 'type must be a string, tags an array of strings' using errcode = 'ES003';
        end if;
        if exists (select from json_array_elements(events) e(event)
                    cross join json_array_elements(nullif((e.event -> 'tags')::text, 'null')::json) t(tag)
                    where json_typeof(t.tag) <> 'string') then
            raise exception 'tags must be an array of strings' using errcode = 'ES003';
        end if;
        select array_agg(1 order by e.ord) stream_no,
               array_agg(coalesce((e.event ->> 'id')::uuid, uuid_v7_v1()) order by e.ord) ids,
               array_agg(e.event ->> 'type' order by e.ord) types,
               array_agg(coalesce(e.event -> 'data', 'null') order by e.ord) data,
               array_agg(coalesce(nullif((e.event -> 'metadata')::text, 'null')::json, '{}') order by e.ord) metadata,
               array_agg(case when json_typeof(e.event -> 'tags') = 'array' then
                             array(select t.tag from json_array_elements_text(e.event -> 'tags') t(tag))::text
                         end order by e.ord) tags,
               array_agg(coalesce((e.event ->> 'created_at')::timestamptz, now()) order by e.ord) created_at
          into v
          from json_array_elements(events) with ordinality e(event, ord);
    exception when untranslatable_character or invalid_text_representation or datetime_field_overflow
                   or invalid_datetime_format or invalid_time_zone_displacement_value then
        raise exception '%', sqlerrm using errcode = 'ES003';
    end;
    return query
        select a.stream, a.first_version, a.version, a.first_position, a.position, a.idempotent
          from append_events_v1(array[stream_name], array[expected], v.stream_no, v.ids, v.types, v.data, v.metadata,
                                v.tags, v.created_at, p_condition => condition) a;
end
$$;
