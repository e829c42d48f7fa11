-- Appends that have nothing to do with each other, in one round trip: each to one stream (or none), each with an
-- outcome of its own. One that loses never fails its neighbours, and none waits for a lock.
--
--   p_streams     of each append: its stream, null = none; no stream stands twice
--   p_expected    of each append: an exact version, 0 = no stream, -1 = any, -2 = exists
--   p_append_no   of each event: which append it belongs to, from 1, in rising order
--   p_metadata, p_tags   null = none of the events has any
--   p_conditions  of each append: its condition (see check_condition_v1), null = none
--
-- One row an append, in their order. outcome:
--   appended
--   refused    by its stream's version or state, or its condition. It may be the retry of an append that is stored: only
--              append_events_v1 looks ids up, so run it alone.
--   busy       somebody holds its stream, or a condition its stripes: run it alone.
--
-- The steps are those of append_events_v1 (which explains them), but nothing is waited for, so their order between
-- appends is free. What cannot be tried without waiting, a stream or an id that another transaction is just creating,
-- fails the whole batch by lock_timeout, and a stored id by its unique key: run its appends alone.
--
-- A transaction does not conflict with its own locks, and a condition cannot see rows that this batch has yet to insert.
-- So an append whose condition meets a stripe of another append of the batch, or the other way round, is busy too.
--
-- A loop that settles one stream at a time, then one insert for all: measured faster than one statement over all
-- streams, which also would draw positions in join order.
create function @schema@.append_batch_v1(
    p_streams text[], p_expected bigint[], p_append_no int[],
    p_ids uuid[], p_types text[], p_data json[], p_metadata json[], p_tags text[], p_created_at timestamptz[],
    p_conditions jsonb[] default null)
