-- Turns the events of a stream after p_after and up to p_upto into stubs, and removes their tags. Returns how many, and
-- the bytes their content took on disk. p_dry_run only counts.
--
-- Locks the rows of these events and nothing else, which no append, reader or subscription waits for. Not the stream's
-- row: an append would wait for it. Whether the events are hidden is for the trigger to say (stub_event_v1), which also
-- keeps what the chain needs; turning that on waits for scavenging by the lock 129 (set_chain_v1).
-- Runs with the rights of scavenge_v1, which calls it: the owner's.
create function @schema@.scavenge_range_v1(
    p_stream text, p_after bigint, p_upto bigint, p_dry_run boolean, out removed bigint, out freed bigint)
language plpgsql volatile
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_tags text[];
    v_tagged bigint[];
begin
    select count(*), coalesce(sum(pg_column_size(e.data) + pg_column_size(e.metadata) + pg_column_size(e.tags)), 0)
      into removed, freed
      from events e
     where e.stream = p_stream and e.version > p_after and e.version <= p_upto and e.data is not null;
    if p_dry_run or removed = 0 then
        return;
    end if;
    perform pg_advisory_xact_lock_shared('@schema@.events'::regclass::oid::int, 129);
    -- Kept aside, for the key of event_tags begins with the tag, and the update forgets it.
    select array_agg(t.tag), array_agg(e.position) into v_tags, v_tagged
      from events e cross join unnest(e.tags) t(tag)
     where e.stream = p_stream and e.version > p_after and e.version <= p_upto and e.data is not null;
    update events e set data = null, metadata = '{}', tags = '{}'
     where e.stream = p_stream and e.version > p_after and e.version <= p_upto and e.data is not null;
    -- Fewer, if another scavenging was at the same events and was faster.
    get diagnostics removed = row_count;
    delete from event_tags g using unnest(v_tags, v_tagged) n(tag, position)
     where g.tag = n.tag and g.position = n.position;
end
$$;
