-- Appends events to streams, or to none, all or nothing. The heart of the log.
--
--   p_streams      the streams written to, each named once; null = events without a stream
--   p_expected     of each stream: an exact version, 0 = no stream, -1 = any, -2 = exists
--   p_stream_no    of each event: which of p_streams it goes to, from 1; null = all to the first
--   p_ids … p_created_at   the events, in the order of their positions; p_tags holds text[] literals, null = none.
--                  p_metadata and p_tags may be null as a whole: none of the events has any
--   p_skip_known   import: leave out events that are stored already with the same content
--   p_signal       signal inside this transaction (callers that signal after commit say false)
--   p_condition    append only if no event after "after" matches any item (see check_condition_v1)
--   p_wait         how long to wait for locks, like '50ms'; 55P03 then. By default a condition waits for 5 s, because
--                  others wait for its stripes meanwhile, anything else without end; a lock_timeout of the session's own
--                  goes before both.
--
-- One row a stream, in the order of p_streams (with p_skip_known: only of streams that got events); events counts them.
--
-- The order of the steps is what keeps the log right, and appends from waiting for each other in a circle:
--   1. Stripes, in one sorted pass. Every event holds the stripes of its tags, type and stream and the "any" stripe,
--      shared; a condition holds exclusively one stripe of each of its items that every matching event holds. So while a
--      condition is judged no matching event is in flight, and unrelated appends pass.
--   2. Stream rows, in name order, so that position order equals version order within a stream, even in a long
--      transaction of the caller's.
--   3. Ids are looked up under those locks: a repeated append returns its first result, whatever it expects now.
--   4. Expected versions, then the condition, in a statement of its own: its snapshot is newer than the locks.
--   5. The horizon lock, positions and rows: write_events_v1.
--
-- Plans are kept for as long as a connection is, and those made while the log was small would scan it: no scans here,
-- in append_batch_v1 and append_one_v1, nor in what conditions ask, whoever asked it first.
create function @schema@.append_events_v1(
    p_streams text[], p_expected bigint[], p_stream_no int[],
    p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[], p_created_at timestamptz[],
    p_skip_known boolean default false, p_signal boolean default true, p_condition jsonb default null,
    p_wait text default null)
returns table (stream text, first_version bigint, version bigint, first_position bigint, "position" bigint,
               idempotent boolean, events bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_streams constant int := coalesce(cardinality(p_streams), 0);
    v_events constant int[] := array[coalesce(cardinality(p_ids), 0)];
    v_before bigint[] := array_fill(null::bigint, array[v_streams]);
    v_after bigint[];
    v_buckets smallint[] := array_fill(null::smallint, array[v_streams]);
    v_states text[] := array_fill(null::text, array[v_streams]);
    v_versions bigint[];
    v_positions bigint[];
    v_known boolean;
    v_broken bigint;
    v_timed constant boolean := current_setting('lock_timeout') = '0'
                                and (p_wait is not null or p_condition is not null);
    v_version bigint;
    v_bucket smallint;
    v_state text;
    v_no int;
    v_tag_events int[];
    v_tags text[];
begin
    p_stream_no := coalesce(p_stream_no, array_fill(1, v_events));
    p_metadata := coalesce(p_metadata, array_fill('{}'::json, v_events));
    p_tags := coalesce(p_tags, array_fill(null::text, v_events));
    perform check_events_v1(p_streams, p_expected, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags,
                            p_created_at);
    if cardinality(p_ids) > 1000 and not p_skip_known then
        raise exception 'an append takes at most 1000 events, this has %', cardinality(p_ids) using errcode = 'ES003';
    end if;
    if v_timed then
        perform set_config('lock_timeout', coalesce(p_wait, '5s'), true);
    end if;
    select f.tag_events, f.tags into v_tag_events, v_tags from flat_tags_v1(p_tags) f;
    perform lock_stripes_v1(p_streams, p_types, v_tags, p_condition);

    foreach v_no in array case when v_streams = 1 then array[1] else array(
        select s.no from unnest(p_streams) with ordinality s(name, no) order by s.name collate "C")::int[] end
    loop
        continue when p_streams[v_no] is null;
        select s.version, s.bucket, s.state into v_version, v_bucket, v_state
          from streams s where s.name = p_streams[v_no] for update;
        if not found then
            select l.version, l.bucket, l.state into v_version, v_bucket, v_state
              from lock_stream_v1(p_streams[v_no]) l;
        end if;
        v_before[v_no] := v_version;
        v_buckets[v_no] := v_bucket;
        v_states[v_no] := v_state;
    end loop;
    if v_timed then
        perform set_config('lock_timeout', '0', true);
    end if;

    v_known := exists (select from events e where e.id = any (p_ids));
    if v_known and not p_skip_known then
        return query select * from repeated_append_v1(
            p_streams, p_stream_no, p_ids, p_types, p_data, p_metadata, p_tags);
        return;
    elsif v_known then
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
        select f.tag_events, f.tags into v_tag_events, v_tags from flat_tags_v1(p_tags) f;
    end if;

    for i in 1 .. v_streams loop
        if not expected_matches_v1(p_expected[i], v_before[i], v_states[i]) then
            perform check_expected_v1(p_streams, p_expected);
        end if;
    end loop;
    if p_condition is not null then
        v_broken := broken_by_v1(p_condition);
        if v_broken is not null then
            raise exception 'the append condition failed: the event at position % matches it', v_broken
                using errcode = 'ES012', detail = json_build_object('position', v_broken)::text;
        end if;
    end if;

    if v_streams = 1 then
        v_versions := array(select v_before[1] + n from generate_series(1, cardinality(p_ids)) n);
        v_after := array[v_before[1] + cardinality(p_ids)];
    else
        v_versions := array_fill(null::bigint, array[cardinality(p_ids)]);
        v_after := v_before;
        for i in 1 .. cardinality(p_ids) loop
            v_no := p_stream_no[i];
            v_after[v_no] := v_after[v_no] + 1;
            v_versions[i] := v_after[v_no];
        end loop;
    end if;
    v_positions := write_events_v1(p_streams, v_buckets, p_stream_no, v_versions, p_ids, p_types, p_data, p_metadata,
                                   p_tags, p_created_at, v_tag_events, v_tags);
    if v_streams = 1 then
        update streams s set version = v_after[1], state = 'live' where s.name = p_streams[1];
    else
        update streams s set version = n.version, state = 'live'
          from unnest(p_streams, v_before, v_after) n(name, before, version)
         where s.name = n.name and n.version > n.before;
    end if;

    if p_signal then
        perform signal_v1();
    end if;
    return query
        select p_streams[n.stream_no], min(n.version), max(n.version), min(n.position), max(n.position), false, count(*)
          from unnest(p_stream_no, v_versions, v_positions) n(stream_no, version, position)
         group by n.stream_no order by n.stream_no;
end
$$;
