-- How many events after p_after, up to p_upto, a selector matches (null: every event), by partition; partitions without
-- any are left out. The pool has as many partitions as there are checkpoints, and what one of them has settled does not
-- count: what lies at or below its checkpoint, or at or below the floor of its bucket (p_floors null: there are none).
--
-- It counts what read_events_v1 would read, by the very statement. The caller goes through the log in windows, so that
-- no call runs long.
create function @schema@.count_matches_v1(
    p_selector jsonb, p_after bigint, p_upto bigint, p_checkpoints bigint[] default '{0}',
    p_floors bigint[] default null)
returns table (partition int, matches bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    return query execute
        'select m.bucket % cardinality($9), count(*)
           from (' || read_events_sql_v1(p_selector, null, null, false, null) || ') m
          where m.position > $9[m.bucket % cardinality($9) + 1]'
        || case when p_floors is null then '' else ' and m.position > $10[m.bucket + 1]' end
        || ' group by 1'
        using p_selector, p_after, p_upto, null::timestamptz, null::timestamptz, null::int, null::int, null::int,
              p_checkpoints, p_floors;
end
$$;