returns table (outcome text, first_version bigint, version bigint, first_position bigint, "position" bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
set lock_timeout = '10ms'
as $$
#variable_conflict use_column
declare
    c_stripes constant int := '@schema@.events'::regclass::oid::int;
    v_appends constant int := coalesce(cardinality(p_streams), 0);
    v_events constant int := coalesce(cardinality(p_ids), 0);
    v_conditional constant boolean := cardinality(array_remove(p_conditions, null)) > 0;
    v_any_free boolean;
    v_free boolean;
    v_all boolean := true;
    v_stripes int[];
    v_exclusive int[];
    v_held int[] := '{}';
    v_held_exclusive int[] := '{}';
    v_stripe int;
    v_name text;
    v_expected bigint;
    v_version bigint;
    v_bucket smallint;
    v_outcome text;
    v_outcomes text[] := array_fill('appended'::text, array[v_appends]);
    v_buckets smallint[] := array_fill(null::smallint, array[v_appends]);
    v_ends int[] := array_fill(0, array[v_appends]);
    v_versions bigint[] := array_fill(null::bigint, array[v_events]);
    v_positions bigint[];
    v_from int;
    v_to int := 0;
    v_tagged constant boolean := p_tags is not null;
    v_tag_events int[];
    v_all_tags text[];
    v_tags text[];
    v_first_tag int;
    v_last_tag int := 0;
begin
    p_metadata := coalesce(p_metadata, array_fill('{}'::json, array[v_events]));
    p_tags := coalesce(p_tags, array_fill(null::text, array[v_events]));
    perform check_events_v1(p_streams, p_expected, p_append_no, p_ids, p_types, p_data, p_metadata, p_tags,
                            p_created_at);
    if array_dims(p_conditions) <> array_dims(p_streams) then
        raise exception 'the conditions of a batch must be one for each append' using errcode = 'ES003';
    end if;
    if v_tagged then
        select f.tag_events, f.tags into v_tag_events, v_all_tags from flat_tags_v1(p_tags) f;
    end if;
    v_any_free := pg_try_advisory_xact_lock_shared(c_stripes, 128);

    for i in 1 .. v_appends loop
        v_from := v_to + 1;
        while p_append_no[v_to + 1] = i loop
            v_to := v_to + 1;
        end loop;
        v_ends[i] := v_to;
        v_name := p_streams[i];
        v_first_tag := v_last_tag + 1;
        while v_tag_events[v_last_tag + 1] <= v_to loop
            v_last_tag := v_last_tag + 1;
        end loop;
        v_tags := case when v_first_tag <= v_last_tag then v_all_tags[v_first_tag:v_last_tag] end;

        v_free := v_any_free
            and (v_name is null or pg_try_advisory_xact_lock_shared(c_stripes, stripe_v1(3, v_name)))
            and case when v_from = v_to and v_tags is null
                     then pg_try_advisory_xact_lock_shared(c_stripes, stripe_v1(2, p_types[v_to]))
                     else try_stripes_v1(p_types[v_from:v_to], v_tags) end;
        if v_conditional and v_free is true then
            v_stripes := stripes_v1(array[v_name], p_types[v_from:v_to], v_tags);
            v_exclusive := '{}';
            if p_conditions[i] is not null then
                perform check_condition_v1(p_conditions[i]);
                v_exclusive := condition_stripes_v1(p_conditions[i]);
            end if;
            v_free := not v_stripes && v_held_exclusive and not v_exclusive && v_held;
            if v_free then
                foreach v_stripe in array v_exclusive loop
                    v_free := v_free and pg_try_advisory_xact_lock(c_stripes, v_stripe);
                end loop;
            end if;
        end if;
        v_outcome := case when v_free is not true then 'busy'
                          when v_conditional and broken_by_v1(p_conditions[i]) is not null then 'refused'
                          else 'appended' end;
        if v_outcome = 'appended' and v_name is not null then
            v_expected := p_expected[i];
            update streams s set version = s.version + v_to - v_from + 1, state = 'live'
             where s.ctid = (select b.ctid from streams b where b.name = v_name for update skip locked)
               and expected_matches_v1(v_expected, s.version, s.state)
            returning s.version, s.bucket into v_version, v_bucket;
            if not found then
                select c.outcome, c.version, c.bucket into v_outcome, v_version, v_bucket
                  from create_stream_v1(v_name, v_expected, v_to - v_from + 1) c;
            end if;
            v_buckets[i] := v_bucket;
            for k in v_from .. v_to loop
                v_versions[k] := v_version + k - v_to;
            end loop;
        end if;
        if v_outcome = 'appended' and v_conditional then
            v_held := v_held || v_stripes;
            v_held_exclusive := v_held_exclusive || v_exclusive;
        end if;
        if v_outcome <> 'appended' then
            v_outcomes[i] := v_outcome;
            v_all := false;
        end if;
    end loop;
    if v_to < v_events then
        raise exception 'the events of a batch must be in the order of its appends' using errcode = 'ES003';
    end if;

    if not v_all then
        select array_agg(n.append_no order by n.ord), array_agg(n.version order by n.ord),
               array_agg(n.id order by n.ord), array_agg(n.type order by n.ord), array_agg(n.data order by n.ord),
               array_agg(n.metadata order by n.ord), array_agg(n.tags order by n.ord),
               array_agg(n.created_at order by n.ord)
          into p_append_no, v_versions, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at
          from unnest(p_append_no, v_versions, p_ids, p_types, p_data, p_metadata, p_tags, p_created_at)
               with ordinality n(append_no, version, id, type, data, metadata, tags, created_at, ord)
         where v_outcomes[n.append_no] = 'appended';
        if v_tagged then
            select f.tag_events, f.tags into v_tag_events, v_all_tags from flat_tags_v1(p_tags) f;
        end if;
    end if;
    if p_ids is not null then
        v_positions := write_events_v1(p_streams, v_buckets, p_append_no, v_versions, p_ids, p_types, p_data,
                                       p_metadata, p_tags, p_created_at, v_tag_events, v_all_tags);
    end if;

    -- Where an append ends among the events that were written.
    v_to := 0;
    for i in 1 .. v_appends loop
        v_from := case when i = 1 then 0 else v_ends[i - 1] end;
        if v_outcomes[i] = 'appended' then
            v_to := v_to + v_ends[i] - v_from;
            v_from := v_to - (v_ends[i] - v_from) + 1;
            outcome := 'appended';
            first_version := v_versions[v_from];
            version := v_versions[v_to];
            first_position := v_positions[v_from];
            "position" := v_positions[v_to];
        else
            outcome := v_outcomes[i];
            first_version := null;
            version := null;
            first_position := null;
            "position" := null;
        end if;
        return next;
    end loop;
end
$$;
