-- Appends events to one or more streams, all or nothing. The heart of the log.
--
--   p_streams      the streams written to, each named once
--   p_expected     of each stream: an exact version, 0 = no stream, -1 = any, -2 = exists
--   p_stream_no    of each event: which of p_streams it goes to, from 1
--   p_ids … p_created_at   the events, in the order of their positions; p_tags holds text[] literals, null = none
--   p_skip_known   import: leave out events that are stored already with the same content
--   p_signal       signal inside this transaction (callers that signal after commit say false)
--
-- One row a stream, in the order of p_streams (with p_skip_known: only of streams that got events).
--
-- The order of the steps is what keeps the log right:
--   1. Stream rows are locked in name order, so that two appends can never wait for each other in a circle, and
--      position order equals version order within a stream, even in a long transaction of the caller's.
--   2. Ids are looked up under those locks: a repeated append returns its first result, whatever it expects now.
--   3. Expected versions are checked.
--   4. The horizon lock (see horizon_v1) is taken after last_value is read and before any position is drawn.
--   5. Positions are drawn in one statement of their own, in event order; a single larger statement would draw them
--      in join order and could invert versions.
create function @schema@.append_events_v1(
    p_streams text[], p_expected bigint[], p_stream_no int[],
    p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[], p_created_at timestamptz[],
    p_skip_known boolean default false, p_signal boolean default true)
returns table (stream text, first_version bigint, version bigint, first_position bigint, "position" bigint,
               idempotent boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_versions bigint[];
    v_positions bigint[];
    v_known bigint;
    v_row record;
    v_version bigint;
begin
    perform check_events_v1(p_streams, p_expected, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags,
                            p_created_at);

    v_versions := array_fill(0::bigint, array[cardinality(p_streams)]);
    for v_row in
        select s.name, s.no from unnest(p_streams) with ordinality s(name, no) order by s.name collate "C"
    loop
        select s.version into v_version from streams s where s.name = v_row.name for update;
        if not found then
            insert into streams (name, bucket) values (v_row.name, bucket_v1(v_row.name))
                on conflict (name) do nothing;
            select s.version into v_version from streams s where s.name = v_row.name for update;
        end if;
        v_versions[v_row.no] := v_version;
    end loop;

    select count(*) into v_known from events e where e.id = any (p_ids);
    if v_known > 0 and not p_skip_known then
        return query select * from repeated_append_v1(
            p_streams, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags);
        return;
    elsif v_known > 0 then
        perform check_known_events_v1(p_streams, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags);
        select coalesce(array_agg(n.stream_no order by n.ord), '{}'), array_agg(n.id order by n.ord),
               array_agg(n.type order by n.ord), array_agg(n.data order by n.ord),
               array_agg(n.metadata order by n.ord), array_agg(n.tags order by n.ord),
               array_agg(n.created_at order by n.ord)
          into p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at
          from unnest(p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at)
               with ordinality n(stream_no, id, type, data, metadata, tags, created_at, ord)
         where not exists (select from events e where e.id = n.id);
        if cardinality(p_stream_no) = 0 then
            return;
        end if;
    end if;

    for v_row in
        select s.name, s.expected, s.no from unnest(p_streams, p_expected) with ordinality s(name, expected, no)
    loop
        v_version := v_versions[v_row.no];
        if v_row.expected <> -1 and v_row.expected <> v_version and not (v_row.expected = -2 and v_version > 0) then
            raise exception 'stream % is at version %, not at the expected %', v_row.name, v_version, v_row.expected
                using errcode = 'ES001', detail = json_build_object(
                    'stream', v_row.name, 'expected', v_row.expected, 'actual', v_version)::text;
        end if;
    end loop;

    perform pg_advisory_xact_lock_shared(
        '@schema@.event_positions'::regclass::oid::bigint::bit(32)::int, (s.last_value & 2147483647)::int)
       from event_positions s;

    select array_agg(nextval('@schema@.event_positions')) into v_positions
      from generate_series(1, cardinality(p_ids));

    return query
    with written as (
        insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at,
                            recorded_at)
        select n.position, n.id, p_streams[n.stream_no],
               v_versions[n.stream_no] + row_number() over (partition by n.stream_no order by n.ord),
               bucket_v1(p_streams[n.stream_no]), n.type, n.data, n.metadata, coalesce(n.tags, '{}')::text[],
               n.created_at, clock_timestamp()
          from unnest(v_positions, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at)
               with ordinality n(position, stream_no, id, type, data, metadata, tags, created_at, ord)
        returning events.stream, events.version, events.position
    ), ends as (
        select w.stream, min(w.version) first_version, max(w.version) as version,
               min(w.position) first_position, max(w.position) as position
          from written w group by w.stream
    ), bumped as (
        update streams s set version = e.version from ends e where s.name = e.stream
    )
    select e.stream, e.first_version, e.version, e.first_position, e.position, false
      from ends e order by array_position(p_streams, e.stream);

    if p_signal then
        perform signal_v1();
    end if;
end
$$;
