-- Trigger function: an event may be updated only into exactly its stub, and only while its stream's limits hide it.
-- A stub is the event without data, metadata and tags; everything else stays, columns of later revisions too.
create function @schema@.stub_event_v1() returns trigger
language plpgsql
set search_path = pg_catalog, @schema@, pg_temp
as $$
declare
    v_stub events;
    v_hidden boolean;
begin
    v_stub := old;
    v_stub.data := null;
    v_stub.metadata := '{}';
    v_stub.tags := '{}';
    -- Read in a statement of its own, so that limits that were widened while the update ran count. What the event itself
    -- tells nearly always suffices; looking for the boundary of max_age takes ten times as long.
    select coalesce(old.version < s.truncate_before, false) or coalesce(old.version <= s.version - s.max_count, false)
        or coalesce(extract(epoch from clock_timestamp() - old.recorded_at) > s.max_age, false)
      into v_hidden
      from streams s where s.name = old.stream;
    if v_hidden is not true then
        v_hidden := old.version < first_visible_v1(old.stream);
    end if;
    -- Compared by their bytes, for json knows no equality.
    if old.data is null or new *<> v_stub or v_hidden is not true then
        raise exception 'UPDATE of events is refused: the log is append-only' using errcode = 'ES009',
            hint = 'Only scavenging removes the content of events, of those that their stream''s limits hide.';
    end if;
    return new;
end
$$;
